# SPDX-License-Identifier: Apache-2.0
"""Docker's json-file log: one JSON object a line."""

import codecs
import os
import time

from orlop.shim.io.logfile import LogFile

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


class _Lines:
    """The format as the file sees it."""

    @staticmethod
    def crossing(entries: bytes, at: int) -> int:
        return entries.index(b"\n", at - 1) + 1

    @staticmethod
    def mend(fd: int, size: int) -> int:
        if os.pread(fd, 1, size - 1) != b"\n":
            size += os.write(fd, b"\n")
        return size


class JsonLog(LogFile):
    """The json-file log of one process, as a sink."""

    def __init__(
        self, path: str, *, max_size: int = 0, max_file: int = 1, compress: bool = False, attrs: str = ""
    ) -> None:
        """`attrs` is the JSON of each line's attrs."""
        encoders = {stream: Encoder(stream, attrs) for stream in (1, 2)}
        super().__init__(path, encoders, _Lines, max_size=max_size, max_file=max_file, compress=compress)
