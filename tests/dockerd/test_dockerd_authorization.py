# SPDX-License-Identifier: Apache-2.0
"""Authorization plugins: what they are shown, what they deny, and the ways around them that were once known."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import orlopd
from support.orlopd import PROGRAM, flags, get, running
from support.plugin import Plugin, body_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory and a network namespace for one test."""
    with orlopd.directory() as path:
        yield path


@pytest.fixture
def judge(base: Path) -> Iterator[Plugin]:
    """A plugin that allows all, until it is told otherwise."""
    plugin = Plugin(base / "r" / "plugins" / "judge.sock", base / "v", ("authz",))
    yield plugin
    plugin.close()


def request(path: str, raw: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; status and body of the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(path)
        client.sendall(raw)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer.status, answer.read()


def post(target: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: x", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


CREATE = json.dumps({"Image": "x", "HostConfig": {"Privileged": True}}).encode()
JSON = "Content-Type: application/json"


def refuse_privileged(method: str, question: dict[str, Any]) -> dict[str, Any]:
    """What such plugins are for."""
    if method.endswith("Req") and question["RequestUri"].endswith("/containers/create"):
        asked = json.loads(body_of(question) or b"{}")
        if asked.get("HostConfig", {}).get("Privileged"):
            return {"Allow": False, "Msg": "no privileged containers"}
    return {"Allow": True}


def test_what_plugins_are_shown_and_deny(base: Path, judge: Plugin) -> None:
    path = f"{base}/x.sock"
    command = [*PROGRAM, *flags(base, "-H", f"unix://{path}", "--authorization-plugin", "judge")]
    with running(base, command):
        assert get(path, "/info")[1]["Plugins"]["Authorization"] == ["judge"]
        judge.calls.clear()
        raw = post(
            "/v1.44/volumes/create?x=1",
            JSON,
            "X-Registry-Auth: secret",
            "Content-Length: 13",
            body=b'{"Name":"vv"}',
        )
        assert request(path, raw)[0] == 201
        (_, asked), (_, told) = judge.calls
        assert (asked["RequestMethod"], asked["RequestUri"]) == ("POST", "/v1.44/volumes/create?x=1")
        assert body_of(asked) == b'{"Name":"vv"}'
        assert "X-Registry-Auth" not in asked["RequestHeaders"]
        assert asked["RequestHeaders"]["Content-Type"] == "application/json"
        assert told["ResponseStatusCode"] == 201
        assert json.loads(body_of(told, "ResponseBody"))["Name"] == "vv"

        judge.judge = lambda method, question: {"Allow": method.endswith("Res"), "Msg": "never"}
        assert get(path, "/volumes") == (403, {"message": "authorization denied by plugin judge: never"})
        judge.judge = lambda method, question: {"Allow": method.endswith("Req"), "Msg": "hidden"}
        assert get(path, "/volumes") == (403, {"message": "authorization denied by plugin judge: hidden"})
        judge.judge = lambda method, question: {"Allow": True, "Err": "broken"}
        assert get(path, "/volumes") == (500, {"message": "plugin judge failed with error: broken"})
        judge.judge = lambda method, question: {}
        assert get(path, "/volumes")[0] == 403
        judge.judge = lambda method, question: {"Allow": True}
        assert [volume["Name"] for volume in get(path, "/volumes")[1]["Volumes"]] == ["vv"]


def test_the_plugin_sees_what_the_daemon_does(base: Path, judge: Plugin) -> None:
    """CVE-2024-41110: with `Content-Length: 0`, or none at all, the plugin was shown no body."""
    path = f"{base}/x.sock"
    judge.judge = refuse_privileged
    command = [*PROGRAM, *flags(base, "-H", f"unix://{path}", "--authorization-plugin", "judge")]
    with running(base, command):
        sent = ((f"Content-Length: {len(CREATE)}", CREATE), ("Transfer-Encoding: chunked", chunked(CREATE)))
        for length, body in sent:
            for kind in (JSON, f"{JSON}; charset=utf-8", "content-type: APPLICATION/JSON"):
                assert request(path, post("/containers/create", kind, length, body=body))[0] == 403
            # What is no JSON by its type is not shown, and not acted upon.
            for kind in ("Content-Type: text/plain", "X: y"):
                status, answer = request(path, post("/containers/create", kind, length, body=body))
                assert status == 400
                assert b"Content-Type" in answer
        # Without a length the body is another request, which is judged, too; the first one has none to act upon.
        status, answer = request(path, post("/containers/create", JSON, "Content-Length: 0", body=CREATE))
        assert status == 400, answer
        # Two lengths are no request at all.
        both = post(
            "/containers/create", JSON, "Content-Length: 0", "Transfer-Encoding: chunked", body=chunked(CREATE)
        )
        assert request(path, both)[0] in (400, 403)


def test_a_body_that_is_too_long_to_be_judged_is_refused(base: Path, judge: Plugin) -> None:
    """CVE-2026-34040: a body above the plugins' limit was not shown to them, and acted upon."""
    path = f"{base}/x.sock"
    judge.judge = refuse_privileged
    long = CREATE[:-1] + b"," + b" " * (5 << 20) + b'"x":1}'
    sent = ((f"Content-Length: {len(long)}", long), ("Transfer-Encoding: chunked", chunked(long)))
    command = [*PROGRAM, *flags(base, "-H", f"unix://{path}", "--authorization-plugin", "judge")]
    with running(base, command):
        judge.calls.clear()
        for length, body in sent:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(30)
                client.connect(path)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not read all of it
                    client.sendall(post("/containers/create", JSON, length, body=body))
                answer = http.client.HTTPResponse(client)
                answer.begin()
                assert answer.status == 403
                assert b"request body too large for authorization plugin" in answer.read()
        assert not [given for method, given in judge.calls if method.endswith("Req")]


@pytest.mark.long
def test_plugins_must_be_there_and_are_changed_by_a_reload(base: Path, judge: Plugin) -> None:
    path = f"{base}/x.sock"
    command = [*PROGRAM, *flags(base, "-H", f"unix://{path}")]
    missing = subprocess.run(
        [*command, "--authorization-plugin", "nosuch"], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 1
    assert missing.stderr == 'orlopd: Error validating authorization plugin: plugin "nosuch" not found\n'
    judge.judge = lambda method, question: {"Allow": False, "Msg": "no"}
    with running(base, command) as daemon:
        assert get(path, "/_ping")[0] == 200
        (base / "daemon.json").write_text('{"authorization-plugins": ["nosuch"]}')
        daemon.reload()
        assert get(path, "/_ping")[0] == 200
        (base / "daemon.json").write_text('{"authorization-plugins": ["judge"]}')
        daemon.reload()
        assert get(path, "/_ping")[0] == 403
        (base / "daemon.json").write_text('{"authorization-plugins": []}')
        daemon.reload()
        assert get(path, "/_ping")[0] == 200


def test_metrics_and_debug(base: Path) -> None:
    path = f"{base}/x.sock"
    with running(base, [*PROGRAM, *flags(base, "-H", f"unix://{path}", "--metrics-addr", "127.0.0.1:9323")]):
        get(path, "/version")
        connection = http.client.HTTPConnection("127.0.0.1", 9323)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        connection.request("GET", "/other")
        assert connection.getresponse().status == 404
        connection.close()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert all(
            re.fullmatch(r"[a-z_]+(\{[a-z_]+=\"[^\"]*\"(,[a-z_]+=\"[^\"]*\")*\})? [0-9.e+-]+", line)
            for line in lines
        )
        assert 'engine_daemon_container_states_containers{state="running"} 0.0' in lines
        assert 'engine_daemon_host_info_functions_seconds_count{function="system_version"} 1.0' in lines
        assert "python" in get(path, "/debug/vars")[1]["cmdline"][0]
        assert b"Task-1" in get(path, "/debug/pprof/goroutine")[1]
        assert get(path, "/debug/pprof/symbol")[0] == 501
        assert b"cumulative" in get(path, "/debug/pprof/profile?seconds=1")[1]
