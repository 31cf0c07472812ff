# SPDX-License-Identifier: Apache-2.0
"""The Engine API as bytes on a socket: versions, headers, errors, hijacking."""

from __future__ import annotations

import json
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from support.containerd import wait_until
from support.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

MAX = "1.56"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        stack.load("busybox")
        yield stack


class Answer:
    """A response: status, headers in lower case, body."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status_line = first
        self.status = int(first.split()[1])
        self.names = [line.partition(":")[0] for line in lines]
        self.headers = {line.partition(":")[0].lower(): line.partition(": ")[2] for line in lines}

    def json(self) -> Any:
        return json.loads(self.body)


def connect(stack: Stack) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(stack.socket)
    return connection


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def ask(stack: Stack, method: str, path: str, body: bytes = b"", headers: str = "") -> Answer:
    """One request on a connection of its own."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}"
    if body:
        head += f"Content-Length: {len(body)}\r\n"
    with connect(stack) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)
        return Answer(read_all(connection))


def read_head(connection: socket.socket) -> Answer:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1)
        assert part, data
        data += part
    return Answer(data)


# -- versions and headers


@pytest.mark.parametrize("prefix", ["", "/v1.24", "/v1.44", f"/v{MAX}"])
def test_every_route_with_and_without_version(stack: Stack, prefix: str) -> None:
    answer = ask(stack, "GET", f"{prefix}/version")
    assert answer.status == 200
    assert answer.json()["ApiVersion"] == MAX
    assert answer.headers["api-version"] == MAX
    assert answer.headers["ostype"] == "linux"
    assert answer.headers["docker-experimental"] == "false"
    assert answer.headers["server"].startswith("Docker/")
    assert answer.headers["server"].endswith(" (linux)")
    assert answer.headers["content-type"] == "application/json"
    assert {"Api-Version", "Ostype", "Server", "Docker-Experimental"} <= set(answer.names)


def test_ping(stack: Stack) -> None:
    answer = ask(stack, "GET", "/_ping")
    assert (answer.status, answer.body) == (200, b"OK")
    for name in ("builder-version", "swarm", "cache-control", "pragma"):
        assert name in answer.headers
    head = ask(stack, "HEAD", "/_ping")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "0")


def test_versions_out_of_range(stack: Stack) -> None:
    old = ask(stack, "GET", "/v1.23/version")
    assert old.status == 400
    assert b"client version 1.23 is too old. Minimum supported API version is 1.24" in old.body
    assert old.headers["content-type"].startswith("text/plain")
    new = ask(stack, "GET", "/v1.99/version")
    assert new.status == 400
    assert new.json() == {"message": f"client version 1.99 is too new. Maximum supported API version is {MAX}"}


def test_firewall_in_the_info(stack: Stack) -> None:
    expected = {"Driver": "nftables", "Info": [["EnableUserlandProxy", "true"]]}
    assert ask(stack, "GET", "/v1.49/info").json()["FirewallBackend"] == expected


def test_status_of_a_network(stack: Stack) -> None:
    """Since 1.52, and of one network: the list has none."""
    (config,) = ask(stack, "GET", "/v1.51/networks/bridge").json()["IPAM"]["Config"]
    in_use = {"IPsInUse": 3, "DynamicIPsAvailable": 65533}  # 172.17.0.0, .0.1 and .255.255
    answer = ask(stack, "GET", "/v1.52/networks/bridge").json()
    assert answer["Status"] == {"IPAM": {"Subnets": {config["Subnet"]: in_use}}}
    assert ask(stack, "GET", "/v1.52/networks/host").json()["Status"] == {"IPAM": {}}
    assert "Status" not in ask(stack, "GET", "/v1.51/networks/bridge").json()
    assert all("Status" not in each for each in ask(stack, "GET", "/v1.52/networks").json())


@pytest.mark.parametrize(("method", "path"), [("GET", "/nosuch"), ("GET", "/v1.44/nosuch"), ("PUT", "/version")])
def test_unknown_path_and_wrong_method(stack: Stack, method: str, path: str) -> None:
    answer = ask(stack, method, path)
    assert (answer.status, answer.json()) == (404, {"message": "page not found"})


