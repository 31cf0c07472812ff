# SPDX-License-Identifier: Apache-2.0
"""Checkpoint and restore through CRIU, and through stand-ins for it that fail."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.bundles import COMMANDS, Bundle, Runtime, eventually
from support.checkpoints import COUNT, count, counting, needs_criu, restore, start
from support.pace import PACE

from orlop.errdefs import FailedPreconditionError, InternalError
from orlop.libcontainer.criu import wire
from orlop.libcontainer.criu.session import Session

pytestmark = pytest.mark.root


@needs_criu
def test_a_container_goes_on_where_it_was(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    container = start(runtime, bundle.args(COUNT))
    counting(bundle)
    images = str(tmp_path / "images")
    runtime("checkpoint", "--image-path", images, container).ok()
    assert runtime("state", container).status != 0, "it has been deleted"
    before = count(bundle)
    restore(runtime, bundle, images, container, "--pid-file", str(tmp_path / "pid"))
    state = runtime.state(container)
    assert state["status"] == "running"
    assert int((tmp_path / "pid").read_text()) == state["pid"]
    counting(bundle, before + 3)
    assert "\n1 " in runtime("exec", container, "ps").ok().replace("    ", "")
    runtime("delete", "--force", container).ok()


@needs_criu
@pytest.mark.original
def test_checkpoints_of_runc_are_restored(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    if not os.path.exists("/usr/sbin/runc"):
        pytest.skip("runc is not installed")
    theirs = Runtime("runc")
    container = start(theirs, bundle.args(COUNT))
    try:
        counting(bundle)
        images = str(tmp_path / "images")
        theirs("checkpoint", "--image-path", images, container).ok()
        before = count(bundle)
        ours.ids.append(container)
        restore(ours, bundle, images, container)
        counting(bundle, before + 3)
        ours("checkpoint", "--image-path", images + "2", container).ok()
        before = count(bundle)
        restore(ours, bundle, images + "2", container)
        counting(bundle, before + 3)
    finally:
        ours("delete", "--force", container)
        theirs.close()


@needs_criu
def test_leave_running_and_bind_mounts(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    bundle.mount("/data", "bind", str(volume), "bind")
    container = start(runtime, bundle.args("i=0; while :; do i=$((i+1)); echo $i > /data/count; sleep 0.02; done"))
    eventually((volume / "count").exists, "it does not run")
    images, work = str(tmp_path / "images"), str(tmp_path / "work")
    runtime(
        "checkpoint", "--leave-running", "--image-path", images, "--work-path", work, "--file-locks",
        "--ext-unix-sk", "--tcp-established", "--manage-cgroups-mode", "soft", container,
    ).ok()  # fmt: skip
    assert runtime.state(container)["status"] == "running"
    assert os.path.exists(f"{work}/dump.log")
    runtime("delete", "--force", container).ok()
    # Not unlinked: the image may have been made while the script had the file open.
    (volume / "count").write_text("")
    restore(runtime, bundle, images, container, "--work-path", work)
    eventually(lambda: (volume / "count").read_text() != "", "it does not go on")
    runtime("delete", "--force", container).ok()


@needs_criu
def test_streams_and_exit_code_in_the_foreground(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    reader, writer = os.pipe()
    bundle.args("echo before; until test -e /go; do sleep 0.02; done; echo after; exit 5")
    container = ours.new_id(bundle)
    bundle.write()
    command = [COMMANDS["orlop-runc"], "--root", ours.root]
    subprocess.run(
        [*command, "run", "-d", "-b", bundle.path, container],
        stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.DEVNULL, check=True, timeout=30 * PACE,
    )  # fmt: skip
    assert os.read(reader, 100) == b"before\n"
    images = str(tmp_path / "images")
    ours("checkpoint", "--image-path", images, container).ok()
    os.close(writer)
    os.close(reader)
    with open(f"{bundle.rootfs}/go", "w", encoding="utf-8"):
        pass
    done = subprocess.run(
        [*command, "restore", "-b", bundle.path, "--image-path", images, container],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30 * PACE,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("after\n", 5), done.stderr
    assert ours("state", container).status == 1


def _with_terminal(bundle: Bundle, name: str, call: Callable[[str], Any]) -> tuple[Any, int]:
    """What `call`, given the path of a console socket, returns, and the terminal that arrives there."""
    path = f"{bundle.path}/{name}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(30 * PACE)
        answer = call(path)
        connection, _ = listener.accept()
        with connection:
            _, (master,), _, _ = socket.recv_fds(connection, 100, 1)
    return answer, master


@needs_criu
def test_a_terminal_is_handed_over_again(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    bundle.process["terminal"] = True
    bundle.args("echo one; read word; echo got $word; sleep 100")
    container, master = _with_terminal(bundle, "one", lambda path: ours.create(bundle, "--console-socket", path))
    ours("start", container).ok()
    assert os.read(master, 100) == b"one\r\n"
    images = str(tmp_path / "images")
    ours("checkpoint", "--shell-job", "--image-path", images, container).ok()
    os.close(master)
    _, master = _with_terminal(
        bundle,
        "two",
        lambda path: restore(ours, bundle, images, container, "--shell-job", "--console-socket", path),
    )
    os.write(master, b"hello\n")
    seen = b""
    while b"got hello" not in seen:
        seen += os.read(master, 100)
    os.close(master)
    ours("delete", "--force", container).ok()


@needs_criu
def test_a_failing_dump_quotes_the_log_and_leaves_the_container(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    """A file of the host among its descriptors is what CRIU cannot write down."""
    outside = tmp_path / "outside"
    with open(outside, "wb") as file:
        container = ours.new_id(bundle.args("sleep", "100"))
        bundle.write()
        subprocess.run(
            [COMMANDS["orlop-runc"], "--root", ours.root, "run", "-d", "-b", bundle.path, container],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=True, timeout=30 * PACE,
        )  # fmt: skip
    result = ours("checkpoint", "--image-path", str(tmp_path / "images"), container)
    assert result.status == 1
    assert "criu failed" in result.message
    assert "dump.log" in result.message
    assert ours.state(container)["status"] == "running"


@needs_criu
def test_a_failing_restore_leaves_nothing(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "descriptors.json").write_text('["/dev/null", "/dev/null", "/dev/null"]')
    container = ours.new_id(bundle.args("true", ""))
    bundle.write()
    result = ours("restore", "--detach", "--bundle", bundle.path, "--image-path", str(images), container)
    assert result.status == 1
    assert "runc restore failed: unable to start container process: criu failed" in result.message
    assert ours("state", container).status == 1


def test_states_that_cannot_be_checkpointed(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    container = ours.create(bundle.args("true", ""))
    result = ours("checkpoint", "--image-path", str(tmp_path / "images"), container)
    assert result.status == 1
    assert "cannot be checkpointed in created state" in result.message
    assert not (tmp_path / "images").exists()


def _with_criu(directory: str, script: str = "") -> dict[str, str]:
    """An environment whose only criu is `script`, if that."""
    os.makedirs(directory, exist_ok=True)
    if script:
        path = f"{directory}/criu"
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!{sys.executable}\nimport socket, sys\ns = socket.socket(fileno=3)\n{script}\n")
        os.chmod(path, 0o755)
    return {**os.environ, "PATH": directory}


def test_a_missing_criu_is_said(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    container = ours.start(bundle.args("sleep", "100"))
    environment = _with_criu(str(tmp_path / "bin"))
    images = str(tmp_path / "images")
    result = ours("checkpoint", "--image-path", images, container, env=environment)
    assert result.status == 1
    assert "checkpoint and restore need CRIU: criu: no such file or directory" in result.message
    assert ours.state(container)["status"] == "running"
    ours("delete", "--force", container).ok()
    result = ours("restore", "-d", "--bundle", bundle.path, "--image-path", images, container, env=environment)
    assert result.status == 1
    assert "need CRIU" in result.message
    assert ours("state", container).status == 1


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sys.exit(0)", "criu ended without an answer"),
        # type DUMP, no success, errno 2, message "no way"
        (r"s.recv(65536); s.send(b'\x08\x01\x10\x00\x38\x02\x4a\x06no way')", "criu failed: no way"),
        (r"s.recv(65536); s.send(b'\x08\x01\x10\x00\x38\x02')", "criu failed: No such file or directory"),
        (r"s.recv(65536); s.send(b'\x08\x01\x10\x01\x4a\x7f')", "cut off"),
        (r"s.recv(65536); s.send(b'\x08\x02\x10\x01')", "an answer of type 2 to a request of type 1"),
    ],
)
def test_what_criu_may_say_instead(monkeypatch, tmp_path, script: str, words: str) -> None:
    monkeypatch.setenv("PATH", _with_criu(str(tmp_path), script)["PATH"])
    session = Session()
    with pytest.raises(InternalError, match=words):
        session.run(wire.request(wire.DUMP, {"pid": 1}), wire.DUMP, lambda *_: None)
    session.close()


def test_notifications_are_answered(monkeypatch, tmp_path) -> None:
    script = r"""
