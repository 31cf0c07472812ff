# SPDX-License-Identifier: Apache-2.0
"""Docker's json-file format: against a slow and simple model of it, byte for byte, and its rotation."""

import json
import os
import random
from pathlib import Path

import pytest

from orlop.shim.io.jsonlog import PARTIAL, Clock, Encoder, JsonLog, escape


def model_escape(data: bytes) -> str:
    """What Docker writes for these bytes, one at a time."""
    out = ""
    at = 0
    while at < len(data):
        byte = data[at]
        if byte < 0x80:
            special = {0x5C: "\\\\", 0x22: '\\"', 0x0A: "\\n", 0x0D: "\\r"}
            if byte in special:
                out += special[byte]
            elif byte < 0x20 or chr(byte) in "<>&":
                out += f"\\u00{byte:02x}"
            else:
                out += chr(byte)
            at += 1
            continue
        for size in (2, 3, 4):
            try:
                char = data[at : at + size].decode()
            except UnicodeDecodeError:
                continue
            if len(char) == 1:
                out += {"\u2028": "\\u2028", "\u2029": "\\u2029"}.get(char, char)
                at += size
                break
        else:
            out += "\\ufffd"
            at += 1
    return out


def model_log(pieces: list[bytes], stream: str) -> list[str]:
    """The log texts that Docker makes of a stream, whatever the pieces."""
    texts = []
    data = b"".join(pieces)
    while data:
        line, newline, rest = data.partition(b"\n")
        while len(line) >= PARTIAL:
            texts.append(model_escape(line[:PARTIAL]))
            line = line[PARTIAL:]
        if newline:
            texts.append(model_escape(line) + "\\n")
        elif line:
            texts.append(model_escape(line))
        data = rest
    return texts


@pytest.mark.parametrize(
    "data",
    [
        b"plain",
        b'q"b\\s/<a>&\x00\x07\t\x1b[0m\x7f\r',
        "é漢😀\u2028\u2029\ufffd".encode(),
        b"\xff\xfe \xc3( \xe2\x82 \xf0\x9f\x98 \xed\xa0\x80 \xc0\xaf",
    ],
)
def test_escapes(data: bytes) -> None:
    assert escape(data).decode() == model_escape(data)


def test_escapes_random_bytes() -> None:
    choose = random.Random(1)
    for _ in range(300):
        data = bytes(choose.choice(b'ab"\\<\x00\x1f\x80\xc3\xa9\xe2\x80\xa8\xf0\x9f\x98\x80') for _ in range(40))
        assert escape(data).decode() == model_escape(data)


def test_lines_in_any_pieces() -> None:
    choose = random.Random(2)
    for _ in range(60):
        lengths = [choose.choice((0, 1, 5, 300, PARTIAL - 1, PARTIAL, PARTIAL + 1, 3 * PARTIAL)) for _ in range(6)]
        data = b"\n".join(bytes(choose.choice(b"xyz<") for _ in range(length)) for length in lengths)
        data += choose.choice((b"", b"\n"))
        pieces = []
        while data:
            size = choose.choice((1, 100, 4096, 65536))
            if size == 1 and len(data) > 1000:
                size = 777
            pieces.append(data[:size])
            data = data[size:]
        encoder = Encoder(1)
        raw = b"".join([encoder.feed(piece, 5) for piece in pieces] + [encoder.flush(5)])
        stamp = '","stream":"stdout","time":"1970-01-01T00:00:00.000000005Z"}'
        assert raw.decode().splitlines() == ['{"log":"' + text + stamp for text in model_log(pieces, "stdout")]


def test_pieces_of_a_long_line_have_its_first_time() -> None:
    encoder = Encoder(2)
    raw = encoder.feed(b"a" * PARTIAL, 1_000_000_000) + encoder.feed(b"b\nc\n", 2_000_000_000)
    entries = [json.loads(line) for line in raw.splitlines()]
    assert [(entry["log"][-2:], entry["time"][17:], entry["stream"]) for entry in entries] == [
        ("aa", "01Z", "stderr"),
        ("b\n", "01Z", "stderr"),
        ("c\n", "02Z", "stderr"),
    ]


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (1_700_000_000_100_000_000, "2023-11-14T22:13:20.1Z"),
    ],
)
def test_times_as_go_writes_them(nanoseconds: int, text: str) -> None:
    assert Clock().format(nanoseconds).decode() == text


