# SPDX-License-Identifier: Apache-2.0
"""Reads logs in files: oldest file first, the last lines only, or following as they grow and rotate."""

import asyncio
import gzip
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from orlop.dockerd.logging.forms import JSON, Entry, Form
from orlop.dockerd.logging.watcher import Watcher

_BLOCK = 256 * 1024
_HEAD = 512
"""Bytes that tell one file from another: the moment of its first entry is among them."""
_ABSENT = (0, 0)
_ATTEMPTS = 100
"""How often a rotation may come in between before what was found is taken as it is."""


class File(NamedTuple):
    """An open file of a log; one that is compressed is unpacked when it is read."""

    fd: int
    inode: tuple[int, int]
    packed: bool


def rotated(path: str) -> list[str]:
    """The files of a log that exist, oldest first."""
    older = []
    number = 1
    # While the files are renamed, from the oldest on, one number may be missing.
    while (name := _numbered(path, number)) or _numbered(path, number + 1):
        if name:
            older.append(name)
        number += 1
    return [*reversed(older), path]


def _numbered(path: str, number: int) -> str:
    """The plain file as long as it is there: what is being compressed is there twice for a moment."""
    for name in (f"{path}.{number}", f"{path}.{number}.gz"):
        if os.path.exists(name):
            return name
    return ""


def open_all(path: str) -> list[File]:
    """The files of a log, oldest first, as they were at one moment: a rotation meanwhile must not hide one."""
    for _ in range(_ATTEMPTS):
        files = _open_now(path)
        now = [inode for name in rotated(path) if (inode := inode_at(name)) != _ABSENT]
        if [file.inode for file in files] == now:
            return files
        close_files(files)
    return _open_now(path)


def _open_now(path: str) -> list[File]:
    found = []
    for name in rotated(path):
        fd = _open(name)
        if fd is not None:
            found.append(File(fd, _inode_of(os.fstat(fd)), name.endswith(".gz")))
    return found


def unpacked(file: File) -> File:
    """The file, or what it was before it was compressed, in a file without a name."""
    if not file.packed:
        return file
    with tempfile.TemporaryFile() as plain, open(file.fd, "rb", closefd=False) as raw:
        with gzip.open(raw) as packed:
            shutil.copyfileobj(packed, plain, _BLOCK)
        fd = os.dup(plain.fileno())
    os.lseek(fd, 0, os.SEEK_SET)
    os.close(file.fd)
    return File(fd, file.inode, False)


def read_all(files: list[File], form: Form) -> Iterator[Entry]:
    """Every whole entry of open files, in their order."""
    for position, file in enumerate(files):
        files[position] = plain = unpacked(file)
        rest = b""
        while block := os.read(plain.fd, _BLOCK):
            data = rest + block
            entries, length = form.split(data)
            yield from entries
            rest = data[length:]
        # What is not written whole yet a follower shall read again.
        if rest:
            os.lseek(plain.fd, -len(rest), os.SEEK_CUR)


def seek_tail(files: list[File], count: int, form: Form) -> None:
    """Move the files' positions so that reading on yields the last `count` entries."""
    left = count
    for position in range(len(files) - 1, -1, -1):
        if left <= 0 and position < len(files) - 1:
            close_files(files[: position + 1])
            del files[: position + 1]
            return
        files[position] = plain = unpacked(files[position])
        if left <= 0:
            os.lseek(plain.fd, 0, os.SEEK_END)
        else:
            left -= form.seek_back(plain.fd, left)


class LogReader:
    """Reads one container's log; `ended` tells whether the process has ended and written its last line."""

    def __init__(self, path: str, form: Form = JSON, watcher: Watcher | None = None) -> None:
        self._path = path
        self._form = form
        self._watcher = watcher or Watcher()
        self._files: list[File] = []

    def open(self, tail: int) -> None:
        """Open what there is now; `tail` entries of it are read (negative: all)."""
        self._files = open_all(self._path)
        if tail >= 0:
            seek_tail(self._files, tail, self._form)

    def close(self) -> None:
        """Close all files."""
        close_files(self._files)
        self._files = []

    def read(self) -> Iterator[Entry]:
        """The entries that are there."""
        return read_all(self._files, self._form)

    async def follow(self, ended: Callable[[], "asyncio.Future[Any] | None"]) -> AsyncIterator[Entry]:
        """Entries as they come, until the process has ended; `ended()` is a future of that, None: it has.

        The directory is watched, so that both growth and rotation are seen; nothing is polled.
        """
        close_files(self._files[:-1])
        del self._files[:-1]
        watch = self._watcher.watch(str(Path(self._path).parent))
        try:
            finished = ended()
            while True:
                over = finished is None or finished.done()
                for entry in self._new_entries():
                    yield entry
                if over or finished is None:
                    return
                await watch.wait(finished)
        finally:
            watch.close()

    def _new_entries(self) -> Iterator[Entry]:
        """What was written since, through any number of rotations."""
        while True:
            yield from read_all(self._files, self._form)
            newer = self._next_file()
            if newer is None:
                return
            # The old file gets nothing more once a newer one exists, but may have got some before.
            yield from read_all(self._files, self._form)
            close_files(self._files)
            self._files = [newer]

    def _next_file(self) -> File | None:
        """The file written after the one that is open, opened; None if that is still the latest."""
        current = self._files[-1] if self._files else None
        if current is not None and current.inode == inode_at(self._path):
            return None
        files = open_all(self._path)
        after = 0  # where the current one was rotated out of existence: go on with the oldest
        if current is None:
            after = len(files) - 1  # nothing has been read yet: start with the latest
        else:
            for position, file in enumerate(files):
                if _same(current, file):
                    after = position + 1
        chosen = files.pop(after) if 0 <= after < len(files) else None
        close_files(files)
        return chosen


def _same(current: File, file: File) -> bool:
    """Whether a file is the one that is open, which may have been compressed since."""
    if current.inode == file.inode:
        return True
    if not file.packed:
        return False
    with open(file.fd, "rb", closefd=False) as raw, gzip.open(raw) as packed:
        head = packed.read(_HEAD)
    os.lseek(file.fd, 0, os.SEEK_SET)
    return head == os.pread(current.fd, _HEAD, 0)


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def inode_at(path: str) -> tuple[int, int]:
    """What tells the file at a path from others; nothing if there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return _ABSENT
    return _inode_of(status)


def _inode_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def close_files(files: list[File]) -> None:
    """Close them."""
    for file in files:
        os.close(file.fd)
