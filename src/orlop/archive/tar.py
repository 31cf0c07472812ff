# SPDX-License-Identifier: Apache-2.0
"""Reading tar streams: ustar, pax and GNU headers, sparse files, names as raw bytes.

The standard library's tarfile is not used: it decodes names, keeps every member in memory, and costs more a file
than making the file does. Format: tar(5), pax(1), the GNU tar manual's appendix "Tar Internals".
"""

import struct
from collections.abc import Iterator

from orlop.errdefs import InvalidArgumentError

BLOCK = 512
REGULAR, HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_ZERO = bytes(BLOCK)
_MAX_EXTENSION = 1 << 20  # bytes of a pax header or a long name
_MAX_SPARSE = 1 << 16  # entries of a sparse map
_MAX_ID = (1 << 32) - 2  # the last one means "leave it" to chown(2)
_NO_DATA = (HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO)
_XATTR = b"SCHILY.xattr."


class ArchiveError(InvalidArgumentError):
    """An archive is malformed, or a member cannot be taken as it is; whoever reads it says what it was to be."""


class Entry:
    """One member. Times are nanoseconds since the epoch; `atime` is 0 when the header has none."""

    __slots__ = (
        "atime",
        "device",
        "gid",
        "linkname",
        "mode",
        "mtime",
        "name",
        "real_size",
        "size",
        "sparse",
        "type",
        "uid",
        "xattrs",
    )

    def __init__(self) -> None:
        self.name = b""
        self.linkname = b""
        self.type = REGULAR
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.size = 0  # bytes of data in the stream
        self.real_size = 0  # bytes of the file; differs from size when sparse
        self.mtime = 0
        self.atime = 0
        self.device = (0, 0)
        self.xattrs: dict[bytes, bytes] = {}
        self.sparse: list[tuple[int, int]] | None = None  # (offset, length) of each piece of data