def test_keep_alive_serves_several_requests(stack: Stack) -> None:
    with connect(stack) as connection:
        for _ in range(3):
            connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            head = read_head(connection)
            assert connection.recv(2) == b"OK"
            assert head.status == 200


def test_a_half_close_after_the_request_is_no_reason_not_to_answer(stack: Stack) -> None:
    with connect(stack) as connection:
        connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert Answer(read_all(connection)).status == 200


# -- bodies and errors


def test_bodies_must_be_json(stack: Stack) -> None:
    kind = "Content-Type: application/json\r\n"
    path = "/containers/create"
    wrong = ask(stack, "POST", path, b"{}", "Content-Type: text/plain\r\n")
    assert wrong.status == 400
    assert wrong.json()["message"] == ("unsupported Content-Type header (text/plain): must be 'application/json'")
    assert ask(stack, "POST", path, b"{}").status == 400
    assert "invalid JSON" in ask(stack, "POST", path, b"{", kind).json()["message"]
    twice = ask(stack, "POST", path, b'{"Image":"busybox"} {}', kind)
    assert (twice.status, twice.json()["message"]) == (400, "unexpected content after JSON")
    typed = ask(stack, "POST", path, b'{"Image":"busybox","HostConfig":{"Memory":"much"}}', kind)
    assert typed.status == 400
    assert "HostConfig.Memory" in typed.json()["message"]
    assert ask(stack, "GET", "/containers/json").json() == []


def test_unknown_fields_are_ignored_and_null_is_absent(stack: Stack) -> None:
    body = b'{"Image":"busybox","Nosuch":1,"Cmd":null,"HostConfig":{"Binds":null,"Nosuch":{}},"Env":null}'
    made = ask(stack, "POST", "/containers/create", body, "Content-Type: application/json; charset=utf-8\r\n")
    assert made.status == 201
    assert set(made.json()) == {"Id", "Warnings"}
    assert ask(stack, "DELETE", f"/containers/{made.json()['Id']}").status == 204


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/containers/nosuch/json", 404),
        ("POST", "/containers/nosuch/start", 404),
        ("GET", "/containers/json?filters=nonsense", 400),
        ("GET", "/containers/json?limit=x", 400),
        ("GET", "/events?since=x", 400),
        ("GET", "/events?since=10&until=5", 400),
        ("POST", "/containers/nosuch/wait?condition=odd", 400),
        ("GET", "/exec/nosuch/json", 404),
        ("GET", "/images/nosuch/json", 404),
        ("GET", "/volumes/nosuch", 404),
        ("GET", "/networks/nosuch", 404),
        ("DELETE", "/networks/bridge", 403),
    ],
)
def test_errors_are_json_with_a_message(stack: Stack, method: str, path: str, status: int) -> None:
    answer = ask(stack, method, path)
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    message = answer.json()["message"]
    assert message
    assert not message.endswith(".")


def test_not_modified_has_no_body(stack: Stack) -> None:
    container = create(stack, ["true"])
    answer = ask(stack, "POST", f"/containers/{container}/stop")
    assert (answer.status, answer.body) == (304, b"")
    remove(stack, container)


def test_garbage_is_answered_or_cut_and_harms_nobody(stack: Stack) -> None:
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"x" * 70000,
    ):
        with connect(stack) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)
    assert ask(stack, "GET", "/_ping").status == 200


# -- hijacking


def create(stack: Stack, command: list[str], **config: Any) -> str:
    body = json.dumps({"Image": "busybox", "Cmd": command, **config}).encode()
    made = ask(stack, "POST", "/containers/create", body, "Content-Type: application/json\r\n")
    assert made.status == 201, made.body
    return str(made.json()["Id"])


def remove(stack: Stack, container: str) -> None:
    assert ask(stack, "DELETE", f"/containers/{container}?force=1").status == 204


def frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        kind, length = struct.unpack(">BxxxI", data[:8])
        found.append((kind, data[8 : 8 + length]))
        data = data[8 + length :]
    return found


def attach(
    stack: Stack, container: str, *, upgrade: bool, version: str = MAX, early: bytes = b""
) -> socket.socket:
    connection = connect(stack)
    lines = [
        f"POST /v{version}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1",
        "Host: x",
    ]
    if upgrade:
        lines += ["Connection: Upgrade", "Upgrade: tcp"]
    lines += ["Content-Length: 0", "", ""]
    connection.sendall("\r\n".join(lines).encode() + early)
    return connection


@pytest.mark.parametrize(
    ("tty", "version", "kind"),
    [(False, MAX, "multiplexed"), (False, "1.41", "raw"), (True, MAX, "raw")],
)
def test_attach_upgrades(stack: Stack, tty: bool, version: str, kind: str) -> None:
    container = create(stack, ["sh", "-c", "echo out; echo err >&2"], Tty=tty)
    with attach(stack, container, upgrade=True, version=version) as connection:
        head = read_head(connection)
        assert head.status_line == "HTTP/1.1 101 UPGRADED"
        assert head.headers["content-type"] == f"application/vnd.docker.{kind}-stream"
        assert (head.headers["connection"], head.headers["upgrade"]) == ("Upgrade", "tcp")
        assert "api-version" not in head.headers
        assert ask(stack, "POST", f"/containers/{container}/start").status == 204
        data = read_all(connection)
    if tty:
        assert data == b"out\r\nerr\r\n"
    else:
        assert sorted(frames(data)) == [(1, b"out\n"), (2, b"err\n")]
    remove(stack, container)


def test_attach_without_upgrade_is_200_and_raw_bytes(stack: Stack) -> None:
    container = create(stack, ["echo", "hi"])
    with attach(stack, container, upgrade=False) as connection:
        head = read_head(connection)
        assert head.status_line == "HTTP/1.1 200 OK"
        assert head.headers["content-type"] == "application/vnd.docker.raw-stream"
        assert "content-length" not in head.headers
        assert "transfer-encoding" not in head.headers
        ask(stack, "POST", f"/containers/{container}/start")
        assert frames(read_all(connection)) == [(1, b"hi\n")]
    remove(stack, container)


def test_input_that_comes_with_the_request_is_input(stack: Stack) -> None:
    container = create(stack, ["cat"], OpenStdin=True, StdinOnce=True)
    early = b"GET /_ping HTTP/1.1\r\n\r\n"  # it looks like a request, and is none
    with attach(stack, container, upgrade=True, early=early) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert read_head(connection).status == 101
        ask(stack, "POST", f"/containers/{container}/start")
        assert b"".join(data for _, data in frames(read_all(connection))) == early
    remove(stack, container)


def test_an_attach_that_fails_is_told_in_plain_text_as_docker_does(stack: Stack) -> None:
    with attach(stack, "nosuch", upgrade=True, early=b"input") as connection:
        head = read_head(connection)
        assert (head.status, head.names) == (404, ["Content-Type"])
        assert read_all(connection) == b"No such container: nosuch\r\n"


