# SPDX-License-Identifier: Apache-2.0
"""The key sequence by which a user leaves an attached terminal: `ctrl-p,ctrl-q`."""

from orlop.errdefs import InvalidArgumentError

DEFAULT = b"\x10\x11"


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` or `a,b` as bytes; empty: the default. Raises InvalidArgumentError."""
    if not text:
        return DEFAULT
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            keys += key.encode()
            continue
        name, _, letter = key.partition("-")
        if name != "ctrl" or len(letter) != 1 or not ("a" <= letter <= "z" or letter in "@[\\]^_"):
            raise InvalidArgumentError(f"Invalid detach keys ({text}) provided: unknown key {key!r}")
        keys.append(ord(letter.upper()) - 64)
    return bytes(keys)


class EscapeFilter:
    """Passes input on, holding back the beginning of a possible escape sequence."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0
        self.escaped = False

    def feed(self, data: bytes) -> bytes:
        """What goes on to the process; after the sequence `escaped` is true and the rest is dropped."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self.escaped = True
                    break
                continue
            if self._matched:
                out += self._keys[: self._matched]
                self._matched = 0
                if byte == self._keys[0] and len(self._keys) > 1:
                    self._matched = 1
                    continue
            out.append(byte)
        return bytes(out)
