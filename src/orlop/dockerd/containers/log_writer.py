# SPDX-License-Identifier: Apache-2.0
"""Writes logs of processes on a foreign shim, in Docker's formats. Our shim writes its own."""

import os
from pathlib import Path
from typing import Protocol

import msgspec

from orlop.dockerd import timestamps
from orlop.dockerd.logging.place import Place
from orlop.rpc import logentry, stdcopy

_LINE_LIMIT = 16 * 1024
"""A longer line is cut into entries; all but the last lack the newline."""
_NUMBERS = {"stdout": stdcopy.STDOUT, "stderr": stdcopy.STDERR}


class Encoder(Protocol):
    """Turns the output of one stream into entries; what follows the last newline waits for more."""

    def feed(self, data: bytes, now: int) -> bytes:
        """The entries of what is complete; `now` in nanoseconds since 1970."""

    def flush(self, now: int) -> bytes:
        """The entry of a last line without a newline."""


class LogWriter:
    """Appends to a log; above its largest size the file becomes `path`.1 and so on."""

    def __init__(self, log: Place) -> None:
        self._path = log.path
        self._rotation = log.rotation
        self._encoders: dict[str, Encoder] = {
            name: _JsonEncoder(name, log.attrs)
            if log.scheme == "json-file"
            else logentry.Encoder(number, bytes.fromhex(log.attrs))
            for name, number in _NUMBERS.items()
        }
        self._fd = os.open(log.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, data: bytes) -> None:
        """Log output."""
        self._append(self._encoders[stream].feed(data, timestamps.now()))

    def flush(self, stream: str) -> None:
        """Log a last line without a newline."""
        self._append(self._encoders[stream].flush(timestamps.now()))

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: bytes) -> None:
        if not data:
            return
        os.write(self._fd, data)
        self._size += len(data)
        if 0 < self._rotation.size <= self._size:
            self._rotate()

    def _rotate(self) -> None:
        os.close(self._fd)
        for number in range(self._rotation.files - 1, 0, -1):
            older = Path(f"{self._path}.{number}")
            newer = Path(f"{self._path}.{number - 1}" if number > 1 else self._path)
            if newer.exists():
                newer.replace(older)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_TRUNC
        self._fd = os.open(self._path, flags, 0o640)
        self._size = 0


class _JsonEncoder:
    """json-file's entries."""

    def __init__(self, stream: str, attrs: str) -> None:
        self._stream = stream
        self._attrs = msgspec.json.decode(attrs) if attrs else None
        self._rest = b""

    def feed(self, data: bytes, now: int) -> bytes:
        data = self._rest + data
        moment = timestamps.rfc3339_fixed(now)
        entries = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            for cut in range(start, end + 1, _LINE_LIMIT):
                entries.append(self._entry(data[cut : min(cut + _LINE_LIMIT, end + 1)], moment))
            start = end + 1
        rest = data[start:]
        while len(rest) >= _LINE_LIMIT:
            entries.append(self._entry(rest[:_LINE_LIMIT], moment))
            rest = rest[_LINE_LIMIT:]
        self._rest = rest
        return b"".join(entries)

    def flush(self, now: int) -> bytes:
        rest, self._rest = self._rest, b""
        return self._entry(rest, timestamps.rfc3339_fixed(now)) if rest else b""

    def _entry(self, line: bytes, moment: str) -> bytes:
        found: dict[str, object] = {"log": line.decode("utf-8", "replace"), "stream": self._stream}
        if self._attrs is not None:
            found["attrs"] = self._attrs
        return msgspec.json.encode({**found, "time": moment}) + b"\n"
