# SPDX-License-Identifier: Apache-2.0
"""Containers below a supervisor: the sockets that it passes, and the readiness that it is told."""

from __future__ import annotations

import array
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.bundles import Bundle, Runtime

pytestmark = pytest.mark.root

# sd_notify(3) in a container without Python: nc of busybox knows no datagram socket of Unix, so a helper of the
# test's sends from inside the container's mount namespace.
_SEND = """
import socket, os, sys
os.chroot(sys.argv[1]); os.chdir("/")
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(sys.argv[2].encode(), "/run/notify/notify.sock")
"""


class Supervisor:
    """Listens as systemd does, and answers barriers by closing their descriptor."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(20)

    def next(self) -> str:
        message, ancillary, _, _ = self.socket.recvmsg(4096, 64)
        for _, _, data in ancillary:
            os.close(array.array("i", data[:4])[0])
        return message.decode()


@pytest.fixture
def supervisor(tmp_path) -> Iterator[Supervisor]:
    made = Supervisor(str(tmp_path / "supervisor.sock"))
    yield made
    made.socket.close()


@pytest.mark.parametrize("named", ["", "self", "other"])
def test_sockets_of_a_supervisor(runtime: Runtime, bundle: Bundle, tmp_path, named: str) -> None:
    """Passed on with LISTEN_PID=1, unless they are for another process."""
    (tmp_path / "note").write_text("from the supervisor")
    container = runtime.new_id(bundle.args("echo $LISTEN_FDS $LISTEN_PID; cat <&3"))
    bundle.write()
    pid = {"": "", "self": "LISTEN_PID=$$", "other": "LISTEN_PID=1"}[named]
    script = f'exec 3<"$1"; shift; export LISTEN_FDS=1 {pid}; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", str(tmp_path / "note"), *runtime.command, "--root", runtime.root,
         "run", "-b", bundle.path, container],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    passed = "1 1\nfrom the supervisor"
    if named == "self":
        assert done.stdout == passed or runtime.name == "crun"  # Debian's sets no LISTEN_PID
        assert done.stdout.endswith("1\nfrom the supervisor")
    elif runtime.is_ours:  # without LISTEN_PID ours does as crun, with another as runc
        assert done.stdout == (passed if not named else "\n")


def _send(pid: int, text: str) -> None:
    subprocess.run([sys.executable, "-I", "-c", _SEND, f"/proc/{pid}/root", text], check=True)


def _notifying(bundle: Bundle) -> Bundle:
    return bundle.args("echo $NOTIFY_SOCKET > /told; while ! test -e /done; do sleep 0.05; done")


@pytest.mark.parametrize("how", ["start", "run -d", "run"])
def test_readiness_is_told_to_the_supervisor(
    ours: Runtime, bundle: Bundle, supervisor: Supervisor, how: str
) -> None:
    environment = os.environ | {"NOTIFY_SOCKET": supervisor.path}
    container = ours.new_id(_notifying(bundle))
    bundle.write()
    flags = ["--bundle", bundle.path, container]
    command = [*ours.command, "--root", ours.root]
    if how == "start":
        subprocess.run([*command, "create", *flags], env=environment, check=True)
        command += ["start", container]
    else:
        command += [*how.split(), *flags]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    try:
        from support.bundles import eventually

        eventually(lambda: os.path.exists(f"{bundle.rootfs}/told"), "it does not run")
        pid = ours.state(container)["pid"]
        assert process.poll() is None, "it has not waited for READY"
        _send(pid, "STATUS=warming up")
        _send(pid, "STATUS=here\nREADY=1\n")
        assert supervisor.next() == "READY=1\n"
        assert supervisor.next() == f"MAINPID={process.pid if how == 'run' else pid}\n"
        assert supervisor.next() == "BARRIER=1"
        if how != "run":
            assert process.wait(20) == 0
            assert ours.state(container)["status"] == "running"
        with open(f"{bundle.rootfs}/told", encoding="utf-8") as file:
            assert file.read() == "/run/notify/notify.sock\n"
        open(f"{bundle.rootfs}/done", "w").close()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_a_container_that_never_gets_ready_keeps_nobody(
    ours: Runtime, bundle: Bundle, supervisor: Supervisor
) -> None:
    container = ours.new_id(bundle.args("exit 3"))
    bundle.write()
    environment = os.environ | {"NOTIFY_SOCKET": supervisor.path}
    ours("create", "--bundle", bundle.path, container, env=environment).ok()
    ours("start", container, env=environment).ok()
    ours("delete", container).ok()
    assert ours.run(bundle.args("exit 3"), env=environment).status == 3
