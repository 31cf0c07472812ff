# SPDX-License-Identifier: Apache-2.0
"""An ordinary user with subordinate ids, known in a private mount namespace only."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import Any

from support.bundles import COMMANDS, Bundle, Result, Runtime, eventually

UID = 64_321
FIRST, COUNT = 700_000, 65_536  # the subordinate ids
_NAME = "orlop-test-user"
_FILES = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\n{_NAME}:x:{UID}:{UID}::/nonexistent:/bin/sh\n",
    "group": f"root:x:0:\n{_NAME}:x:{UID}:\n",
    "subuid": f"{_NAME}:{FIRST}:{COUNT}\n",
    "subgid": f"{_NAME}:{FIRST}:{COUNT}\n",
}
_ENTER = 'for name in passwd group subuid subgid; do mount --bind "$0/$name" /etc/$name; done; exec "$@"'
# As on a host of version 2 only.
_ENTER_UNIFIED = "for d in /sys/fs/cgroup/*; do case $d in */unified) ;; *) umount $d;; esac; done; " + _ENTER
# crun runs with either version of control groups, not with both.
_ENTER_FOR_CRUN = "umount /sys/fs/cgroup/unified; " + _ENTER


class UserRuntime(Runtime):
    """A runtime whose every command is run by the ordinary user."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.files = tempfile.mkdtemp(prefix="orlop-user-", dir=self.base)
        self.unified = False  # without the control groups of version 1
        self.cgroup = ""  # below each hierarchy, where the user's processes are put
        for file, text in _FILES.items():
            with open(f"{self.files}/{file}", "w", encoding="utf-8") as out:
                out.write(text)
        os.chmod(self.files, 0o755)
        os.chmod(self.base, 0o755)
        self.runtime_directory = f"{self.base}/xdg"
        self.root = f"{self.base}/state"
        for directory in (self.runtime_directory, self.root):
            os.mkdir(directory)
            os.chown(directory, UID, UID)

    def bundle(self) -> Bundle:
        """A bundle that belongs to the user, with the spec of `spec --rootless`."""
        made = super().bundle()
        for directory, names, files in os.walk(made.path):
            for entry in (".", *names, *files):
                os.chown(f"{directory}/{entry}", UID, UID, follow_symlinks=False)
        made.spec = rootless_spec()
        return made

    def new_id(self, bundle: Bundle) -> str:
        """An id, without a control group of its own in the spec."""
        container = super().new_id(bundle)
        del bundle.linux["cgroupsPath"]
        return container

    def as_user(self, *command: str) -> list[str]:
        """The command line that runs `command` as the user."""
        words = [
            "unshare", "--mount", "--propagation", "private", "sh", "-c",
            _ENTER_UNIFIED if self.unified else _ENTER_FOR_CRUN if self.name == "crun" else _ENTER, self.files,
            "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
            "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"XDG_RUNTIME_DIR={self.runtime_directory}",
        ]  # fmt: skip
        inner = "/caller" if self.unified else ""
        enter = [f'echo $$ > "{path}{inner}/cgroup.procs"; ' for path in self.groups()]
        return ["sh", "-c", "".join(enter) + 'exec "$@"', "sh", *words, *command]

    def groups(self) -> list[str]:
        """The control groups that the user's processes are in."""
        found = []
        for hierarchy in os.listdir("/sys/fs/cgroup") if self.cgroup else []:
            path = f"/sys/fs/cgroup/{hierarchy}/{self.cgroup}"
            if os.path.isdir(path) and os.path.realpath(path) not in [os.path.realpath(p) for p in found]:
                found.append(path)
        return found

    def delegate(self, hierarchies: tuple[str, ...]) -> None:
        """Give the user a control group in each of these version 1 hierarchies."""
        self.cgroup = f"orlop-oci-user-{os.getpid()}"
        for hierarchy in hierarchies:
            path = f"/sys/fs/cgroup/{hierarchy}/{self.cgroup}"
            os.mkdir(path)
            for name in (".", "cgroup.procs", "tasks"):
                os.chown(f"{path}/{name}", UID, UID)

    def delegate_unified(self) -> None:
        """Give the user a group of version 2 as systemd delegates one, and put its processes into one below."""
        self.unified = True
        self.cgroup = f"orlop-oci-user-{os.getpid()}"
        path = f"/sys/fs/cgroup/unified/{self.cgroup}"
        os.makedirs(f"{path}/caller")
        for directory in (path, f"{path}/caller"):
            for name in (".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
                os.chown(f"{directory}/{name}", UID, UID)

    def __call__(self, *args: str, stdin: str | None = None, **options: Any) -> Result:
        with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
            done = subprocess.run(
                self.as_user(COMMANDS[self.name], "--root", self.root, *args),
                input=None if stdin is None else stdin.encode(),
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=out,
                stderr=err,
                timeout=30,
                check=False,
                **options,
            )
            out.seek(0)
            err.seek(0)
            return Result(done.returncode, out.read().decode(), err.read().decode())

    def close(self) -> None:
        """Remove the delegated groups after everything else."""
        groups = self.groups()
        super().close()
        for path in [*(f"{path}/caller" for path in groups if self.unified), *groups]:
            eventually(lambda path=path: _removed(path), f"{path} is in use")  # type: ignore[misc]


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True


def rootless_spec() -> dict[str, Any]:
    """The spec that `spec --rootless` writes for the user, for a process without a terminal."""
    import json

    from orlop.codec import encode
    from orlop.runc.spec import example

    spec: dict[str, Any] = json.loads(encode(example(rootless=True)))
    spec["ociVersion"] = "1.0.2"
    spec["process"]["terminal"] = False
    spec["root"]["readonly"] = False
    for kind in ("uidMappings", "gidMappings"):
        spec["linux"][kind] = [{"containerID": 0, "hostID": UID, "size": 1}]
    return spec


def map_subordinate(spec: dict[str, Any]) -> None:
    """Map the user's subordinate ids too, from 1 on."""
    for kind in ("uidMappings", "gidMappings"):
        spec["linux"][kind].append({"containerID": 1, "hostID": FIRST, "size": COUNT})
