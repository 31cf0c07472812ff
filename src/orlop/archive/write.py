# SPDX-License-Identifier: Apache-2.0
"""Writing tar members: ustar where it suffices, pax records where it does not."""

import stat

from orlop.archive.tar import (
    BLOCK,
    BLOCKDEV,
    CHAR,
    DIRECTORY,
    FIFO,
    REGULAR,
    SYMLINK,
    Entry,
)

END = bytes(2 * BLOCK)
_MAX_OCTAL = {8: 0o7777777, 12: 0o77777777777}
_TYPES = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCKDEV,
    stat.S_IFIFO: FIFO,
}


def type_of(mode: int) -> bytes | None:
    """The member type for a file mode; None for a socket, which tar cannot hold."""
    return _TYPES.get(stat.S_IFMT(mode))


def header(entry: Entry) -> bytes:
    """The header blocks of a member, with a pax header in front where ustar cannot say it."""
    records = _pax_records(entry)
    main = _ustar(entry, entry.type, entry.name, entry.size)
    if not records:
        return main
    text = b"".join(_record(key, value) for key, value in records)
    extended = Entry()
    # The name of a pax header means nothing; this one keeps archives of the same tree equal.
    return _ustar(extended, b"x", b"PaxHeaders.0/" + entry.name[:80], len(text)) + pad(text) + main


def pad(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + padding(len(data))


def padding(size: int) -> bytes:
    """What follows data of that size."""
    return bytes(-size % BLOCK)


def _pax_records(entry: Entry) -> list[tuple[bytes, bytes]]:
    records = []
    if len(entry.name) > 100 or not entry.name.isascii():
        records.append((b"path", entry.name))
    if len(entry.linkname) > 100 or not entry.linkname.isascii():
        records.append((b"linkpath", entry.linkname))
    if entry.size > _MAX_OCTAL[12]:
        records.append((b"size", b"%d" % entry.size))
    for key, number in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if number > _MAX_OCTAL[8]:
            records.append((key, b"%d" % number))
    seconds, nanoseconds = divmod(entry.mtime, 10**9)
    if nanoseconds:
        records.append((b"mtime", (b"%d.%09d" % (seconds, nanoseconds)).rstrip(b"0")))
    elif not 0 <= seconds <= _MAX_OCTAL[12]:
        records.append((b"mtime", b"%d" % seconds))
    records += [(b"SCHILY.xattr." + name, entry.xattrs[name]) for name in sorted(entry.xattrs)]
    return records


def _record(key: bytes, value: bytes) -> bytes:
    """`<length> <key>=<value>\\n`, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _ustar(entry: Entry, kind: bytes, name: bytes, size: int) -> bytes:
    block = b"".join(
        (
            name[:100].ljust(100, b"\0"),
            _octal(entry.mode & 0o7777, 8),
            _octal(entry.uid, 8),
            _octal(entry.gid, 8),
            _octal(size, 12),
            _octal(max(entry.mtime // 10**9, 0), 12),
            b"        ",
            kind,
            entry.linkname[:100].ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            _octal(entry.device[0], 8),
            _octal(entry.device[1], 8),
            bytes(167),
        )
    )
    return b"%b%06o\0 %b" % (block[:148], sum(block), block[156:])


def _octal(number: int, width: int) -> bytes:
    # What does not fit is in the pax header, which readers prefer.
    return b"%0*o\0" % (width - 1, min(number, _MAX_OCTAL[width]))