def test_attrs() -> None:
    entry = Encoder(1, '{"a":"b"}').feed(b"x\n", 0)
    assert entry == b'{"log":"x\\n","stream":"stdout","attrs":{"a":"b"},"time":"1970-01-01T00:00:00Z"}\n'


def texts(path: Path) -> list[str]:
    return [json.loads(line)["log"] for line in path.read_bytes().splitlines()]


def test_rotation_keeps_every_line_in_order_and_size(tmp_path: Path) -> None:
    path = tmp_path / "c-json.log"
    log = JsonLog(str(path), max_size=1000, max_file=3)
    for block in range(20):
        log.write(1, b"".join(b"line %d\n" % (block * 3 + n) for n in range(3)))
    log.close()
    files = [tmp_path / "c-json.log.2", tmp_path / "c-json.log.1", path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    kept = [int(text.split()[1]) for file in files for text in texts(file)]
    assert kept == list(range(kept[0], 60))
    for file in files[:2]:  # the entry that reached the limit is the last one
        size, last = file.stat().st_size, len(file.read_bytes().splitlines()[-1]) + 1
        assert size >= 1000 > size - last


def test_one_file_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    log = JsonLog(str(path), max_size=200, max_file=1)
    log.write(1, b"".join(b"line %d\n" % n for n in range(50)))
    log.close()
    assert [file.name for file in tmp_path.iterdir()] == ["c.log"]
    assert texts(path)[-1] == "line 49\n"
    assert path.stat().st_size < 300


def test_batches_are_cut_at_the_limit(tmp_path: Path) -> None:
    log = JsonLog(str(tmp_path / "c.log"), max_size=1000, max_file=100)
    log.write(1, b"x\n" * 5000)
    log.close()
    assert all(file.stat().st_size < 1100 for file in tmp_path.iterdir())
    assert sum(len(texts(file)) for file in tmp_path.iterdir()) >= 99 * 13


def _children() -> set[int]:
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}


def test_compressed_rotation(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "c.log"
    log = JsonLog(str(path), max_size=500, max_file=3, compress=True)
    for block in range(3):
        others = _children()
        log.write(1, b"".join(b"line %d\n" % (block * 10 + n) for n in range(8)))
        for compressing in _children() - others:
            os.waitpid(compressing, 0)
    log.close()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["c.log", "c.log.1.gz", "c.log.2.gz"]
    first = gzip.decompress((tmp_path / "c.log.1.gz").read_bytes())
    assert json.loads(first.splitlines()[0])["log"].startswith("line ")


def test_half_an_entry_of_a_crash_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    path.write_bytes(b'{"log":"half')
    log = JsonLog(str(path))
    log.write(1, b"next\n")
    log.close()
    assert [json.loads(line)["log"] for line in path.read_bytes().splitlines()[1:]] == ["next\n"]


def test_unfinished_line_comes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    log = JsonLog(str(path))
    log.write(1, b"a\nprompt> ")
    log.write(2, b"e")
    assert texts(path) == ["a\n"]
    log.end(1)
    log.end(2)
    assert texts(path) == ["a\n", "prompt> ", "e"]


@pytest.mark.root
def test_full_disk_loses_whole_entries_only(tmp_path: Path) -> None:
    import subprocess

    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", where], check=True)
    try:
        log = JsonLog(str(where / "c.log"))
        for _ in range(20):
            log.write(1, b"y" * 6000 + b"\n")
        full = texts(where / "c.log")
        assert 5 < len(full) < 20
        os.truncate(where / "c.log", 0)
        log.write(1, b"room again\n")
        log.close()
        assert texts(where / "c.log")[-1:] == ["room again\n"]
    finally:
        subprocess.run(["umount", where], check=True)
