# SPDX-License-Identifier: Apache-2.0
"""The two engines that are compared, each private: own sockets, directories and network namespace."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Protocol

_READY_SECONDS = 30
_STOP_SECONDS = 20


class Engine(Protocol):
    """What a workload needs to know of an engine."""

    name: str
    host: str
    netns: str
    """Name of the engine's network namespace, as ip-netns(8) knows it."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def daemons(self) -> dict[str, list[int]]:
        """Process ids by role, without those that belong to one container."""
        ...

    def per_container(self) -> list[int]:
        """Processes of the engine that exist once a container (shims, port proxies)."""
        ...

    def proxies(self) -> list[int]:
        """Processes that carry traffic to published ports."""
        ...


class _Private:
    """Directories, a network namespace and processes that end with the engine."""

    def __init__(self, name: str, directory: pathlib.Path) -> None:
        self.name = name
        self.directory = directory
        self.host = f"unix://{directory}/docker.sock"
        self.netns = f"bench-{name}-{os.getpid()}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, mode=0o700)
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        subprocess.run(["ip", "-n", self.netns, "link", "set", "lo", "up"], check=True)

    def _spawn(self, role: str, *command: str) -> None:
        # Not `ip netns exec`: that would mount a new /sys and hide the control groups.
        log = (self.directory / f"{role}.log").open("wb")
        self._processes[role] = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.netns}", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        command = ["docker", "-H", self.host, "version", "--format", "{{.Server.Version}}"]
        while subprocess.run(command, capture_output=True, check=False).returncode:
            dead = [role for role, process in self._processes.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "\n".join((self.directory / f"{role}.log").read_text()[-2000:] for role in self._processes)
                raise SystemExit(f"{self.name} did not start ({', '.join(dead) or 'no answer'}):\n{logs}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Remove the containers, end the processes, and take everything away, also after a failed start."""
        with contextlib.suppress(SystemExit):
            if ids := docker(self.host, "ps", "-aq").split():
                docker(self.host, "rm", "-f", *ids)
        for process in reversed(self._processes.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for path in sorted(_mounts_under(str(self.directory)), reverse=True):
            subprocess.run(["umount", "-l", path], check=False)
        subprocess.run(["ip", "netns", "del", self.netns], check=True)
        shutil.rmtree(self.directory)

    def _pid(self, role: str) -> int:
        return self._processes[role].pid


class Docker(_Private):
    """Debian's docker.io: dockerd with the containerd that it starts."""

    def __init__(self, directory: pathlib.Path, program: str = "dockerd", configuration: str = "{}") -> None:
        """`configuration` is its daemon.json."""
        super().__init__("docker", directory)
        self._program = program
        self._configuration = configuration

    def start(self) -> None:
        self._prepare()
        d = self.directory
        (d / "daemon.json").write_text(self._configuration)
        self._spawn(
            "dockerd", self._program, "-H", self.host, "--data-root", f"{d}/data", "--exec-root", f"{d}/exec",
            "--pidfile", f"{d}/pid", "--config-file", f"{d}/daemon.json",
        )  # fmt: skip
        self._wait_ready()

    def daemons(self) -> dict[str, list[int]]:
        dockerd = self._pid("dockerd")
        return {"dockerd": [dockerd], "containerd": [p for p in _children(dockerd) if _comm(p) == "containerd"]}

    def per_container(self) -> list[int]:
        marker = f"{self.directory}/exec"
        return [p for p in _all_pids() if _comm(p).startswith("containerd-shim") and marker in _cmdline(p)]

    def proxies(self) -> list[int]:
        return [p for p in _children(self._pid("dockerd")) if _comm(p) == "docker-proxy"]


class Orlop(_Private):
    """Our stack: orlop-containerd (with its zygote), orlop-netd and orlopd."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__("orlop", directory)

    def start(self) -> None:
        self._prepare()
        d = self.directory
        containerd = f"{d}/run/c/c.sock"
        self._spawn(
            "containerd", "orlop-containerd", "--root", f"{d}/data/containerd", "--state", f"{d}/run/c",
            "--address", containerd,
        )  # fmt: skip
        self._spawn("netd", "orlop-netd", "--socket", f"{d}/run/netd.sock")
        (d / "daemon.json").write_text("{}")
        self._spawn(
            "dockerd", "orlopd", "-H", self.host, "--data-root", f"{d}/data", "--exec-root", f"{d}/run",
            "--containerd", containerd, "--pidfile", f"{d}/pid", "--config-file", f"{d}/daemon.json",
        )  # fmt: skip
        self._wait_ready()

    def daemons(self) -> dict[str, list[int]]:
        containerd = self._pid("containerd")
        return {
            "orlopd": [self._pid("dockerd")],
            "containerd": [containerd],
            "zygote": [p for p in _children(containerd) if "zygote" in _cmdline(p)],
            "netd": self.proxies(),
        }

    def per_container(self) -> list[int]:
        marker = str(self.directory)
        return [p for p in _all_pids() if _is_shim(p, marker)]

    def proxies(self) -> list[int]:
        keeper = self._pid("netd")
        return [keeper, *_children(keeper)]


def docker(host: str, *arguments: str) -> str:
    """Run the docker CLI; its standard output. Raises SystemExit with its error."""
    result = subprocess.run(["docker", "-H", host, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"docker {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout


def pss_kib(pids: list[int]) -> int:
    """Proportional set size of processes together, KiB (proc_pid_smaps(5))."""
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def cpu_seconds(pids: list[int]) -> float:
    """Processor time that processes have used up."""
    fields = [pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def _is_shim(pid: int, marker: str) -> bool:
    """Ours keep a bundle below the engine's directory as working directory, whatever they are called."""
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(marker) and "containerd-shim" in _cmdline(pid)
    except OSError:
        return False


def _all_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _children(pid: int) -> list[int]:
    tasks = pathlib.Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def _comm(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _cmdline(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _mounts_under(directory: str) -> list[str]:
    lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return [path for path in (line.split()[4] for line in lines) if path.startswith(directory + "/")]
