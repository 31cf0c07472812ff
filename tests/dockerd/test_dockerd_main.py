# SPDX-License-Identifier: Apache-2.0
"""How orlopd starts and stops: settings, sockets, activation, a second daemon, no containerd."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import orlopd
from support.orlopd import PROGRAM, flags, get, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory and a network namespace for one test."""
    with orlopd.directory() as path:
        yield path


def test_validate(base: Path) -> None:
    good = subprocess.run([*PROGRAM, *flags(base), "--validate"], capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "configuration OK\n")
    command = flags(base)
    (base / "daemon.json").write_text('{"nosuch": true}')
    bad = subprocess.run([*PROGRAM, *command, "--validate"], capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert bad.stderr.count("\n") == 1
    assert "the following directives don't match any configuration option: nosuch" in bad.stderr
    assert not (base / "d").exists()


def test_the_socket_the_pidfile_and_a_second_daemon(base: Path) -> None:
    path = f"{base}/x.sock"
    command = [*PROGRAM, *flags(base, "-H", f"unix://{path}", "--pidfile", f"{base}/pid")]
    with running(base, command) as daemon:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert int((base / "pid").read_text()) == daemon.process.pid
        assert stat.S_IMODE((base / "d").stat().st_mode) == 0o700
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (second.returncode, second.stderr) == (1, f"orlopd: another orlopd uses {base}/d\n")
        other = [*PROGRAM, *flags(base, "-H", f"unix://{path}", "--data-root", f"{base}/other")]
        third = subprocess.run(other, capture_output=True, text=True, check=False)
        assert third.returncode == 1
        assert "another daemon is listening" in third.stderr
        assert get(path, "/_ping") == (200, b"OK")
    assert not os.path.exists(path)
    assert not (base / "pid").exists()


def test_a_stale_socket_is_replaced_and_a_file_is_not(base: Path) -> None:
    path = f"{base}/x.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with running(base, [*PROGRAM, *flags(base, "-H", f"unix://{path}")]):
        assert get(path, "/_ping") == (200, b"OK")
    Path(path).write_text("precious")
    refused = subprocess.run(
        [*PROGRAM, *flags(base, "-H", f"unix://{path}")], capture_output=True, text=True, check=False
    )
    assert "the file exists and is no socket" in refused.stderr
    assert Path(path).read_text() == "precious"


def test_sockets_by_activation_stay(base: Path) -> None:
    path = f"{base}/held.sock"
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(path)
        held.listen()
        script = 'LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec "$@" 3<&"$0"'
        number = held.fileno()
        command = ["bash", "-c", script, str(number), *PROGRAM, *flags(base, "-H", "fd://")]
        for _ in range(2):
            with running(base, command, pass_fds=[number]):
                assert get(path, "/_ping") == (200, b"OK")
            assert os.path.exists(path)
    lost = subprocess.run([*PROGRAM, *flags(base, "-H", "fd://")], capture_output=True, text=True, check=False)
    assert lost.stderr == "orlopd: hosts: fd://: no sockets found via socket activation\n"


def test_open_tcp_is_refused_in_words(base: Path) -> None:
    command = [*PROGRAM, *flags(base, "-H", "tcp://127.0.0.1:2375")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "without --tlsverify everybody who reaches this address is root here" in refused.stderr


def test_without_containerd_it_serves_what_it_can(base: Path) -> None:
    path = f"{base}/x.sock"
    with running(base, [*PROGRAM, *flags(base, "-H", f"unix://{path}")]):
        assert get(path, "/version")[1]["Components"][1]["Version"] == "not available"
        assert get(path, "/containers/json") == (200, [])
        status, answer = get(path, "/images/json")
        assert status == 503
        assert "\n" not in answer["message"]
        assert get(path, "/info")[1]["Images"] == 0
