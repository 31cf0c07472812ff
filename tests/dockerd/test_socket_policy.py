# SPDX-License-Identifier: Apache-2.0
"""Users of the machine at a socket with a policy: what they may do, and what they try all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from support import containerd
from support.stack import DOCKER, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

OWNER, OTHER, READER, STRANGER, ADMIN = 61001, 61002, 61003, 61004, 61005
GROUP = 61099
POLICY = [
    {"user": str(OWNER), "allow": "own"},
    {"group": str(GROUP), "allow": "own"},
    {"user": str(READER), "allow": "read"},
    {"user": str(ADMIN), "allow": "all"},
]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Stack]:
    with Stack(configuration=json.dumps({"socket-policy": POLICY})) as stack:
        os.chmod(stack.base, 0o711)
        stack.load("busybox")
        stack.docker("run", "-d", "--name", "roots", "busybox", "sleep", "1000").ok()
        stack.docker("volume", "create", "roots-data").ok()
        yield stack


def as_user(stack: Stack, uid: int, *arguments: str) -> containerd.Result:
    groups = [GROUP] if uid == OTHER else []
    environment = {"DOCKER_HOST": stack.host, "HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    return containerd.run(
        [DOCKER, *arguments], env=environment, user=uid, group=uid, extra_groups=groups, timeout=60, cwd="/"
    )


def test_levels(guarded: Stack) -> None:
    assert "roots" in as_user(guarded, ADMIN, "ps").ok()
    as_user(guarded, ADMIN, "run", "--rm", "--privileged", "-v", "/:/host", "busybox", "true").ok()
    assert "roots" in as_user(guarded, READER, "ps").ok()
    assert "busybox" in as_user(guarded, READER, "images").ok()
    for refused in (
        ("rm", "-f", "roots"),
        ("run", "busybox"),
        ("exec", "roots", "id"),
        ("cp", "roots:/etc/group", "-"),
    ):
        result = as_user(guarded, READER, *refused)
        assert result.status != 0
        assert f"user {READER} may not" in result.err
        assert "socket-policy gives read" in result.err
    stranger = as_user(guarded, STRANGER, "ps")
    assert "socket-policy gives nothing" in stranger.err
    assert as_user(guarded, STRANGER, "version").status == 0


def test_containers_of_one_s_own(guarded: Stack) -> None:
    as_user(guarded, OWNER, "run", "-d", "--name", "mine", "busybox", "sleep", "1000").ok()
    as_user(guarded, OTHER, "run", "-d", "--name", "theirs", "busybox", "sleep", "1000").ok()
    assert as_user(guarded, OWNER, "ps", "--format", "{{.Names}}").ok().split() == ["mine"]
    assert as_user(guarded, OTHER, "ps", "--format", "{{.Names}}").ok().split() == ["theirs"]
    assert as_user(guarded, OWNER, "exec", "mine", "id", "-u").ok().strip() == "0"
    label = '{{index .Config.Labels "io.orlop.owner"}}'
    assert as_user(guarded, OWNER, "inspect", "mine", "--format", label).ok().strip() == str(OWNER)
    for attempt in (
        "exec theirs id", "logs roots", "inspect roots", "stop theirs", "rm roots", "cp theirs:/etc/group -",
        "attach roots", "update -m 8m theirs", "top roots",
    ):  # fmt: skip
        result = as_user(guarded, OWNER, *attempt.split())
        assert result.status != 0, attempt
        assert "No such" in result.err, attempt
    for attempt in (
        "--privileged", "-v /:/host", "--pid host", "--network host", "--network container:roots", "--cap-add ALL",
        "--device /dev/null", "--volumes-from roots", "-v roots-data:/x", "--security-opt seccomp=unconfined",
        "-p 80:80", f"--label io.orlop.owner={OTHER} --ipc host",
    ):  # fmt: skip
        result = as_user(guarded, OWNER, "run", "--rm", *attempt.split(), "busybox", "true")
        assert result.status == 125, attempt
        assert "may only have containers that reach neither the host nor others" in result.err, attempt
    assert as_user(guarded, OWNER, "exec", "--privileged", "mine", "id").status != 0
    as_user(guarded, OWNER, "volume", "create", "own-data").ok()
    assert as_user(guarded, OWNER, "volume", "ls", "-q").ok().split() == ["own-data"]
    as_user(guarded, OWNER, "run", "--rm", "-v", "own-data:/x", "-p", "8080:80", "busybox", "touch", "/x/y").ok()
    assert as_user(guarded, OTHER, "run", "--rm", "-v", "own-data:/x", "busybox", "true").status == 125
    assert as_user(guarded, OTHER, "volume", "rm", "own-data").status != 0
    assert as_user(guarded, OWNER, "network", "create", "n").status != 0
    assert as_user(guarded, OWNER, "system", "prune", "-f").status != 0
    # A label that somebody gives themselves is not believed.
    as_user(
        guarded, OWNER, "run", "-d", "--name", "liar", "--label", f"io.orlop.owner={OTHER}", "busybox", "true"
    ).ok()
    assert "liar" in as_user(guarded, OWNER, "ps", "-a").ok()
    assert "liar" not in as_user(guarded, OTHER, "ps", "-a").ok()
    as_user(guarded, OWNER, "rm", "-f", "mine", "liar").ok()
    as_user(guarded, OTHER, "rm", "-f", "theirs").ok()
    as_user(guarded, OWNER, "volume", "rm", "own-data").ok()


def test_http2_is_no_way_round(guarded: Stack) -> None:
    script = (
        "import os,socket,sys; os.setgid(61003); os.setuid(61003); s=socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]); s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'); print(len(s.recv(100)))"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script, guarded.socket], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout == "0\n"


def test_a_policy_taken_away_opens_nothing(guarded: Stack) -> None:
    path = f"{guarded.base}/daemon.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"socket-policy": []}, file)
    assert guarded.process is not None
    events = guarded.popen("events", "--filter", "event=reload", "--format", "{{.Action}}")
    containerd.wait_until(lambda: _listens(guarded))
    guarded.process.send_signal(signal.SIGHUP)
    assert events.stdout is not None
    assert events.stdout.readline() == b"reload\n"
    events.terminate()
    events.communicate()
    assert "socket-policy gives nothing" in as_user(guarded, ADMIN, "ps").err
    assert guarded.docker("ps").status == 0


def _listens(stack: Stack) -> bool:
    return stack.docker("info", "--format", "{{.NEventsListener}}").ok().strip() == "1"
