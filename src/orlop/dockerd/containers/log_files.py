# SPDX-License-Identifier: Apache-2.0
"""Reads json-file logs: oldest file first, the last lines only, or following as they grow and rotate."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from orlop.dockerd import timestamps
from orlop.errdefs import InvalidArgumentError
from orlop.unix import inotify

_BLOCK = 256 * 1024
_ABSENT = (0, 0)
_ATTEMPTS = 100
"""How often a rotation may come in between before what was found is taken as it is."""
_WATCHED = inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO


class Entry(NamedTuple):
    """One entry: part of a line of output, or a whole one with its newline; `time` in nanoseconds since 1970."""

    log: str
    stream: str
    time: int


class _Line(msgspec.Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""


_decoder = msgspec.json.Decoder(_Line)


def parse_entry(line: bytes) -> Entry | None:
    """An entry, or None for a line that is none (a crash of the machine cut it)."""
    try:
        found = _decoder.decode(line)
        return Entry(found.log, found.stream, timestamps.parse(found.time) if found.time else 0)
    except (msgspec.DecodeError, InvalidArgumentError):
        return None


def rotated(path: str) -> list[str]:
    """The files of a log that exist, oldest first."""
    older = []
    number = 1
    # While the files are renamed, from the oldest on, one number may be missing.
    while (there := os.path.exists(f"{path}.{number}")) or os.path.exists(f"{path}.{number + 1}"):
        if there:
            older.append(f"{path}.{number}")
        number += 1
    return [*reversed(older), path]


def open_all(path: str) -> list[int]:
    """The files of a log, oldest first, as they were at one moment: a rotation meanwhile must not hide one."""
    for _ in range(_ATTEMPTS):
        fds = [fd for name in rotated(path) if (fd := _open(name)) is not None]
        now = [inode for name in rotated(path) if (inode := _inode(name)) != _ABSENT]
        if [_inode_of(os.fstat(fd)) for fd in fds] == now:
            break
        _close(fds)
    else:
        fds = [fd for name in rotated(path) if (fd := _open(name)) is not None]
    return fds


def read_all(fds: list[int]) -> Iterator[Entry]:
    """Every whole entry of open files, in their order."""
    for fd in fds:
        rest = b""
        while block := os.read(fd, _BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if (entry := parse_entry(line)) is not None:
                    yield entry
        # What is behind the last newline is not written whole yet: a follower shall read it again.
        if rest:
            os.lseek(fd, -len(rest), os.SEEK_CUR)


def seek_tail(fds: list[int], count: int) -> None:
    """Move the files' positions so that reading on yields the last `count` entries."""
    left = count
    for fd in reversed(fds):
        if left <= 0:
            os.lseek(fd, 0, os.SEEK_END)
            continue
        left -= _seek_back(fd, left)


def _seek_back(fd: int, count: int) -> int:
    """Position a file before its last `count` lines; how many there were at most `count`."""
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


class LogReader:
    """Reads one container's log; `ended` tells whether the process has ended and written its last line."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fds: list[int] = []

    def open(self, tail: int) -> None:
        """Open what there is now; `tail` entries of it are read (negative: all)."""
        self._fds = open_all(self._path)
        if tail >= 0:
            seek_tail(self._fds, tail)

    def close(self) -> None:
        """Close all files."""
        _close(self._fds)
        self._fds = []

    def read(self) -> Iterator[Entry]:
        """The entries that are there."""
        return read_all(self._fds)

    async def follow(self, ended: Callable[[], "asyncio.Future[Any] | None"]) -> AsyncIterator[Entry]:
        """Entries as they come, until the process has ended; `ended()` is a future of that, None: it has.

        The directory is watched, so that both growth and rotation are seen; nothing is polled.
        """
        del self._fds[:-1]
        watching = inotify.watch(str(Path(self._path).parent), _WATCHED)
        try:
            finished = ended()
            while True:
                over = finished is None or finished.done()
                for entry in self._new_entries():
                    yield entry
                if over or finished is None:
                    return
                await _changed(watching, finished)
        finally:
            os.close(watching)

    def _new_entries(self) -> Iterator[Entry]:
        """What was written since, through any number of rotations."""
        while True:
            yield from read_all(self._fds)
            newer = self._next_file()
            if newer is None:
                return
            # The old file gets nothing more once a newer one exists, but may have got some before.
            yield from read_all(self._fds)
            _close(self._fds)
            self._fds = [newer]

    def _next_file(self) -> int | None:
        """The file written after the one that is open, opened; None if that is still the latest."""
        current = _inode_of(os.fstat(self._fds[-1])) if self._fds else None
        if current is not None and current == _inode(self._path):
            return None
        fds = open_all(self._path)
        inodes = [_inode_of(os.fstat(fd)) for fd in fds]
        if current is None:
            after = len(fds) - 1  # nothing has been read yet: start with the latest
        elif current in inodes:
            after = inodes.index(current) + 1
        else:
            after = 0  # rotated out of existence: go on with the oldest
        chosen = fds.pop(after) if 0 <= after < len(fds) else None
        _close(fds)
        return chosen


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _inode(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return _ABSENT
    return _inode_of(status)


def _inode_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


async def _changed(watching: int, finished: "asyncio.Future[Any]") -> None:
    loop = asyncio.get_running_loop()
    changed: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not changed.done():
            changed.set_result(None)

    loop.add_reader(watching, wake)
    try:
        await asyncio.wait({changed, finished}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(watching)
    inotify.drain(watching)
