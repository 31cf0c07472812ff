# SPDX-License-Identifier: Apache-2.0
"""Reads a D-Bus value written as text, as in annotations: GLib's GVariant text format, the part that runc reads.

Numbers, strings, booleans, arrays, dictionaries, variants `<…>`, byte strings `b'…'`; a type in front where the
text alone would mean another: `uint64 5`, `@as []`. A number is an int32, with a point or an exponent a double.
"""

import re
from typing import Any, NamedTuple

from orlop.dbus import complete_types
from orlop.errdefs import InvalidArgumentError

_TYPES = {
    "boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x",
    "uint64": "t", "double": "d", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
_RANGES = {"y": (0, 8), "n": (1, 16), "q": (0, 16), "i": (1, 32), "u": (0, 32), "x": (1, 64), "t": (0, 64)}
_NUMBERS = ("i", *(kind for kind in _RANGES if kind != "i"), "d")
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>b?(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'))|
    (?P<number>[-+]?(?:0x[0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))|
    (?P<type>@[a-z(){}]+)|
    (?P<word>[a-z]+\d*)|
    (?P<sign>[\[\]{}<>:,])|
    (?P<end>$))""",
    re.VERBOSE,
)
_SIGNATURE = re.compile(r"a*(?:[ybnqiuxtdsogv]|a\{[ybnqiuxtdsog]a*[ybnqiuxtdsogv]\})")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)


class _Node(NamedTuple):
    """A value and the types it may have, the likeliest first: none for what is empty, which may have many.

    With `settled` the value is that of its one type; else numbers are text still, and arrays are of nodes.
    """

    types: tuple[str, ...]
    value: Any
    settled: bool = False

    def likeliest(self) -> str:
        """The type where nothing tells another. Raises InvalidArgumentError for what is empty."""
        if not self.types:
            raise InvalidArgumentError("the type of an empty array has to be told: @as []")
        return self.types[0]


def parse(text: str) -> tuple[str, Any]:
    """The signature and the value, as `orlop.dbus` takes them. Raises InvalidArgumentError."""
    reader = _Reader(text)
    node = reader.value()
    reader.expect("end")
    return node.likeliest(), _settled(node, node.likeliest())


class _Reader:
    """Takes the text apart from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.kind, self.token = "", ""
        self._next()

    def value(self) -> _Node:
        """The next value, with the types it can have."""
        kind, token = self.kind, self.token
        self._next()
        if kind == "number":
            hexadecimal = "x" in token
            return _Node(("d",) if not hexadecimal and set(token) & set(".eE") else _NUMBERS, token)
        if kind == "string":
            return _string(token)
        if token in ("true", "false"):
            return _Node(("b",), token == "true")
        if kind == "type" or token in _TYPES:
            return self._typed(_TYPES.get(token) or token[1:])
        if token == "[":
            return self._array()
        if token == "{":
            return self._dictionary()
        if token == "<":
            inner = self.value()
            self.expect("sign", ">")
            return _Node(("v",), (inner.likeliest(), _settled(inner, inner.likeliest())))
        raise InvalidArgumentError(f"{token!r} is not a value" if token else "a value is missing")

    def expect(self, kind: str, token: str = "") -> None:
        """Step over what has to be here."""
        if self.kind != kind or token not in ("", self.token):
            raise InvalidArgumentError(f"{self.token or 'the end'!r} where {token or 'the end'!r} is expected")
        self._next()

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None or found.lastgroup is None:
            raise InvalidArgumentError(f"cannot read {self._text[self._at :]!r}")
        self._at = found.end()
        self.kind, self.token = found.lastgroup, found[found.lastgroup]

    def _typed(self, signature: str) -> _Node:
        if not _SIGNATURE.fullmatch(signature):
            raise InvalidArgumentError(f"{signature!r} is not a type")
        return _Node((signature,), _settled(self.value(), signature), settled=True)

    def _array(self) -> _Node:
        items: list[_Node] = []
        while self.token != "]" or self.kind != "sign":
            if items:
                self.expect("sign", ",")
            items.append(self.value())
        self._next()
        return _Node(tuple(f"a{kind}" for kind in _common(items)), items)

    def _dictionary(self) -> _Node:
        pairs: list[tuple[_Node, _Node]] = []
        while self.token != "}" or self.kind != "sign":
            if pairs:
                self.expect("sign", ",")
            key = self.value()
            self.expect("sign", ":")
            pairs.append((key, self.value()))
        self._next()
        keys, values = _common([key for key, _ in pairs]), _common([value for _, value in pairs])
        return _Node(tuple(f"a{{{key}{value}}}" for key in keys for value in values), pairs)


def _common(nodes: list[_Node]) -> tuple[str, ...]:
    """The types that all of them can have."""
    told = [node.types for node in nodes if node.types]
    if not told:
        return ()
    found = tuple(kind for kind in told[0] if all(kind in types for types in told))
    if not found:
        raise InvalidArgumentError("the elements of an array differ in type")
    return found


def _settled(node: _Node, signature: str) -> Any:
    """The value of a node that is to be of this type."""
    value = node.value
    if node.settled:
        return _same(node, signature)
    if signature == "d" and "d" in node.types and isinstance(value, str):
        return float(int(value, 16)) if "x" in value else float(value)
    if signature in _RANGES and "i" in node.types and isinstance(value, str):
        return _integer(value, signature)
    if signature.startswith("a{") and isinstance(value, list):
        key, inner = complete_types(signature[2:-1])
        return [(_settled(one, key), _settled(other, inner)) for one, other in value]
    if signature[0] == "a" and isinstance(value, list):
        return [_settled(item, signature[1:]) for item in value]
    return _same(node, signature)


def _same(node: _Node, signature: str) -> Any:
    if signature not in node.types:
        raise InvalidArgumentError(f"{node.value!r} is not of the type {signature!r}")
    return node.value


def _integer(text: str, kind: str) -> int:
    number = int(text, 16) if "x" in text else int(text, 8) if re.fullmatch(r"[-+]?0[0-7]+", text) else int(text)
    signed, bits = _RANGES[kind]
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    if not low <= number < high:
        raise InvalidArgumentError(f"{text} is out of range for the type {kind!r}")
    return number


def _string(token: str) -> _Node:
    is_bytes = token[0] == "b"
    text = _ESCAPE.sub(_unescaped, token[2 if is_bytes else 1 : -1])
    if is_bytes:
        return _Node(("ay",), (text + "\0").encode("latin-1"))
    return _Node(("s", "o", "g"), text)


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] in "uU" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _ESCAPES.get(code, code)
