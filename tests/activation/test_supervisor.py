# SPDX-License-Identifier: Apache-2.0
"""`orlop daemon` against the supervisor with stub daemons: activation, crashes, stops."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import stub_supervisor
from support.networks import end

from orlop.activation import cli, components, control, main, sockets
from orlop.activation.control import Row
from orlop.activation.daemon import Daemon
from orlop.activation.layout import Layout
from orlop.activation.process import adopt, start_ticks

DAEMONS = ("dockerd", "containerd", "netd")


class Installation:
    """A private installation and how to look at it."""

    def __init__(self, directory: Path) -> None:
        self.layout = Layout(str(directory / "run"), str(directory / "data"), str(directory / "log"))

    def start(self) -> None:
        """Start the supervisor with stubs, as `orlop daemon start` starts the real one."""
        main.start_as((sys.executable, stub_supervisor.__file__, *self.layout), self.layout)
        self.run("start")

    def run(self, *words: str) -> int:
        """`orlop daemon …` on this installation."""
        run_dir, data_root, log_dir = self.layout
        return cli.run([*words, "--run-dir", run_dir, "--data-root", data_root, "--log-dir", log_dir])

    def rows(self) -> dict[str, Row]:
        """The status by component."""
        rows = control.request(self.layout.control_socket, {"op": "status"})["rows"]
        return {row["component"]: row for row in rows}

    def states(self) -> dict[str, str]:
        """The components' states."""
        return {name: row["state"] for name, row in self.rows().items()}

    def ask(self) -> str:
        """What dockerd answers on the API socket; empty if the connection was closed."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(self.layout.api_socket)
            return client.recv(99).decode().strip()

    def bring_up(self) -> None:
        """Connect, and wait for all that comes with it."""
        assert self.ask().startswith("dockerd ")
        for name in DAEMONS:
            assert self.run("start", name) == 0

    def journal(self) -> list[str]:
        """The starts of daemons, in order."""
        return Path(self.layout.data_root, "journal").read_text().split()

    def fail(self, name: str) -> Path:
        """Make a daemon fail at its start; removing the file heals it."""
        path = Path(self.layout.data_root, f"{name}.fail")
        path.touch()
        return path


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installation]:
    """A started installation; everything it started is gone at the end."""
    installation = Installation(tmp_path)
    installation.start()
    yield installation
    pids = [row["pid"] for row in installation.rows().values() if row["pid"]]
    assert installation.run("stop") == 0
    assert not alive(pids)


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that have not ended."""
    return [pid for pid in pids if start_ticks(pid)]


def wait_for_restart(installed: Installation, name: str, old: int) -> None:
    """Ask until another process of that name is ready: the supervisor restarts it without being told."""
    while (row := installed.rows()[name])["pid"] in (0, old) or row["state"] != "running":
        pass


def test_first_connection_starts_dockerd_after_containerd(installed: Installation) -> None:
    assert installed.states()["dockerd"] == "stopped, socket listening"
    answer = installed.ask()
    installed.bring_up()
    rows = installed.rows()
    assert answer == f"dockerd {rows['dockerd']['pid']}"
    assert set(installed.journal()) == set(DAEMONS)
    assert installed.journal().index("containerd") < installed.journal().index("dockerd")
    assert {name: rows[name]["state"] for name in DAEMONS} == dict.fromkeys(DAEMONS, "running")
    assert rows["dockerd"]["listening"] == installed.layout.api_socket


def test_sockets_are_closed_to_others(installed: Installation) -> None:
    api = os.stat(installed.layout.api_socket)
    groups = Path("/etc/group").read_text()
    has_group = any(line.startswith("docker:") for line in groups.splitlines())
    assert stat.S_IMODE(api.st_mode) == (0o660 if has_group else 0o600)
    assert stat.S_IMODE(os.stat(installed.layout.control_socket).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(installed.layout.daemon_dir).st_mode) == 0o700


@pytest.mark.parametrize("name", DAEMONS)
def test_killed_daemon_is_restarted(installed: Installation, name: str) -> None:
    installed.bring_up()
    for _ in range(2):
        before = {each: row["pid"] for each, row in installed.rows().items()}
        os.kill(before[name], signal.SIGKILL)
        wait_for_restart(installed, name, before[name])
        after = {each: row["pid"] for each, row in installed.rows().items()}
        assert [each for each in before if before[each] != after[each]] == [name]
    assert installed.ask().startswith("dockerd ")