@pytest.mark.parametrize("path", ["attach?stream=1&stdout=1", "logs?follow=1&stdout=1", "wait", "stats"])
def test_a_client_that_goes_away_leaves_nothing_open(stack: Stack, path: str) -> None:
    container = create(stack, ["sleep", "100"])
    ask(stack, "POST", f"/containers/{container}/start")
    before = ask(stack, "GET", "/info").json()["NFd"]
    method = "GET" if path.startswith(("logs", "stats")) else "POST"
    for _ in range(5):
        with connect(stack) as connection:
            connection.sendall(f"{method} /containers/{container}/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert read_head(connection).status == 200
    wait_until(lambda: ask(stack, "GET", "/info").json()["NFd"] <= before)
    remove(stack, container)


def test_input_before_a_close_reaches_the_process(stack: Stack) -> None:
    container = create(stack, ["sh", "-c", "cat > /got; cat /got"], OpenStdin=True, StdinOnce=True)
    ask(stack, "POST", f"/containers/{container}/start")
    with attach(stack, container, upgrade=True) as connection:
        assert read_head(connection).status == 101
        connection.sendall(b"last words")
    assert b'{"StatusCode":0}' in ask(stack, "POST", f"/containers/{container}/wait").body
    logs = ask(stack, "GET", f"/v1.41/containers/{container}/logs?stdout=1").body
    assert b"last words" in logs
    remove(stack, container)


def test_exec_start_sends_the_common_headers(stack: Stack) -> None:
    container = create(stack, ["sleep", "100"])
    ask(stack, "POST", f"/containers/{container}/start")
    body = json.dumps({"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True}).encode()
    kind = "Content-Type: application/json\r\n"
    exec_id = ask(stack, "POST", f"/containers/{container}/exec", body, kind).json()["Id"]
    with connect(stack) as connection:
        start = b'{"Detach":false,"Tty":false}'
        head = f"POST /v1.50/exec/{exec_id}/start HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        head += f"{kind}Content-Length: {len(start)}\r\n\r\n"
        connection.sendall(head.encode() + start)
        answer = read_head(connection)
        assert answer.status == 101
        assert answer.headers["api-version"] == MAX
        connection.sendall(b"to and fro")
        connection.shutdown(socket.SHUT_WR)
        assert frames(read_all(connection)) == [(1, b"to and fro")]
    found = ask(stack, "GET", f"/exec/{exec_id}/json").json()
    assert (found["Running"], found["ExitCode"]) == (False, 0)
    again = ask(stack, "POST", f"/exec/{exec_id}/start", b"{}", kind)
    assert again.status == 409
    remove(stack, container)


def test_wait_flushes_its_headers_at_once(stack: Stack) -> None:
    container = create(stack, ["sh", "-c", "exit 3"])
    with connect(stack) as connection:
        path = f"/containers/{container}/wait?condition=next-exit"
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert read_head(connection).status == 200
        ask(stack, "POST", f"/containers/{container}/start")
        assert b'{"StatusCode":3}' in read_all(connection)
    remove(stack, container)


def test_logs_need_a_stream(stack: Stack) -> None:
    container = create(stack, ["true"])
    answer = ask(stack, "GET", f"/containers/{container}/logs")
    assert answer.status == 400
    assert "must specify at least one of" in answer.json()["message"]
    remove(stack, container)


def test_events_content_types(stack: Stack) -> None:
    def kind(prefix: str, accept: str = "") -> str:
        headers = f"Accept: {accept}\r\n" if accept else ""
        return ask(stack, "GET", f"{prefix}/events?since=0&until=1", headers=headers).headers["content-type"]

    assert kind("/v1.51") == "application/json"
    assert kind("") == "application/jsonl"
    assert kind("", "application/x-ndjson") == "application/x-ndjson"
    assert kind("", "application/json-seq") == "application/json-seq"


def test_older_versions_of_answers(stack: Stack) -> None:
    container = create(stack, ["true"])
    new = ask(stack, "GET", f"/containers/{container}/json").json()
    old = ask(stack, "GET", f"/v1.44/containers/{container}/json").json()
    assert "IPAddress" in old["NetworkSettings"]
    assert "IPAddress" not in new["NetworkSettings"]
    assert ("GraphDriver" in old, "GraphDriver" in new) == (True, False)
    assert "ImageManifestDescriptor" not in old
    assert "Health" not in ask(stack, "GET", "/v1.44/containers/json?all=1").json()[0]
    assert "Containerd" not in ask(stack, "GET", "/v1.44/info").json()
    status = ask(stack, "GET", "/v1.44/info").json()["Runtimes"]["orlop"]["status"]
    assert "hooks" in json.loads(status["org.opencontainers.runtime-spec.features"])
    assert "status" not in ask(stack, "GET", "/v1.43/info").json()["Runtimes"]["orlop"]
    remove(stack, container)
