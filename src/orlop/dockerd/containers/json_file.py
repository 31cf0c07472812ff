# SPDX-License-Identifier: Apache-2.0
"""Docker's json-file log format: writing, for processes on a foreign shim. Our shim writes its own."""

import os
from pathlib import Path

import msgspec

from orlop.dockerd import timestamps

_LINE_LIMIT = 16 * 1024
"""A longer line is cut into entries; all but the last lack the newline."""


class JsonFileWriter:
    """Appends to `path`; above `max_size` bytes (0: never) it becomes `path`.1 and so on, `max_files` in all."""

    def __init__(self, path: str, max_size: int = 0, max_files: int = 1) -> None:
        self._path = path
        self._max_size = max_size
        self._max_files = max_files
        self._partial: dict[str, bytes] = {}
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, data: bytes) -> None:
        """Log output; what follows the last newline waits for more."""
        data = self._partial.pop(stream, b"") + data
        moment = timestamps.rfc3339_fixed(timestamps.now())
        entries = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            for cut in range(start, end + 1, _LINE_LIMIT):
                entries.append(_entry(data[cut : min(cut + _LINE_LIMIT, end + 1)], stream, moment))
            start = end + 1
        rest = data[start:]
        while len(rest) >= _LINE_LIMIT:
            entries.append(_entry(rest[:_LINE_LIMIT], stream, moment))
            rest = rest[_LINE_LIMIT:]
        if rest:
            self._partial[stream] = rest
        if entries:
            self._append(b"".join(entries))

    def flush(self, stream: str) -> None:
        """Log a last line without a newline."""
        if rest := self._partial.pop(stream, b""):
            self._append(_entry(rest, stream, timestamps.rfc3339_fixed(timestamps.now())))

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: bytes) -> None:
        os.write(self._fd, data)
        self._size += len(data)
        if 0 < self._max_size <= self._size:
            self._rotate()

    def _rotate(self) -> None:
        os.close(self._fd)
        for number in range(self._max_files - 1, 0, -1):
            older = Path(f"{self._path}.{number}")
            newer = Path(f"{self._path}.{number - 1}" if number > 1 else self._path)
            if newer.exists():
                newer.replace(older)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_TRUNC
        self._fd = os.open(self._path, flags, 0o640)
        self._size = 0


def _entry(line: bytes, stream: str, moment: str) -> bytes:
    text = line.decode("utf-8", "replace")
    return msgspec.json.encode({"log": text, "stream": stream, "time": moment}) + b"\n"