def test_stopped_dockerd_comes_with_the_next_connection(
    installed: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    first = installed.ask()
    assert installed.run("stop", "dockerd") == 0
    assert installed.states()["dockerd"] == "stopped, socket listening"
    assert installed.states()["containerd"] == "running"
    assert installed.run("stop", "dockerd") == 0
    assert installed.run("status", "dockerd") == 0
    assert "stopped, socket listening" in capsys.readouterr().out
    assert installed.ask() not in ("", first)


def test_stopped_socket_is_removed(installed: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    installed.bring_up()
    pid = installed.rows()["dockerd"]["pid"]
    assert installed.run("stop", "socket") == 0
    assert not os.path.exists(installed.layout.api_socket)
    assert not alive([pid])
    assert installed.states()["dockerd"] == "stopped"
    assert installed.run("status", "socket") == cli.NOT_RUNNING
    assert installed.run("start", "socket") == 0
    assert installed.ask().startswith("dockerd ")
    capsys.readouterr()


def test_start_is_idempotent(installed: Installation) -> None:
    assert installed.run("start", "dockerd") == 0
    installed.bring_up()
    before = installed.rows()
    threads = [
        threading.Thread(target=installed.run, args=("start", name)) for name in ("dockerd", "netd", "socket")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert installed.run("start") == 0
    assert installed.rows() == before


def test_restart(installed: Installation) -> None:
    installed.bring_up()
    before = installed.rows()
    assert installed.run("restart", "containerd") == 0
    assert installed.rows()["containerd"]["pid"] != before["containerd"]["pid"]
    assert installed.rows()["dockerd"]["pid"] == before["dockerd"]["pid"]
    assert installed.run("restart") == 0
    after = installed.rows()
    assert all(after[name]["pid"] not in (0, before[name]["pid"]) for name in DAEMONS)
    assert after["socket"] == before["socket"]
    assert installed.ask() == f"dockerd {after['dockerd']['pid']}"


def test_failing_dockerd_does_not_let_clients_wait(
    installed: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = installed.fail("dockerd")
    assert installed.ask() == ""
    assert installed.states()["dockerd"] == "failed (exit status 7)"
    assert installed.run("start", "dockerd") == 1
    assert capsys.readouterr().err == (
        f"orlop daemon: dockerd does not start: exit status 7; its log is {installed.layout.log('dockerd')}\n"
    )
    failure.unlink()
    assert installed.ask().startswith("dockerd ")


def test_failing_containerd_is_named(installed: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    failure = installed.fail("containerd")
    assert installed.ask() == ""
    assert installed.run("start", "dockerd") == 1
    assert "dockerd does not start: containerd failed" in capsys.readouterr().err
    failure.unlink()
    assert installed.ask().startswith("dockerd ")


def test_daemons_outlive_the_supervisor_and_are_adopted(installed: Installation) -> None:
    installed.bring_up()
    before = installed.rows()
    end(before["socket"]["pid"], signal.SIGKILL)
    assert installed.ask() == f"dockerd {before['dockerd']['pid']}"
    installed.start()
    after = installed.rows()
    assert {name: after[name] for name in DAEMONS} == {name: before[name] for name in DAEMONS}
    assert after["socket"]["pid"] != before["socket"]["pid"]
    end(before["dockerd"]["pid"], signal.SIGKILL)
    assert installed.ask().startswith("dockerd ")  # on the socket that the old supervisor had made
    assert installed.run("stop", "containerd") == 0
    assert not alive([before["containerd"]["pid"]])


def test_stop_finds_what_a_killed_supervisor_left(installed: Installation) -> None:
    installed.bring_up()
    before = installed.rows()
    end(before["socket"]["pid"], signal.SIGKILL)
    assert installed.run("stop") == 0
    assert not alive([before[name]["pid"] for name in DAEMONS])
    installed.start()


def test_stop_ends_everything_and_is_idempotent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    installation = Installation(tmp_path)
    installation.start()
    installation.bring_up()
    pids = [row["pid"] for row in installation.rows().values()]
    assert installation.run("stop") == 0
    assert not alive(pids)
    assert not os.path.exists(installation.layout.api_socket)
    assert not os.path.exists(installation.layout.control_socket)
    assert installation.run("stop") == 0
    assert installation.run("status") == cli.NOT_RUNNING
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out] == [
        ["COMPONENT", "STATE"],
        *([name, "stopped"] for name in ("socket", *DAEMONS)),
    ]


def test_sigterm_of_the_supervisor_stops_everything(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    installation.start()
    installation.bring_up()
    pids = [row["pid"] for row in installation.rows().values()]
    end(pids[0])
    assert not alive(pids)


def test_the_time_that_an_ending_daemon_asks_for() -> None:
    assert sockets.extension([b"STOPPING=1", b"EXTEND_TIMEOUT_USEC=2500000"]) == 2.5
    assert sockets.extension([b"STOPPING=1", b"EXTEND_TIMEOUT_USEC=-1", b""]) == 0
    child = subprocess.Popen(
        ["sh", "-c", "trap : TERM; echo; while :; do read wait; done"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None and child.stdout.readline()
        daemon = Daemon(components.table(Layout("/r", "/d", "/l"))[0])
        process = adopt(child.pid, start_ticks(child.pid))
        assert process is not None
        daemon.started(process)
        daemon.extend_stop(900.0)
        daemon.begin_stop(100.0)
        assert daemon.due == 100.0 + daemon.component.stop_seconds  # nobody has told it to end before
        daemon.extend_stop(500.0)
        daemon.extend_stop(200.0)
        daemon.insist(499.0)
        assert daemon.due == 500.0
        daemon.insist(500.0)
        assert child.wait(30) == -signal.SIGKILL
    finally:
        child.kill()
        child.communicate()


@pytest.mark.long
def test_a_daemon_that_asks_for_time_to_end_gets_it(installed: Installation) -> None:
    Path(installed.layout.data_root, "dockerd.slow").write_text(str(stub_supervisor.STOP_SECONDS + 2))
    installed.bring_up()
    assert installed.run("stop", "dockerd") == 0
    assert installed.journal()[-1] == "ended"


def test_socket_of_somebody_else_is_left_alone(
    installed: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert installed.run("stop", "socket") == 0
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(installed.layout.api_socket)
        other.listen()
        assert installed.run("start", "socket") == 1
        assert f"{installed.layout.api_socket}: Address already in use" in capsys.readouterr().err
        assert installed.run("start", "dockerd") == 1
    assert installed.run("start", "dockerd") == 0


def test_bad_requests_are_answered(installed: Installation) -> None:
    for line, message in (
        (b"{", "invalid request: Expecting"),
        (b"[]", "invalid request: not an object"),
        (b'{"op":"fly"}', "invalid request: 'fly' is not one of start, stop, restart, status"),
        (b'{"op":"stop","component":"x"}', "invalid request: 'x' is not one of all, socket, dockerd"),
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(installed.layout.control_socket)
            client.sendall(line + b"\n")
            assert control.decode(client.recv(999))["error"].startswith(message)


def test_supervisor_is_light(installed: Installation) -> None:
    """It lives as long as the machine: no asyncio, no logging, no ctypes."""
    pid = installed.rows()["socket"]["pid"]
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "_asyncio" not in maps and "_ctypes" not in maps and "_ssl" not in maps


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a short name: shims' sockets go below it."""
    with tempfile.TemporaryDirectory(prefix="o") as name:
        yield Path(name)


@pytest.mark.root
def test_real_daemons(short_path: Path) -> None:
    """The real supervisor with the real orlop-containerd and orlop-netd, by the command line."""
    tmp_path = short_path
    directories = ["--run-dir", str(tmp_path / "run"), "--data-root", str(tmp_path / "data")]

    def daemon(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "orlop.activation", *words, *directories]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    try:
        assert daemon("start").returncode == 0
        started = daemon("start", "containerd")
        assert started.stderr == "", (short_path / "run" / "log" / "containerd.log").read_text()
        # a netd that dockerd has started itself is found, and followed when it ends
        netd = [
            sys.executable,
            "-m",
            "orlop.netd.main",
            "--detach",
            "--socket",
            str(tmp_path / "run" / "netd.sock"),
        ]
        subprocess.run(netd, check=True)
        other = int((tmp_path / "run" / "netd.sock.lock").read_text())
        assert daemon("start", "netd").stderr == ""
        assert daemon("status", "netd").stdout.split()[7] == str(other)
        end(other, signal.SIGKILL)
        while (own := daemon("status", "netd").stdout.split()[7]) in ("-", str(other)):
            pass
        assert alive([int(own)])
        assert "containerd.sock" in daemon("status", "containerd").stdout
    finally:
        assert daemon("stop").stderr == ""
    assert not alive([int(own)])
