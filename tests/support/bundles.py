# SPDX-License-Identifier: Apache-2.0
"""OCI runtimes to test by their command line, and bundles with a busybox root filesystem for them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.pace import PACE

BUSYBOX = "/bin/busybox"
COMMANDS = {
    "orlop-runc": os.path.join(os.path.dirname(sys.executable), "orlop-runc"),
    "runc": "/usr/sbin/runc",
    "crun": "/usr/bin/crun",
}
_APPLETS = """
sh cat ls id true false sleep echo env pwd mount umount mkdir rm touch stat hostname tty stty grep readlink
kill ps test head tail chmod chown ln cp mknod ulimit sysctl ip nc dd sed awk printf
"""
# crun refuses both versions of control groups at once: it gets a mount namespace with version 1 alone.
_VERSION_1_ALONE = [
    "unshare", "--mount", "--propagation", "slave", "sh", "-c", 'umount /sys/fs/cgroup/unified; exec "$@"', "sh",
]  # fmt: skip
_ids = itertools.count(1)


def make_rootfs(path: str) -> None:
    """A root filesystem of busybox alone; the program is a hard link where that is possible."""
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "home"):
        os.makedirs(f"{path}/{name}")
    os.chmod(f"{path}/tmp", 0o1777)
    shutil.copy(BUSYBOX, f"{path}/bin/busybox")
    for name in _APPLETS.split():
        os.symlink("busybox", f"{path}/bin/{name}")
    with open(f"{path}/etc/passwd", "w", encoding="utf-8") as file:
        file.write(
            "root:x:0:0:root:/root:/bin/sh\n1000:x:0:0:trap:/trap:/bin/sh\njo:x:1000:1000::/home/jo:/bin/sh\n"
        )


def example_spec() -> dict[str, Any]:
    """The spec that `runc spec` writes, for a process without a terminal that may write its root."""
    from orlop.codec import encode
    from orlop.runc.spec import example

    spec: dict[str, Any] = json.loads(encode(example()))
    spec["ociVersion"] = "1.0.2"
    spec["process"]["terminal"] = False
    spec["root"]["readonly"] = False
    return spec


class Result:
    """What a command gave."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def ok(self) -> str:
        """Its output; asserts that it succeeded."""
        assert self.status == 0, f"exit status {self.status}: {self.err}{self.out}"
        return self.out

    @property
    def message(self) -> str:
        """What it logged on standard error, unquoted."""
        return self.err.replace('\\"', '"')


class Bundle:
    """A bundle directory; change `spec`, then run."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.rootfs = f"{path}/rootfs"
        make_rootfs(self.rootfs)
        self.spec = example_spec()

    @property
    def process(self) -> dict[str, Any]:
        """The spec's process."""
        process: dict[str, Any] = self.spec["process"]
        return process

    @property
    def linux(self) -> dict[str, Any]:
        """The spec's linux part."""
        linux: dict[str, Any] = self.spec["linux"]
        return linux

    def args(self, *args: str) -> Bundle:
        """Set what runs; one argument is a shell script."""
        self.process["args"] = ["sh", "-c", args[0]] if len(args) == 1 else list(args)
        return self

    def mount(self, destination: str, kind: str, source: str, *options: str) -> Bundle:
        """Add a mount."""
        self.spec["mounts"].append(
            {"destination": destination, "type": kind, "source": source, "options": list(options)}
        )
        return self

    def without_namespace(self, kind: str) -> Bundle:
        """Leave out a namespace."""
        self.linux["namespaces"] = [n for n in self.linux["namespaces"] if n["type"] != kind]
        return self

    def write(self) -> None:
        """Write config.json."""
        with open(f"{self.path}/config.json", "w", encoding="utf-8") as file:
            json.dump(self.spec, file)


def command_of(name: str) -> list[str]:
    """How a runtime is run: where crun would refuse both versions of control groups, with the first alone."""
    hybrid = name == "crun" and os.path.ismount("/sys/fs/cgroup/unified")
    return [*(_VERSION_1_ALONE if hybrid else []), COMMANDS[name]]


