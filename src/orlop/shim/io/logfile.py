# SPDX-License-Identifier: Apache-2.0
"""The file that a log is appended to, whatever the format: written by the batch, rotated by size."""

import os
import select
import time
from collections.abc import Mapping
from typing import Protocol

from orlop.shim import log
from orlop.unix.process import close_range


class Encoder(Protocol):
    """Turns the bytes of one stream into log entries; keeps the unfinished line. Times in nanoseconds."""

    def feed(self, data: bytes, now: int) -> bytes:
        """The entries of all lines that are complete now."""

    def flush(self, now: int) -> bytes:
        """The entry of a last line without a newline."""


class Form(Protocol):
    """What the file has to know of its format."""

    def crossing(self, entries: bytes, at: int) -> int:
        """Where the entry ends that has byte `at` - 1 of whole entries."""

    def mend(self, fd: int, size: int) -> int:
        """Make a file of whole entries of it; its size then."""


class LogFile:
    """The log file of one process, as a sink. Never full: a disk that is full loses entries, not the process."""

    full = False

    def __init__(
        self,
        path: str,
        encoders: Mapping[int, Encoder],
        form: Form,
        *,
        max_size: int = 0,
        max_file: int = 1,
        compress: bool = False,
    ) -> None:
        """`encoders` by stream; `max_size` in bytes, 0 for no limit."""
        self._path = path
        self._max_size = max_size
        self._max_file = max_file
        self._compress = compress and max_file > 1
        self._encoders = encoders
        self._form = form
        self._open = {1, 2}
        self._fd = _open(path, os.O_APPEND)
        self._size = os.fstat(self._fd).st_size
        self._failing = False
        self._compressor = -1  # a descriptor of the process that compresses
        if self._size:
            # A machine that went down may have left half an entry, which would spoil the next one too.
            self._size = form.mend(self._fd, self._size)

    def write(self, stream: int, data: bytes) -> None:
        """Write the lines that are complete, in one system call unless the file is rotated on the way."""
        self._log(self._encoders[stream].feed(data, time.time_ns()))

    def end(self, stream: int) -> None:
        """Write an unfinished last line; close when both streams are over."""
        if stream in self._open:
            self._open.discard(stream)
            self._log(self._encoders[stream].flush(time.time_ns()))
            if not self._open:
                self.close()

    def close(self) -> None:
        """Write what is unfinished and close."""
        for stream in tuple(self._open):
            self._open.discard(stream)
            self._log(self._encoders[stream].flush(time.time_ns()))
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._compressor >= 0:
            os.close(self._compressor)
            self._compressor = -1

    def _log(self, entries: bytes) -> None:
        if self._fd < 0:
            return
        while entries:
            cut = len(entries)
            if self._max_size and not self._compressing():
                if self._size >= self._max_size:
                    self._rotate()
                room = self._max_size - self._size
                if cut > room:  # as Docker: the entry that crosses the limit is the file's last
                    cut = self._form.crossing(entries, room)
            self._append(entries[:cut])
            entries = entries[cut:]

    def _append(self, entries: bytes) -> None:
        written = 0
        try:
            while written < len(entries):
                written += os.write(self._fd, entries[written:])
        except OSError as error:
            if not self._failing:
                log.error(f"{self._path}: log entries are lost: {error.strerror}")
            self._failing = True
            if written:
                # No half entries: readers parse every line.
                os.ftruncate(self._fd, self._size)
            return
        self._failing = False
        self._size += written

    def _rotate(self) -> None:
        try:
            if self._max_file > 1:
                for number in range(self._max_file - 1, 1, -1):
                    _rename(f"{self._path}.{number - 1}", f"{self._path}.{number}")
                    if self._compress:
                        _rename(f"{self._path}.{number - 1}.gz", f"{self._path}.{number}.gz")
                os.rename(self._path, f"{self._path}.1")
            else:
                os.unlink(self._path)
        except FileNotFoundError:
            pass  # somebody removed the log: a new one follows
        except OSError as error:
            log.error(f"{self._path}: cannot rotate: {error.strerror}")
        try:
            fresh = _open(self._path, os.O_TRUNC)
        except OSError as error:
            log.error(f"{self._path}: cannot make a new log, the old one grows on: {error.strerror}")
            self._size = 0
            return
        os.close(self._fd)
        self._fd = fresh
        self._size = 0
        if self._compress:
            self._compressor = _compress(f"{self._path}.1")

    def _compressing(self) -> bool:
        """Whether the last file is still being compressed: the next one grows on meanwhile, and nobody waits."""
        if self._compressor < 0:
            return False
        if not select.select([self._compressor], [], [], 0)[0]:
            return True
        os.close(self._compressor)
        self._compressor = -1
        return False


def _open(path: str, flags: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND | flags, 0o640)


def _rename(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        return  # fewer files than allowed so far


def _compress(path: str) -> int:
    """Replace a rotated file with its .gz, in a child, so that the process's output does not wait; its pidfd."""
    pid = os.fork()
    if pid:
        return os.pidfd_open(pid)
    try:
        close_range(3)
        os.nice(10)
        import gzip
        import shutil

        with open(path, "rb") as plain, gzip.open(f"{path}.gz.tmp", "wb", compresslevel=6) as packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
        os.chmod(f"{path}.gz.tmp", 0o640)
        os.rename(f"{path}.gz.tmp", f"{path}.gz")
        os.unlink(path)
    except OSError as error:
        log.error(f"{path}: cannot compress: {error.strerror}")
    finally:
        os._exit(0)