import array, os
assert s.recv(65536)
fd = os.open("/dev/null", os.O_RDONLY)
s.sendmsg([b"\x08\x06\x10\x01\x2a\x0b\x0a\x06script\x10\xac\x02"], [(1, 1, array.array("i", [fd]))])
assert s.recv(65536) == b"\x08\x06\x18\x01", "no word of success"
s.send(b"\x08\x01\x10\x01")
"""
    monkeypatch.setenv("PATH", _with_criu(str(tmp_path), script)["PATH"])
    heard: list[Any] = []
    session = Session()
    session.run(
        wire.request(wire.DUMP, {}),
        wire.DUMP,
        lambda name, pid, fd: heard.append((name, pid, os.readlink(f"/proc/self/fd/{fd}"))),
    )
    session.close()
    assert heard == [("script", 300, "/dev/null")]


def test_without_criu_a_session_leaves_nothing(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(FailedPreconditionError):
        Session()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_encoding_is_protobufs() -> None:
    raw = wire.request(wire.DUMP, {"pid": 300, "root": "/x", "ext_mnt": [("a", "b")], "work_dir_fd": -1})
    assert raw == (
        b"\x08\x01\x12\x1c\x10\xac\x02\x6a\x02/x\xba\x01\x06\x0a\x01a\x12\x01b\x88\x01" + b"\xff" * 9 + b"\x01"
    )


def test_a_pre_dump_needs_a_kernel_that_tracks_memory(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    container = ours.start(bundle.args("sleep", "100"))
    # FEATURE_CHECK, success, features of none
    environment = _with_criu(str(tmp_path / "bin"), r"s.recv(65536); s.send(b'\x08\x09\x10\x01\x42\x00')")
    result = ours("checkpoint", "--pre-dump", "--image-path", str(tmp_path / "x"), container, env=environment)
    assert result.status == 1
    assert "criu lacks mem_track on this kernel" in result.message
    ours("delete", "--force", container).ok()