class Runtime:
    """A runtime with a state directory of its own; everything left is removed at `close`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.base = tempfile.mkdtemp(prefix="orlop-oci-")
        self.root = f"{self.base}/state"
        self.command = command_of(name)
        self.ids: list[str] = []

    @property
    def is_ours(self) -> bool:
        """Whether it is the one under test, not an original."""
        return self.name == "orlop-runc"

    def bundle(self) -> Bundle:
        """A new bundle."""
        path = f"{self.base}/bundle{next(_ids)}"
        os.mkdir(path)
        return Bundle(path)

    def new_id(self, bundle: Bundle) -> str:
        """An id that is not taken, with a control group of its own."""
        container = f"orlop-oci-{os.getpid()}-{next(_ids)}"
        bundle.linux["cgroupsPath"] = f"/orlop-oci/{container}"
        self.ids.append(container)
        return container

    def __call__(self, *args: str, stdin: str | None = None, **options: Any) -> Result:
        """Run one command of the runtime."""
        # A file, not a pipe, for the output: a container that stays keeps it open.
        with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
            done = subprocess.run(
                [*self.command, "--root", self.root, *args],
                input=None if stdin is None else stdin.encode(),
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=out,
                stderr=err,
                timeout=30 * PACE,
                check=False,
                **options,
            )
            out.seek(0)
            err.seek(0)
            return Result(done.returncode, out.read().decode(), err.read().decode())

    def run(self, bundle: Bundle, *flags: str, stdin: str | None = None, **options: Any) -> Result:
        """run in the foreground."""
        container = self.new_id(bundle)
        bundle.write()
        return self("run", "--bundle", bundle.path, *flags, container, stdin=stdin, **options)

    def create(self, bundle: Bundle, *flags: str, **options: Any) -> str:
        """create; the id."""
        container = self.new_id(bundle)
        bundle.write()
        self("create", "--bundle", bundle.path, *flags, container, **options).ok()
        return container

    def start(self, bundle: Bundle, *flags: str, **options: Any) -> str:
        """run detached; the id."""
        container = self.new_id(bundle)
        bundle.write()
        self("run", "--detach", "--bundle", bundle.path, *flags, container, **options).ok()
        return container

    def state(self, container: str) -> dict[str, Any]:
        """The state."""
        state: dict[str, Any] = json.loads(self("state", container).ok())
        return state

    def await_status(self, container: str, status: str) -> None:
        """Wait until the container has this status."""
        eventually(lambda: self.state(container)["status"] == status, f"{container} is not {status}")

    def close(self) -> None:
        """Remove what the test made, and see that nothing is left."""
        for container in self.ids:
            self("delete", "--force", container)
        left = os.listdir(self.root) if os.path.isdir(self.root) else []
        left = [name for name in left if name != ".cache"]  # crun 1.9 and later keep compiled filters there
        groups = [path for container in self.ids for path in _control_groups(container)]
        mounts = [line for line in _mounts() if self.base in line]
        shutil.rmtree(self.base)
        for path in groups:
            with contextlib.suppress(OSError):
                os.rmdir(path)
        for directory in os.listdir("/sys/fs/cgroup"):
            with contextlib.suppress(OSError):  # not one of version 1, or in use by another test run
                os.rmdir(f"/sys/fs/cgroup/{directory}/orlop-oci")
        assert not left, f"state left: {left}"
        assert not mounts, f"mounts left: {mounts}"
        assert not groups, f"control groups left: {groups}"


def give_real_time() -> None:
    """Let the group above those of the tests have real time; skips where the test's own group has none to give."""
    parent = "/sys/fs/cgroup/cpu/orlop-oci"
    with open(f"{os.path.dirname(parent)}/cpu.rt_runtime_us", encoding="utf-8") as file:
        if file.read().strip() == "0":
            pytest.skip("the control group of this test has no real time")
    os.makedirs(parent, exist_ok=True)
    with open(f"{parent}/cpu.rt_runtime_us", "w", encoding="utf-8") as file:
        file.write("200000")  # enough for groups just removed, which count for a while yet


def _control_groups(container: str) -> Iterator[str]:
    for directory in ("", *os.listdir("/sys/fs/cgroup")):
        path = f"/sys/fs/cgroup/{directory}/orlop-oci/{container}"
        if os.path.isdir(path):
            yield path


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return file.readlines()


def eventually(condition: Callable[[], bool], message: str, timeout: float = 10) -> None:
    """Wait for what another process brings about and gives no event for."""
    deadline = time.monotonic() + timeout * PACE
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.01)
