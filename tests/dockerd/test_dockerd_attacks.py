# SPDX-License-Identifier: Apache-2.0
"""Requests that cost a daemon its memory, its time or its secrets elsewhere."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import tarfile
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from support.containerd import processes_about
from support.pace import PACE
from support.stack import Stack

pytestmark = pytest.mark.root

MIB = 1 << 20
PADDING = 256 * MIB
LONG = "0," * 200_000 + "8193"
SECRET = "vErY-sEcReT"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        running.load("busybox")
        yield running


def ask(stack: Stack, method: str, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """A request to the daemon."""
    connection = http.client.HTTPConnection("docker")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60 * PACE)
    try:
        connection.sock.connect(stack.socket)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Content-Type": "application/json", **named})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def peaks(stack: Stack) -> dict[int, int]:
    """The most memory that each of the stack's daemons and workers has had, KiB."""
    found = {}
    for pid, _ in processes_about(stack.base):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmHWM" in rows:
            found[pid] = int(rows["VmHWM"].split()[0])
    return found


def padded() -> bytes:
    """A tar of one file, and a quarter of a gigabyte of zeros behind its end, compressed."""
    plain = BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("here"))
    compressor = zlib.compressobj(9, wbits=31)
    parts = [compressor.compress(plain.getvalue())]
    parts += [compressor.compress(bytes(MIB)) for _ in range(PADDING // MIB)]
    return b"".join([*parts, compressor.flush()])


def test_padding_of_an_import_costs_no_memory(stack: Stack) -> None:
    """CVE-2017-14992: what stands behind the end of an archive was kept in memory."""
    bomb = padded()
    assert len(bomb) < 2 * MIB
    before = peaks(stack)
    status, answer = ask(stack, "POST", "/images/create?fromSrc=-&repo=padded", bomb)
    assert status == 200 and b"sha256:" in answer and b"error" not in answer, answer
    for pid, peak in peaks(stack).items():
        assert peak - before.get(pid, 0) < PADDING // 2048, (pid, peak)
    stack.docker("run", "--rm", "--entrypoint", "/nothing", "padded").err.index("no such file")
    stack.docker("rmi", "padded").ok()


@pytest.mark.parametrize("field", ["CpusetCpus", "CpusetMems"])
@pytest.mark.parametrize(
    "value", ["0-2147483647", "0-99999", "0," * 200_000 + "8193"], ids=["wide", "out", "long"]
)
def test_sets_of_cpus_are_not_spelled_out(stack: Stack, field: str, value: str) -> None:
    """CVE-2018-20699: a range was made a table of all its numbers."""
    body = json.dumps({"Image": "busybox", "HostConfig": {field: value}}).encode()
    begin, before = time.monotonic(), peaks(stack)
    status, answer = ask(stack, "POST", "/containers/create", body)
    assert status == 400 and b"value of out range, maximum is 8192" in answer, answer[:500]
    assert time.monotonic() - begin < 20 * PACE
    assert all(peak - before.get(pid, 0) < 64 * 1024 for pid, peak in peaks(stack).items())


def test_plugins_cannot_be_installed(stack: Stack) -> None:
    """CVE-2026-33997: of the privileges that a plugin asks for, the last was not compared with those allowed."""
    remote = "/plugins/pull?remote=example.com/plugin:1&name=evil"
    privileges = [{"Name": "network", "Description": "", "Value": ["host"]}, {"Name": "mount", "Value": ["/"]}]
    status, _ = ask(stack, "POST", remote, json.dumps(privileges[:1]).encode())
    assert status == 501
    assert ask(stack, "GET", "/plugins/privileges?remote=example.com/plugin:1", b"")[0] == 501
    assert json.loads(ask(stack, "GET", "/plugins", b"")[1]) == []


def test_no_secret_is_logged(stack: Stack) -> None:
    """CVE-2019-13509: bodies of requests stood in the log when debugging; this daemon debugs."""
    credentials = {"username": "jo", "password": SECRET, "serveraddress": "127.0.0.1:1"}
    encoded = base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()
    assert ask(stack, "POST", "/auth", json.dumps(credentials).encode())[0] >= 400
    ask(stack, "POST", "/images/create?fromImage=127.0.0.1:1/x&tag=1", b"", X_Registry_Auth=encoded)
    body = {"Image": "busybox", "Cmd": ["true", SECRET], "Env": [f"TOKEN={SECRET}"], "Labels": {"x": SECRET}}
    status, answer = ask(stack, "POST", "/containers/create", json.dumps(body).encode())
    assert status == 201, answer
    identifier = json.loads(answer)["Id"]
    assert ask(stack, "POST", f"/containers/{identifier}/start", b"")[0] == 204
    assert ask(stack, "POST", f"/containers/{identifier}/wait", b"")[0] == 200
    assert ask(stack, "DELETE", f"/containers/{identifier}", b"")[0] == 204
    for name in ("secrets", "configs"):
        data = base64.b64encode(SECRET.encode()).decode()
        ask(stack, "POST", f"/{name}/create", json.dumps({"Name": "x", "Data": data}).encode())
        assert data not in stack.log()
    assert "POST" in stack.log(), "the daemon does not debug"
    assert SECRET not in stack.log() and encoded not in stack.log()
    assert SECRET not in stack.containerd.log()
