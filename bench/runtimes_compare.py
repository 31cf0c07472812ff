# SPDX-License-Identifier: Apache-2.0
"""OCI runtimes side by side: each command of runc, crun and orlop-runc over the same bundle, in turn.

Prints medians in milliseconds and ratios to runc, by the clock and by processor time, which tells more where other
work is going on; the library in this process (create, start, wait, delete) beside crun's whole command. For root.
"""

import argparse
import glob
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

from report import timed

from orlop.codec import encode
from orlop.libcontainer import Container, CreateOptions, Stdio
from orlop.oci.runtime import decode_spec
from orlop.runc.spec import example

OURS = "orlop-runc"
LIBRARY = "library"
# An interpreter that keeps no byte code compiles its modules every time.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
_APPLETS = ("true", "sleep", "sh")
# crun refuses both versions of control groups at once.
_VERSION_1_ALONE = "mount --make-rslave / && umount /sys/fs/cgroup/unified"


class Runtimes:
    """The commands, with a state directory each, and the bundle that they share."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.bundle = directory / "bundle"
        self.directory = directory
        self.commands = {
            name: [path, "--root", str(directory / name)]
            for name in ("runc", "crun", OURS)
            if (path := shutil.which(name))
        }
        self._null = os.open("/dev/null", os.O_RDWR)
        binaries = self.bundle / "rootfs" / "bin"
        binaries.mkdir(parents=True)
        for name in ("proc", "sys", "dev"):
            (self.bundle / "rootfs" / name).mkdir()
        shutil.copy("/bin/busybox", binaries / "busybox")
        for name in _APPLETS:
            (binaries / name).symlink_to("busybox")

    def program(self, *args: str) -> None:
        """Have the bundle run this."""
        spec = example()
        assert spec.process is not None and spec.linux is not None
        spec.oci_version = "1.0.2"
        spec.process.terminal = False
        spec.process.args = list(args)
        spec.linux.cgroups_path = "/orlop-bench/one"
        (self.bundle / "config.json").write_bytes(encode(spec))

    def __call__(self, name: str, *words: str) -> None:
        """One command; raises CalledProcessError when it fails."""
        command = [*self.commands[name], *words]
        subprocess.run(command, stdin=self._null, stdout=self._null, env=_ENVIRONMENT, check=True)

    def run(self, name: str) -> None:
        """The container's whole life in one command."""
        self(name, "run", "--bundle", str(self.bundle), "one")

    def in_process(self) -> None:
        """The same by the library, in this process."""
        spec = decode_spec((self.bundle / "config.json").read_bytes())
        options = CreateOptions(stdio=Stdio(self._null, self._null, self._null))
        container = Container.create(str(self.directory / LIBRARY), "one", str(self.bundle), spec, options)
        container.start()
        os.waitpid(container.init_pid, 0)
        container.delete()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="bench/runtimes", description=__doc__)
    parser.add_argument("-n", type=int, default=30, help="runs of each (default: %(default)s)")
    options = parser.parse_args()
    if os.environ.get("_ALONE") is None and os.path.ismount("/sys/fs/cgroup/unified"):
        script = f'{_VERSION_1_ALONE}; exec "$@"'
        again = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, *sys.argv]
        os.execvpe("unshare", again, os.environ | {"_ALONE": "1"})
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        runtimes = Runtimes(pathlib.Path(directory).resolve())
        for command in runtimes.commands.values():
            print(
                subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout.split(
                    "\n"
                )[0]
            )
        print(f"{options.n} of each, in turn; medians in ms (fastest), ratio of medians to runc's\n")
        try:
            _whole(runtimes, options.n)
            _single(runtimes, options.n)
        finally:
            for name in runtimes.commands:
                runtimes(name, "delete", "--force", "one")
            if "_ALONE" in os.environ:
                # Where version 2 was mounted runc has made a directory of a tmpfs, with files in it.
                shutil.rmtree("/sys/fs/cgroup/unified/orlop-bench", ignore_errors=True)
            for group in glob.glob("/sys/fs/cgroup/*/orlop-bench"):
                os.rmdir(group)


def _whole(runtimes: Runtimes, runs: int) -> None:
    """`run` of true by the clock and the processor, and the library."""
    runtimes.program("true")
    wall: dict[str, list[float]] = {name: [] for name in (*runtimes.commands, LIBRARY)}
    processor: dict[str, list[float]] = {name: [] for name in wall}
    for index in range(runs + 1):
        for name in wall:
            action = runtimes.in_process if name == LIBRARY else partial(runtimes.run, name)
            before = _processor(own=name == LIBRARY)
            seconds = timed(action)
            if index:  # the first of each is a warm-up
                wall[name].append(seconds)
                processor[name].append(_processor(own=name == LIBRARY) - before)
    _row("run true: wall", wall)
    _row("run true: CPU", processor)


def _processor(*, own: bool) -> float:
    """Seconds of processor time of the children that have been collected, and of this process."""
    usage = [
        resource.getrusage(resource.RUSAGE_CHILDREN),
        *([resource.getrusage(resource.RUSAGE_SELF)] if own else []),
    ]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def _single(runtimes: Runtimes, runs: int) -> None:
    """Each command of a shim's by itself, by the clock and by the processor time of what has been collected."""
    runtimes.program("sleep", "1000")
    commands: dict[str, Callable[[str], object]] = {
        "create": lambda name: runtimes(name, "create", "--bundle", str(runtimes.bundle), "one"),
        "start": lambda name: runtimes(name, "start", "one"),
        "state": lambda name: runtimes(name, "state", "one"),
        "exec true": lambda name: runtimes(name, "exec", "one", "/bin/true"),
        "kill": lambda name: runtimes(name, "kill", "one", "KILL"),
        "delete": lambda name: runtimes(name, "delete", "one"),
    }
    wall: dict[str, dict[str, list[float]]] = {
        command: {name: [] for name in runtimes.commands} for command in commands
    }
    processor: dict[str, dict[str, list[float]]] = {
        command: {name: [] for name in runtimes.commands} for command in commands
    }
    for index in range(runs + 1):
        for name in runtimes.commands:
            for command, action in commands.items():
                if command == "delete":
                    _await_end(runtimes, name)
                before = _processor(own=False)
                seconds = timed(partial(action, name))
                if index:
                    wall[command][name].append(seconds)
                    processor[command][name].append(_processor(own=False) - before)
    for kind, found in (("wall", wall), ("CPU", processor)):
        for command, values in found.items():
            _row(f"{command}: {kind}", values)


def _await_end(runtimes: Runtimes, name: str) -> None:
    """Until the runtime takes the container for stopped."""
    deadline = time.monotonic() + 20
    while (
        b"stopped"
        not in subprocess.run([*runtimes.commands[name], "state", "one"], capture_output=True, check=True).stdout
    ):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name}: the container does not stop")


def _row(what: str, times: dict[str, list[float]]) -> None:
    base = statistics.median(times["runc"]) if "runc" in times else None
    cells = []
    for name, values in times.items():
        median = statistics.median(values)
        ratio = f" x{median / base:.2f}" if base else ""
        cells.append(f"{name} {1000 * median:.1f} ({1000 * min(values):.1f}){ratio}")
    print(f"{what:16}" + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
