# SPDX-License-Identifier: Apache-2.0
"""Reads header blocks (HPACK, RFC 7541): a client's table, and what a block makes of it.

Huffman's code and the static table are those of the hpack library. Its decoder is not used, for speed:
a client makes a connection, sends thirty calls with as many different blocks, and goes; hpack takes 110 µs for
each, this 3.
"""

from functools import lru_cache

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from orlop.rpc.http2.frames import COMPRESSION_ERROR, ConnectionFault

Field = tuple[str, str]

_OVERHEAD = 32  # bytes that a field counts for besides its name and its value (section 4.1)
_TABLE = 4096  # bytes of the dynamic table: as large as it is where nothing else is agreed on
_INDEXED, _KEPT, _RESIZE = 0x80, 0x40, 0x20  # what a representation begins with (section 6)
_SHORT = 256  # bytes of a string that is worth remembering
_LARGEST = 1 << 24  # of an integer


def _static() -> list[tuple[Field, int]]:
    fields = [(name.decode(), value.decode()) for name, value in HeaderTable.STATIC_TABLE]
    return [(("", ""), 0), *((field, _size(*map(str.encode, field))) for field in fields)]


def _size(name: bytes, value: bytes) -> int:
    return len(name) + len(value) + _OVERHEAD


_STATIC = _static()


class FieldReader:
    """The state of one connection. `limit`: bytes of all fields of a block, as they count in a table.

    `changed` counts the changes of the table: the same block means the same for as long as there are none.
    """

    def __init__(self, limit: int) -> None:
        self.changed = 0
        self._limit = limit
        self._entries = [*_STATIC]  # fields and their sizes by index; the newest of the dynamic ones comes first
        self._used, self._most = 0, _TABLE

    def read(self, block: bytes) -> tuple[Field, ...]:
        """The fields of a block, all of which must be read. Raises ConnectionFault for a malformed one."""
        try:
            return tuple(self._read(block))
        except IndexError:
            raise _fault("it names a field that is not there, or is cut off") from None
        except UnicodeDecodeError:
            raise _fault("a field is no UTF-8") from None
        except HPACKDecodingError as error:
            raise _fault(str(error)) from None

    def _read(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        at, end, left = 0, len(block), self._limit
        while at < end:
            first = block[at]
            if first & _INDEXED:
                index, at = _integer(block, at, 0x7F)
                field, size = self._entry(index)
            elif first & (_KEPT | _RESIZE) == _RESIZE:
                if fields:
                    raise _fault("the table is resized in the middle")
                most, at = _integer(block, at, 0x1F)
                self._resize(most)
                continue
            else:
                field, size, at = self._literal(block, at, 0x3F if first & _KEPT else 0x0F)
                if first & _KEPT:
                    self._add(field, size)
            left -= size
            if left < 0:
                raise _fault(f"more than {self._limit} bytes of fields")
            fields.append(field)
        return fields

    def _entry(self, index: int) -> tuple[Field, int]:
        if not index:
            raise _fault("it names field 0")
        return self._entries[index]

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int, int]:
        """A field that is written out, perhaps but for its name; its size, and where the next one begins."""
        index, at = _integer(block, at, mask)
        if index:
            name = self._entries[index][0][0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), _size(name.encode(), value.encode()), at

    def _add(self, field: Field, size: int) -> None:
        self.changed += 1
        self._used += size
        self._entries.insert(len(_STATIC), (field, size))
        self._shrink()  # one that is too large empties the table (section 4.4)

    def _resize(self, most: int) -> None:
        if most > _TABLE:
            raise _fault(f"a table of {most} bytes is too large")
        self.changed += 1
        self._most = most
        self._shrink()

    def _shrink(self) -> None:
        while self._used > self._most:
            self._used -= self._entries.pop()[1]


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Section 5.1: a number in the bits of `mask` and the bytes behind, and where they end."""
    value, at = block[at] & mask, at + 1
    if value < mask:
        return value, at
    shift, byte = 0, 0x80
    while byte & 0x80:
        byte, at = block[at], at + 1
        value += (byte & 0x7F) << shift
        shift += 7
        if value > _LARGEST or shift > 63:
            raise _fault("a number is too large")
    return value, at


def _string(block: bytes, at: int) -> tuple[str, int]:
    """Section 5.2."""
    coded = block[at] & 0x80
    length, at = _integer(block, at, 0x7F)
    raw = block[at : at + length]
    if len(raw) < length:
        raise _fault("a string is cut off")
    if not coded:
        return raw.decode(), at + length
    return _short(raw) if length <= _SHORT else _decoded(raw), at + length


def _decoded(raw: bytes) -> str:
    return decode_huffman(raw).decode()


_short = lru_cache(512)(_decoded)


def _fault(reason: str) -> ConnectionFault:
    return ConnectionFault(COMPRESSION_ERROR, f"malformed header block: {reason}")
