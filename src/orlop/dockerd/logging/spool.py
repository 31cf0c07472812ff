# SPDX-License-Identifier: Apache-2.0
"""The log of a container on its way to a collector: read in order across rotations, with a position that is kept.

The position is written down when what was read has been handed over. A daemon that dies in between hands the last
batch over again at its next start; no line is left out.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from orlop.dockerd.containers.log_files import File, close_files, inode_at, open_all
from orlop.dockerd.logging.collector import Message, Partial
from orlop.dockerd.logging.forms import Entry, Form

_BATCH = 128 * 1024
"""Bytes of the file that are handed over at once."""
_LINE = 64
"""Bytes of the file with the position, so that each write replaces all of it."""


class Batch(NamedTuple):
    """Messages, and the offset behind them in the file they are from."""

    messages: list[Message]
    offset: int


class Spool:
    """`kept` is how many files stay when they have been handed over."""

    def __init__(self, path: str, form: Form, position: str, kept: int) -> None:
        self._path = path
        self._form = form
        self._kept = kept
        self._position = os.open(position, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file: File | None = None
        self._offset = 0
        self._pieces: dict[str, tuple[str, int]] = {}

    def close(self) -> None:
        """Close the files."""
        os.close(self._position)
        if self._file is not None:
            close_files([self._file])
            self._file = None

    def read(self) -> Batch | None:
        """What comes next; None if there is nothing yet."""
        if self._file is None:
            self._file = self._begin()
        while self._file is not None:
            data = os.pread(self._file.fd, _BATCH, self._offset)
            entries, length = self._form.split(data)
            if length:
                return Batch(list(self._messages(entries)), self._offset + length)
            following = self._next()
            if following is None:
                return None
            # The old file gets nothing more once a newer one exists, but may have got some before.
            if os.fstat(self._file.fd).st_size == self._offset + len(data):
                close_files([self._file])
                self._file, self._offset = following, 0
                self._save()
                self._trim()
            else:
                close_files([following])
        return None

    def done(self, batch: Batch) -> None:
        """A batch has been handed over: the next `read` goes on behind it."""
        self._offset = batch.offset
        self._save()

    def _begin(self) -> File | None:
        """The file where the kept position is; the oldest one if there is no such file."""
        files = open_all(self._path)
        if not files:
            return None
        device, inode, offset = self._load()
        chosen = files[0]
        for file in files:
            if file.inode == (device, inode) and offset <= os.fstat(file.fd).st_size:
                chosen, self._offset = file, offset
        close_files([file for file in files if file is not chosen])
        return chosen

    def _next(self) -> File | None:
        assert self._file is not None
        if self._file.inode == inode_at(self._path):
            return None
        files = open_all(self._path)
        inodes = [file.inode for file in files]
        after = inodes.index(self._file.inode) + 1 if self._file.inode in inodes else 0
        chosen = files.pop(after) if after < len(files) else None
        close_files(files)
        return chosen

    def _trim(self) -> None:
        """Remove old files that have been handed over.

        The writer may rename each to the next number meanwhile, so that is left whose newer neighbour has to stay.
        """
        assert self._file is not None
        numbers = _numbers(self._path)
        reading = next((at for at in numbers if inode_at(f"{self._path}.{at}") == self._file.inode), 0)
        for number in numbers:
            if number > max(self._kept, reading + 1):
                Path(f"{self._path}.{number}").unlink(missing_ok=True)

    def _load(self) -> tuple[int, int, int]:
        words = os.pread(self._position, _LINE, 0).split()
        return (int(words[0]), int(words[1]), int(words[2])) if len(words) == 3 else (0, 0, 0)

    def _save(self) -> None:
        assert self._file is not None
        os.pwrite(self._position, b"%-*b\n" % (_LINE - 1, b"%d %d %d" % (*self._file.inode, self._offset)), 0)

    def _messages(self, entries: list[Entry]) -> Iterator[Message]:
        for entry in entries:
            whole = entry.log.endswith("\n")
            line = entry.log[:-1] if whole else entry.log
            partial = None
            if not whole or entry.stream in self._pieces:
                identity, count = self._pieces.pop(entry.stream, ("", 0))
                identity = identity or secrets.token_hex(32)
                partial = Partial(identity, count + 1, whole)
                if not whole:
                    self._pieces[entry.stream] = identity, count + 1
            yield Message(line, entry.stream, entry.time, partial)


def _numbers(path: str) -> list[int]:
    """The numbers of a log's older files."""
    directory, name = os.path.split(path)
    ends = (found.removeprefix(f"{name}.") for found in os.listdir(directory) if found.startswith(f"{name}."))
    return sorted(int(end) for end in ends if end.isdecimal())
