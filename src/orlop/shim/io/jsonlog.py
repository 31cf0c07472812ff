# SPDX-License-Identifier: Apache-2.0
"""Docker's json-file log: one JSON object a line, written by the batch, rotated by size."""

import codecs
import os
import time

from orlop.shim import log
from orlop.unix.process import close_range

PARTIAL = 16384
"""A longer line is cut into entries of this many bytes; only the last has the newline."""

_NAMES = {1: b"stdout", 2: b"stderr"}
# Escapes as Docker writes them: &, < and > too, and every control character but \n and \r in hexadecimal.
_COMMON = (
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"\r", b"\\r"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
)
_CONTROLS = {bytes((code,)): b"\\u%04x" % code for code in range(0x20) if code not in (0x0A, 0x0D)}
_SPECIAL = b'\\"\r<>&' + b"".join(_CONTROLS)
_CONTROL_BYTES = b"".join(_CONTROLS)


def _each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\\ufffd" * (error.end - error.start), error.end


codecs.register_error("orlop.jsonlog", _each_byte)


def escape(data: bytes) -> bytes:
    """The inside of a JSON string, newlines left as they are; bytes that are no UTF-8 become \\ufffd each."""
    if len(data.translate(None, _SPECIAL)) != len(data):
        for plain, escaped in _COMMON:
            if plain in data:
                data = data.replace(plain, escaped)
        if len(data.translate(None, _CONTROL_BYTES)) != len(data):
            for plain, escaped in _CONTROLS.items():
                data = data.replace(plain, escaped)
    if not data.isascii():
        text = data.decode("utf-8", "orlop.jsonlog")
        data = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").encode()
    return data


class Clock:
    """Formats times as RFC 3339 with nanoseconds and without trailing zeros, as Go does."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = b""

    def format(self, nanoseconds: int) -> bytes:
        """`nanoseconds` since the epoch, in UTC."""
        second, fraction = divmod(nanoseconds, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        if not fraction:
            return self._prefix + b"Z"
        return self._prefix + b"." + (b"%09d" % fraction).rstrip(b"0") + b"Z"


class Encoder:
    """Turns the bytes of one stream into log entries; keeps the unfinished line."""

    def __init__(self, stream: int, attrs: str = "") -> None:
        middle = b'","stream":"' + _NAMES[stream] + b'"'
        if attrs:
            middle += b',"attrs":' + attrs.encode()
        self._middle = middle + b',"time":"'
        self._rest = b""
        self._clock = Clock()
        self._partial: bytes | None = None  # the time of the first piece of a line that is being cut

    def feed(self, data: bytes, now: int) -> bytes:
        """The entries of all lines that are complete now; `now` is in nanoseconds since the epoch."""
        data = self._rest + data if self._rest else data
        out: list[bytes] = []
        stamp = self._clock.format(now)
        end = len(data)
        block = at = 0  # [block:at] are whole lines that wait to be escaped in one go
        if self._partial is not None:
            newline = data.find(b"\n", 0, PARTIAL)
            if newline >= 0:
                out.append(self._entries(data[: newline + 1], self._partial))
                self._partial = None
                block = at = newline + 1
        while True:
            newline = data.rfind(b"\n", at, at + PARTIAL)
            if newline >= 0:
                at = newline + 1
            elif end - at >= PARTIAL:
                out.append(self._entries(data[block:at], stamp))
                self._partial = self._partial or stamp
                out.append(self._piece(data[at : at + PARTIAL], self._partial))
                block = at = at + PARTIAL
                newline = data.find(b"\n", at, at + PARTIAL)
                if newline >= 0:
                    out.append(self._entries(data[at : newline + 1], self._partial))
                    self._partial = None
                    block = at = newline + 1
            else:
                break
        out.append(self._entries(data[block:at], stamp))
        self._rest = data[at:]
        return b"".join(out)

    def flush(self, now: int) -> bytes:
        """The entry of a last line without a newline."""
        rest, self._rest = self._rest, b""
        return self._piece(rest, self._partial or self._clock.format(now)) if rest else b""

    def _piece(self, data: bytes, stamp: bytes) -> bytes:
        return b'{"log":"' + escape(data).replace(b"\n", b"\\n") + self._middle + stamp + b'"}\n'

    def _entries(self, lines: bytes, stamp: bytes) -> bytes:
        if not lines:
            return b""
        tail = b"\\n" + self._middle + stamp + b'"}\n'
        body = escape(lines)
        return b'{"log":"' + body[:-1].replace(b"\n", tail + b'{"log":"') + tail


class JsonLog:
    """The log file of one process, as a sink. Never full: a disk that is full loses entries, not the process."""

    full = False

    def __init__(
        self, path: str, *, max_size: int = 0, max_file: int = 1, compress: bool = False, attrs: str = ""
    ) -> None:
        self._path = path
        self._max_size = max_size
        self._max_file = max_file
        self._compress = compress and max_file > 1
        self._encoders = {stream: Encoder(stream, attrs) for stream in (1, 2)}
        self._open = {1, 2}
        self._fd = _open(path, os.O_APPEND)
        self._size = os.fstat(self._fd).st_size
        self._failing = False
        self._mend()

    def _mend(self) -> None:
        # A machine that went down may have left half an entry, which would spoil the next one too.
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._append(b"\n")

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

    def _log(self, entries: bytes) -> None:
        if self._fd < 0:
            return
        while entries:
            cut = len(entries)
            if self._max_size:
                if self._size >= self._max_size:
                    self._rotate()
                room = self._max_size - self._size
                if cut > room:  # as Docker: the entry that crosses the limit is the file's last
                    cut = entries.index(b"\n", room - 1) + 1
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
        suffix = ".gz" if self._compress else ""
        try:
            if self._max_file > 1:
                for number in range(self._max_file - 1, 1, -1):
                    _rename(f"{self._path}.{number - 1}{suffix}", f"{self._path}.{number}{suffix}")
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
            _compress(f"{self._path}.1")


def _open(path: str, flags: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND | flags, 0o640)


def _rename(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        return  # fewer files than allowed so far


def _compress(path: str) -> None:
    """Replace a rotated file with its .gz, in a child, so that the process's output does not wait."""
    pid = os.fork()
    if pid:
        return
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
