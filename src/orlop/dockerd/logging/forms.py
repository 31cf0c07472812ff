# SPDX-License-Identifier: Apache-2.0
"""The formats that logs are read in: Docker's json-file and `local`."""

import os
from typing import NamedTuple, Protocol

import msgspec
from google.protobuf.message import DecodeError

from orlop.api.logdriver_pb2 import LogEntry
from orlop.dockerd import timestamps
from orlop.errdefs import InvalidArgumentError

_BLOCK = 256 * 1024
_FRAME = 8
"""Bytes of an entry's length, before and after it."""


class Entry(NamedTuple):
    """One entry: part of a line of output, or a whole one with its newline; `time` in nanoseconds since 1970."""

    log: str
    stream: str
    time: int


class Form(Protocol):
    """How entries lie in a file."""

    def split(self, data: bytes) -> tuple[list[Entry], int]:
        """The whole entries at the beginning of `data`, and how many bytes they are."""

    def seek_back(self, fd: int, count: int) -> int:
        """Position a file before its last `count` entries; how many there were at most `count`."""


class _Line(msgspec.Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""


_decoder = msgspec.json.Decoder(_Line)


def parse_entry(line: bytes) -> Entry | None:
    """An entry of a json-file log, or None for a line that is none (a crash of the machine cut it)."""
    try:
        return _entry(_decoder.decode(line))
    except (msgspec.DecodeError, InvalidArgumentError):
        return None


def _entry(found: _Line) -> Entry:
    return Entry(found.log, found.stream, timestamps.parse_utc(found.time) if found.time else 0)


class JsonForm:
    """json-file: an object a line."""

    def split(self, data: bytes) -> tuple[list[Entry], int]:
        """What is behind the last newline is not written whole yet."""
        length = data.rfind(b"\n") + 1
        whole = data[:length]
        try:
            return [_entry(line) for line in _decoder.decode_lines(whole)], length
        except (msgspec.DecodeError, InvalidArgumentError):  # one of them: look at each
            return [entry for line in whole.split(b"\n") if (entry := parse_entry(line)) is not None], length

    def seek_back(self, fd: int, count: int) -> int:
        """Search backwards for newlines."""
        position = os.lseek(fd, 0, os.SEEK_END)
        found = -1  # the newline that ends the last line is not counted
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            block = os.pread(fd, size, position)
            at = len(block)
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                found += 1
                if found == count:
                    os.lseek(fd, position + at + 1, os.SEEK_SET)
                    return count
        os.lseek(fd, 0, os.SEEK_SET)
        return found + 1


class LocalForm:
    """`local`: protobuf messages, each between its length twice."""

    def split(self, data: bytes) -> tuple[list[Entry], int]:
        """An entry whose length is not there twice is not written whole yet."""
        entries = []
        at = 0
        while at + _FRAME <= len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            if at + _FRAME + length > len(data):
                break
            if (entry := _decode(data[at + 4 : at + 4 + length])) is not None:
                entries.append(entry)
            at += _FRAME + length
        return entries, at

    def seek_back(self, fd: int, count: int) -> int:
        """Go backwards from length to length."""
        position = os.lseek(fd, 0, os.SEEK_END)
        found = 0
        while found < count and position >= _FRAME:
            length = int.from_bytes(os.pread(fd, 4, position - 4), "big")
            if length + _FRAME > position:
                break
            position -= length + _FRAME
            found += 1
        os.lseek(fd, position, os.SEEK_SET)
        return found


def _decode(message: bytes) -> Entry | None:
    try:
        found = LogEntry.FromString(message)
    except DecodeError:
        return None
    unfinished = found.partial and not found.partial_log_metadata.last
    text = found.line.decode("utf-8", "surrogateescape")
    return Entry(text if unfinished else f"{text}\n", found.source, found.time_nano)


JSON = JsonForm()
LOCAL = LocalForm()
