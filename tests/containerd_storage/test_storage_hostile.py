# SPDX-License-Identifier: Apache-2.0
"""Layers that are made to cost much: memory, time, disk. What they may not reach is in test_storage_apply.py."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator

import pytest
import zstandard
from support.storage import digest_of

pytestmark = pytest.mark.root

BLOCK = 512
RESOURCE_EXHAUSTED = 8
INVALID_ARGUMENT = 3
_WORKER = "import orlop.containerd.plugins.layer_worker as w; w.MEMORY_MAX = {limit}; w.main({fd})"


class Worker:
    """The process that unpacks layers, as the daemon starts it, and a directory to unpack to."""

    def __init__(self, limit: int = 2 << 30) -> None:
        self.root = tempfile.mkdtemp(prefix="orlop-hostile-", dir="/var/tmp")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(110)
        with theirs:
            code = _WORKER.format(limit=limit, fd=theirs.fileno())
            self.process = subprocess.Popen([sys.executable, "-P", "-c", code], pass_fds=(theirs.fileno(),))

    def apply(self, blob: bytes) -> dict[str, object]:
        """Unpack a layer: the answer."""
        with tempfile.TemporaryFile(dir="/var/tmp") as file:
            file.write(blob)
            file.flush()
            root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
            job = json.dumps(
                {"digest": digest_of(blob), "opaque": "trusted.overlay.opaque", "sync": False}
            ).encode()
            try:
                socket.send_fds(self._socket, [job], [file.fileno(), root])
            finally:
                os.close(root)
            answer: dict[str, object] = json.loads(self._socket.recv(1 << 16))
        return answer

    def peak(self) -> int:
        """The most memory that it has had, in bytes."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            (line,) = [line for line in file if line.startswith("VmHWM:")]
        return int(line.split()[1]) << 10

    def close(self) -> None:
        """End it."""
        self._socket.close()
        assert self.process.wait(10) == 0
        shutil.rmtree(self.root)


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker."""
    worker = Worker()
    yield worker
    worker.close()


def header(name: str, size: int = 0, type: bytes = tarfile.REGTYPE, **fields: object) -> bytes:
    """The header of a member."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, type
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def repeated(block: bytes, count: int, compress: str) -> bytes:
    """`count` blocks, compressed as they are made."""
    buffer = io.BytesIO()
    writer = zstandard.ZstdCompressor(level=1).stream_writer(buffer, closefd=False)
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) if compress == "gzip" else writer as file:
        for _ in range(count):
            file.write(block)
    return buffer.getvalue()


@pytest.mark.parametrize("compress", ["gzip", "zstd"])
def test_a_bomb_costs_no_memory(worker: Worker, compress: str) -> None:
    """A gigabyte out of a few: after the archive's end, where nothing of it is wanted, and as a file."""
    blob = repeated(bytes(1 << 20), 1024, compress)
    assert len(blob) < 8 << 20
    answer = worker.apply(blob)
    assert answer["size"] == 1 << 30
    assert worker.peak() < 100 << 20
    assert os.listdir(worker.root) == []


def test_a_bomb_of_bombs_is_not_looked_into(worker: Worker) -> None:
    inner = repeated(bytes(1 << 20), 256, "gzip")
    padding = bytes(-len(inner) % BLOCK)
    layer = gzip.compress(header("bomb.gz", len(inner)) + inner + padding + bytes(1024))
    assert "size" in worker.apply(layer)
    assert os.path.getsize(f"{worker.root}/bomb.gz") == len(inner)


def test_members_without_end_are_one_clear_error() -> None:
    """The names of a layer are remembered: what that may take is limited, and the next worker begins anew."""
    worker = Worker(limit=48 << 20)
    try:
        long = "/".join(["d" * 240] * 15)
        members = (header(f"{long}/{number}", 0, tarfile.SYMTYPE, linkname="x") for number in range(20_000))
        answer = worker.apply(gzip.compress(b"".join(members), 1))
        assert answer == {
            "code": RESOURCE_EXHAUSTED,
            "message": "layer takes more than 48 MiB of memory to unpack",
        }
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("layer", "code", "message"),
    [
        (header("huge", 1 << 62), INVALID_ARGUMENT, "unexpected end"),
        (header("long", 1 << 40, b"L"), INVALID_ARGUMENT, "too long"),
        (header("pax", 1 << 40, tarfile.XHDTYPE), INVALID_ARGUMENT, "too long"),
        (
            header("./p", 40, tarfile.XHDTYPE)
            + b"40 GNU.sparse.realsize=99999999999999999\n"[:40].ljust(BLOCK, b"\0"),
            INVALID_ARGUMENT,
            "malformed pax header",
        ),
        (header("/".join(["d"] * 3000)), INVALID_ARGUMENT, "File name too long"),
        (header("n" * 300), INVALID_ARGUMENT, "File name too long"),
    ],
)
def test_sizes_that_are_not_true(worker: Worker, layer: bytes, code: int, message: str) -> None:
    start = time.monotonic()
    answer = worker.apply(layer)
    assert (answer["code"], message in str(answer["message"])) == (code, True), answer
    assert worker.peak() < 100 << 20
    assert time.monotonic() - start < 20


def test_a_file_of_holes_only(worker: Worker) -> None:
    """A sparse file may be larger than any disk: it is made if the file system can, and takes nothing."""
    records = b"".join(
        b"%d %s\n" % (len(record) + 4, record)
        for record in (b"GNU.sparse.major=0", b"GNU.sparse.minor=1", b"GNU.sparse.size=9000000000000000000")
    )
    layer = header("./pax", len(records), tarfile.XHDTYPE) + records.ljust(BLOCK, b"\0") + header("holes")
    answer = worker.apply(layer + bytes(1024))
    if "code" in answer:
        assert (answer["code"], "holes" in str(answer["message"])) == (RESOURCE_EXHAUSTED, True), answer
    else:
        assert os.stat(f"{worker.root}/holes").st_blocks == 0


def test_one_name_many_times(worker: Worker) -> None:
    """The last member of a name counts, whatever kinds came before."""
    kinds = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE]
    members = [header("name", 0, kinds[number % 4], linkname="/etc") for number in range(4000)]
    assert "size" in worker.apply(gzip.compress(b"".join(members) + header("name", 0) + bytes(1024)))
    assert os.listdir(worker.root) == ["name"]
    assert os.path.isfile(f"{worker.root}/name")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_million_members(worker: Worker) -> None:
    members = (header(f"d{number // 1000}/f{number}") for number in range(1_000_000))
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        for member in members:
            file.write(member)
    worker._socket.settimeout(500)
    answer = worker.apply(buffer.getvalue())
    assert answer["size"] == 1_000_000 * BLOCK
    assert worker.peak() < 400 << 20
    assert len(os.listdir(worker.root)) == 1000
