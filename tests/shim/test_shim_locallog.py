# SPDX-License-Identifier: Apache-2.0
"""Docker's `local` log format, read by protobuf's own decoder: lines, long lines, rotation, half entries."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
from typing import TYPE_CHECKING

import pytest

from orlop.api.logdriver_pb2 import LogEntry
from orlop.rpc.logentry import PARTIAL, Encoder, encode_attrs
from orlop.shim.io.locallog import LocalLog

if TYPE_CHECKING:
    from pathlib import Path


def entries(raw: bytes) -> list[LogEntry]:
    """Every message of a file, between its length twice."""
    found = []
    while raw:
        length = int.from_bytes(raw[:4], "big")
        found.append(LogEntry.FromString(raw[4 : 4 + length]))
        assert raw[4 + length : 8 + length] == raw[:4]
        raw = raw[8 + length :]
    return found


def test_entries_are_what_protobuf_would_write() -> None:
    attrs = {"b": "x" * 300, "a": "ü"}
    encoder = Encoder(2, encode_attrs(attrs))
    moment = 1_700_000_000_123_456_789
    raw = encoder.feed(b"one\n\nthree\nrest", moment)
    (rest,) = entries(encoder.flush(moment + 1))
    assert (rest.line, rest.time_nano, rest.partial) == (b"rest", moment + 1, True)
    assert (rest.partial_log_metadata.ordinal, rest.partial_log_metadata.last) == (1, False)
    expected = []
    for line, time in ((b"one", moment), (b"", moment), (b"three", moment)):
        entry = LogEntry(source="stderr", time_nano=time, line=line)
        for key, value in sorted(attrs.items()):
            entry.attrs.add(key=key, value=value)
        message = entry.SerializeToString()
        expected.append(len(message).to_bytes(4, "big") + message + len(message).to_bytes(4, "big"))
    assert raw == b"".join(expected)


def test_long_lines_are_numbered_pieces() -> None:
    choose = random.Random(3)
    for length in (PARTIAL - 1, PARTIAL, PARTIAL + 1, 3 * PARTIAL, 3 * PARTIAL + 5):
        data = b"a\n" + b"x" * length + b"\nz\n"
        encoder, raw = Encoder(1), b""
        while data:
            size = choose.choice((1000, 20000, 70000))
            raw, data = raw + encoder.feed(data[:size], 5), data[size:]
        first, *pieces, last = entries(raw + encoder.flush(6))
        assert (first.line, first.partial, last.line, last.partial) == (b"a", False, b"z", False)
        assert b"".join(piece.line for piece in pieces) == b"x" * length
        if length < PARTIAL:
            assert not pieces[0].partial
            continue
        marks = [piece.partial_log_metadata for piece in pieces]
        assert all(piece.partial for piece in pieces)
        assert [mark.ordinal for mark in marks] == list(range(1, len(pieces) + 1))
        assert [mark.last for mark in marks] == [False] * (len(pieces) - 1) + [True]
        assert len({mark.id for mark in marks}) == 1
        assert len(marks[0].id) == 64


def test_rotation_and_compression(tmp_path: Path) -> None:
    path = tmp_path / "container.log"
    log = LocalLog(str(path), max_size=500, max_file=4, compress=True)
    for number in range(60):
        log.write(1, b"line %d\n" % number)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)  # a file that is full waits for the compression of the one before it
    log.close()
    names = sorted(found.name for found in tmp_path.iterdir())
    assert names == ["container.log", *(f"container.log.{number}.gz" for number in (1, 2, 3))]
    raws = [gzip.decompress((tmp_path / f"container.log.{number}.gz").read_bytes()) for number in (3, 2, 1)]
    lines = [entry.line for raw in (*raws, path.read_bytes()) for entry in entries(raw)]
    assert lines == [b"line %d" % number for number in range(60 - len(lines), 60)]
    assert all(500 <= len(raw) < 560 for raw in raws)


def test_nothing_is_lost_while_a_file_is_compressed(tmp_path: Path) -> None:
    path = tmp_path / "container.log"
    log = LocalLog(str(path), max_size=500, max_file=100, compress=True)
    for number in range(2000):
        log.write(1, b"line %d\n" % number)
    log.close()
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    packed = sorted(tmp_path.glob("*.gz"), key=lambda found: -int(found.name.split(".")[-2]))
    raws = [gzip.decompress(found.read_bytes()) for found in packed]
    lines = [entry.line for raw in (*raws, path.read_bytes()) for entry in entries(raw)]
    assert lines == [b"line %d" % number for number in range(2000)]


@pytest.mark.parametrize("cut", [1, 4, 7, 12])
def test_half_an_entry_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "container.log"
    log = LocalLog(str(path))
    log.write(1, b"one\ntwo\n")
    log.close()
    os.truncate(path, path.stat().st_size - cut)
    log = LocalLog(str(path))
    log.write(2, b"three\n")
    log.close()
    assert [entry.line for entry in entries(path.read_bytes())] == [b"one", b"three"]