class Stream:
    """Bytes in chunks, read in the pieces that a parser needs, without copying file data.

    Pieces are valid until the next one is asked for, as the chunks may be.
    """

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")

    def some(self, limit: int) -> memoryview:
        """Between 1 and `limit` bytes; empty at the end."""
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return self._chunk
            self._chunk = memoryview(chunk)
        piece, self._chunk = self._chunk[:limit], self._chunk[limit:]
        return piece

    def exactly(self, size: int) -> bytes:
        """`size` bytes, or none at the end. Raises ArchiveError when the stream ends in between."""
        piece = self.some(size)
        if len(piece) == size:
            return bytes(piece)
        parts = [bytes(piece)]
        left = size - len(piece)
        while left:
            piece = self.some(left)
            if not piece:
                if parts == [b""]:
                    return b""
                raise ArchiveError("unexpected end of the tar stream")
            parts.append(bytes(piece))
            left -= len(piece)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes. Raises ArchiveError when there are fewer."""
        while size:
            piece = self.some(size)
            if not piece:
                raise ArchiveError("unexpected end of the tar stream")
            size -= len(piece)

    def drain(self) -> None:
        """Read to the end."""
        while self.some(BLOCK << 11):
            pass


class TarReader:
    """The members of a stream, in order. The data of each is read by `data` before the next one is asked for."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = 0  # bytes of data not read yet
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        pax: dict[bytes, bytes] = {}
        sparse_records: list[tuple[bytes, bytes]] = []
        longname = longlink = b""
        while (block := self._next_header()) is not None:
            entry = _parse(block)
            kind = entry.type
            self._begin(entry.size if kind not in _NO_DATA else 0)
            if kind == b"x":
                records = _pax_records(self._extension(entry.size))
                sparse_records = [record for record in records if record[0].startswith(b"GNU.sparse.")]
                pax = dict(records)
                continue
            if kind == b"g":
                self._skip_rest()  # describes members that follow; containerd ignores it, too
                continue
            if kind in (b"L", b"K"):
                text = self._extension(entry.size).split(b"\0", 1)[0]
                if kind == b"L":
                    longname = text
                else:
                    longlink = text
                continue
            entry.name = longname or entry.name
            entry.linkname = longlink or entry.linkname
            if pax:
                _apply_pax(entry, pax)
                if kind not in _NO_DATA and b"size" in pax:
                    self._begin(entry.size)
            self._finish(entry, block, sparse_records)
            yield entry
            pax, sparse_records, longname, longlink = {}, [], b"", b""
            self._skip_rest()

    def data(self) -> Iterator[memoryview]:
        """The bytes of the current member, in pieces."""
        while self._left:
            piece = self._stream.some(min(self._left, 1 << 20))
            if not piece:
                raise ArchiveError("unexpected end of the tar stream")
            self._left -= len(piece)
            yield piece

    def _begin(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK

    def _skip_rest(self) -> None:
        if self._left or self._padding:
            self._stream.skip(self._left + self._padding)
            self._left = self._padding = 0

    def _extension(self, size: int) -> bytes:
        if size > _MAX_EXTENSION:
            raise ArchiveError(f"extended header of {size} bytes is too long")
        content = self._stream.exactly(size) if size else b""
        self._left = 0
        self._skip_rest()
        return content

    def _next_header(self) -> bytes | None:
        block = self._stream.exactly(BLOCK)
        if not block:
            return None
        if block == _ZERO:
            second = self._stream.exactly(BLOCK)
            if second not in (b"", _ZERO):
                raise ArchiveError("bad tar header after a block of zeros")
            return None
        return block

    def _finish(self, entry: Entry, block: bytes, records: list[tuple[bytes, bytes]]) -> None:
        """Settle the type and the sparse map of a member."""
        if entry.type in (b"\0", b"7"):
            entry.type = DIRECTORY if entry.name.endswith(b"/") else REGULAR
        entry.real_size = entry.size
        if entry.type == b"S":
            self._old_sparse(entry, block)
        elif records:
            self._pax_sparse(entry, records)
        elif entry.type in _NO_DATA:
            entry.size = entry.real_size = 0
        if entry.sparse is not None:
            _check_sparse(entry)
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            raise ArchiveError(f"owner of {_show(entry.name)} is out of range")

    def _old_sparse(self, entry: Entry, block: bytes) -> None:
        entry.type = REGULAR
        entry.real_size = _number(block[483:495])
        pieces = _sparse_fields(block[386:482])
        more = block[482]
        while more:
            extension = self._stream.exactly(BLOCK)
            if not extension or len(pieces) > _MAX_SPARSE:
                raise ArchiveError(f"bad sparse map of {_show(entry.name)}")
            pieces += _sparse_fields(extension[:504])
            more = extension[504]
        entry.sparse = pieces

    def _pax_sparse(self, entry: Entry, records: list[tuple[bytes, bytes]]) -> None:
        fields = dict(records)
        entry.name = fields.get(b"GNU.sparse.name", entry.name)
        entry.real_size = _decimal(fields.get(b"GNU.sparse.realsize", fields.get(b"GNU.sparse.size", b"0")))
        if fields.get(b"GNU.sparse.major") == b"1":
            numbers = self._sparse_numbers(entry)
        elif b"GNU.sparse.map" in fields:
            numbers = [_decimal(number) for number in fields[b"GNU.sparse.map"].split(b",") if number]
        else:
            numbers = [
                _decimal(value) for key, value in records if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
            ]
        if len(numbers) % 2 or len(numbers) > 2 * _MAX_SPARSE:
            raise ArchiveError(f"bad sparse map of {_show(entry.name)}")
        entry.sparse = list(zip(numbers[::2], numbers[1::2], strict=True))

    def _sparse_numbers(self, entry: Entry) -> list[int]:
        """The map that version 1.0 puts in front of the data: a count, then offsets and lengths, a line each."""
        text = b""
        wanted: int | None = None
        while wanted is None or text.count(b"\n") <= 2 * wanted:
            if self._left < BLOCK or len(text) > _MAX_EXTENSION:
                raise ArchiveError(f"bad sparse map of {_show(entry.name)}")
            text += self._stream.exactly(BLOCK)
            self._left -= BLOCK
            entry.size -= BLOCK
            if wanted is None and b"\n" in text:
                wanted = _decimal(text.split(b"\n", 1)[0])
        return [_decimal(line) for line in text.split(b"\n")[1 : 2 * wanted + 1]]


def _parse(block: bytes) -> Entry:
    (name, mode, uid, gid, size, mtime, checksum, kind, link, magic, _user, _group, major, minor, prefix) = (
        _HEADER.unpack(block)
    )
    if _number(checksum) != sum(block) - sum(checksum) + 256:
        raise ArchiveError("bad checksum of a tar header")
    entry = Entry()
    entry.name = name.split(b"\0", 1)[0]
    if magic[:6] == b"ustar\0" and prefix[0]:
        entry.name = prefix.split(b"\0", 1)[0] + b"/" + entry.name
    entry.type = kind
    entry.linkname = link.split(b"\0", 1)[0]
    entry.mode = _number(mode)
    entry.uid = _number(uid)
    entry.gid = _number(gid)
    entry.size = _number(size)
    if entry.size < 0:
        raise ArchiveError(f"negative size of {_show(entry.name)}")
    entry.mtime = _number(mtime) * 10**9
    if kind in (CHAR, BLOCKDEV):
        entry.device = (_number(major), _number(minor))
    return entry


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    for key, value in pax.items():
        if key == b"path":
            entry.name = value or entry.name
        elif key == b"linkpath":
            entry.linkname = value or entry.linkname
        elif key == b"mtime":
            entry.mtime = _time(value)
        elif key == b"atime":
            entry.atime = _time(value)
        elif key == b"size":
            entry.size = _decimal(value)
        elif key == b"uid":
            entry.uid = _decimal(value)
        elif key == b"gid":
            entry.gid = _decimal(value)
        elif key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value


def _pax_records(text: bytes) -> list[tuple[bytes, bytes]]:
    """Records `<length> <key>=<value>\\n`, in order; keys may repeat."""
    records = []
    at = 0
    while at < len(text):
        space = text.find(b" ", at, at + 21)
        length = _decimal(text[at:space]) if space > at else 0
        end = at + length
        equals = text.find(b"=", space + 1, end)
        if length < 5 or end > len(text) or text[end - 1] != 0x0A or equals < 0:
            raise ArchiveError("malformed pax header")
        key, value = text[space + 1 : equals], text[equals + 1 : end - 1]
        if b"\0" in key or (b"\0" in value and not key.startswith(_XATTR)):
            raise ArchiveError(f"pax record {_show(key)} has a null byte")
        records.append((key, value))
        at = end
    return records


def _number(field: bytes) -> int:
    """A number of a header: octal text, or base 256 when the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        # 0x80 marks a positive number, 0xff a negative one.
        return value - (1 << bits) if field[0] & 0x40 else value - (1 << (bits - 1))
    text = field.split(b"\0", 1)[0].strip() if field[0] else field.strip(b"\0 ")
    if not text:
        return 0
    try:
        return int(text, 8)
    except ValueError:
        raise ArchiveError(f"bad number {_show(text)} in a tar header") from None


def _decimal(text: bytes) -> int:
    if not text.isdigit():
        raise ArchiveError(f"bad number {_show(text)} in a pax header")
    return int(text)


def _time(text: bytes) -> int:
    """Seconds with a decimal fraction as nanoseconds; what is finer is cut off."""
    whole, _, fraction = text.partition(b".")
    sign = -1 if whole.startswith(b"-") else 1
    return sign * (_decimal(whole.lstrip(b"-")) * 10**9 + _decimal((fraction + b"000000000")[:9]))


def _sparse_fields(fields: bytes) -> list[tuple[int, int]]:
    pieces = []
    for at in range(0, len(fields) - 23, 24):
        if not fields[at]:
            break
        pieces.append((_number(fields[at : at + 12]), _number(fields[at + 12 : at + 24])))
    return pieces


def _check_sparse(entry: Entry) -> None:
    """The pieces lie in order inside the file, and are all the data there is."""
    at = total = 0
    for offset, length in entry.sparse or ():
        if offset < at or length < 0 or offset + length > entry.real_size:
            raise ArchiveError(f"bad sparse map of {_show(entry.name)}")
        at = offset + length
        total += length
    if total != entry.size:
        raise ArchiveError(f"bad sparse map of {_show(entry.name)}")


def _show(name: bytes) -> str:
    """A name for a message."""
    return f'"{name[:200].decode(errors="backslashreplace")}"'
