# SPDX-License-Identifier: Apache-2.0
"""The filter language of the API: parse expressions and match them against objects.

    filter   := selector ("," selector)*          all selectors must match
    selector := fieldpath [operator value]        without an operator: the field is present
    fieldpath := field ("." field)*
    field    := '"'quoted'"' | [A-Za-z0-9_]+
    operator := "==" | "!=" | "~="                equal, not equal, regular expression found
    value    := '"'quoted'"' | any characters but "," and white space

Values of `~=` may also be quoted by `/` or `|`. Several filters in a list are alternatives: one must match.

    name==docker.io/library/busybox:latest,labels."io.example/role"
    topic~=|^/tasks/|
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from orlop.errdefs import InvalidArgumentError

# An adaptor gives the value of a field path of one object, or None when the field is not there.
Adaptor = Callable[[Sequence[str]], "str | None"]
Filter = Callable[[Adaptor], bool]

_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_VALUE = re.compile(r"[^\s,]+")
_SPACE = re.compile(r"\s*")
_QUOTES = '"/|'
_ESCAPE = re.compile(r"\\(?:([abfnrtv])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.)|$)")
_CONTROLS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse(text: str) -> Filter:
    """The filter that `text` describes; the empty text matches everything.

    Raises InvalidArgumentError that shows the position in the text.
    """
    if not text:
        return _always
    selectors = _Parser(text).selectors()
    if len(selectors) == 1:
        return selectors[0]
    return lambda adaptor: all(selector(adaptor) for selector in selectors)


def parse_all(texts: Iterable[str]) -> Filter:
    """The filter that matches what any of `texts` matches; an empty list matches everything.

    Raises InvalidArgumentError that shows the position in the faulty text.
    """
    filters = [parse(text) for text in texts]
    if not filters:
        return _always
    if len(filters) == 1:
        return filters[0]
    return lambda adaptor: any(one(adaptor) for one in filters)


def adapt(fields: Mapping[str, str | None], maps: Mapping[str, Mapping[str, str]]) -> Adaptor:
    """An adaptor over flat fields (`name`, or `target.digest`) and maps of strings (`labels`).

    A field that is None counts as absent. Map keys may hold dots: `labels.io.example.role` finds
    `io.example.role`.
    """

    def lookup(path: Sequence[str]) -> str | None:
        entries = maps.get(path[0])
        if entries is not None:
            return entries.get(".".join(path[1:]))
        return fields.get(".".join(path))

    return lookup


def _always(_adaptor: Adaptor) -> bool:
    return True


class _Parser:
    """Recursive descent over one filter text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def selectors(self) -> list[Filter]:
        selectors = [self._selector()]
        while self._at < len(self._text):
            if self._text[self._at] != ",":
                raise self._error(f'unexpected input "{self._text[self._at]}"')
            self._at += 1
            selectors.append(self._selector())
        return selectors

    def _selector(self) -> Filter:
        path = tuple(self._path())
        self._skip_space()
        if self._at == len(self._text) or self._text[self._at] == ",":
            return lambda adaptor: adaptor(path) is not None
        start = self._at
        operator = self._take(_OPERATOR, 'expected an operator ("=="|"!="|"~=")')
        if operator not in ("==", "!=", "~="):
            self._at = start
            raise self._error(f'unsupported operator "{operator}"')
        self._skip_space()
        start = self._at
        value = self._value(alternative_quotes=operator == "~=")
        if operator == "==":
            return lambda adaptor: adaptor(path) == value
        if operator == "!=":
            return lambda adaptor: adaptor(path) != value
        try:
            pattern = re.compile(value)
        except re.error as error:
            self._at = start
            raise self._error(f"invalid regular expression: {error}") from None
        return lambda adaptor: (found := adaptor(path)) is not None and pattern.search(found) is not None

    def _path(self) -> list[str]:
        fields = [self._field()]
        while self._text.startswith(".", self._at):
            self._at += 1
            fields.append(self._field())
        return fields

    def _field(self) -> str:
        self._skip_space()
        if self._text.startswith('"', self._at):
            return self._quoted()
        return self._take(_FIELD, "expected field or quoted")

    def _value(self, alternative_quotes: bool) -> str:
        if self._at < len(self._text) and self._text[self._at] in _QUOTES:
            if self._text[self._at] != '"' and not alternative_quotes:
                raise self._error("invalid quote encountered")
            return self._quoted()
        return self._take(_VALUE, "expected value or quoted")

    def _quoted(self) -> str:
        quote, start = self._text[self._at], self._at
        self._at += 1
        parts: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == quote:
                self._at += 1
                return "".join(parts)
            if char == "\n":
                break
            if char == "\\":
                parts.append(self._escape(quote))
            else:
                parts.append(char)
                self._at += 1
        self._at = start
        raise self._error("quoted literal not terminated")

    def _escape(self, quote: str) -> str:
        match = _ESCAPE.match(self._text, self._at)
        if match is None:
            raise self._error("illegal escape sequence")
        control, octal, *hexadecimals, other = match.groups()
        digits = next((number for number in hexadecimals if number), None)
        self._at = match.end()
        if control:
            return _CONTROLS[control]
        if octal:
            return chr(int(octal, 8))
        if digits:
            return chr(int(digits, 16))
        if other in ("\\", quote):
            return str(other)
        if quote != '"' and other:
            return f"\\{other}"  # /…/ and |…| hold regular expressions: \d and \. are theirs
        self._at = match.start()
        raise self._error("illegal escape sequence")

    def _take(self, pattern: re.Pattern[str], expectation: str) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise self._error(expectation)
        self._at = match.end()
        return match.group()

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _error(self, message: str) -> InvalidArgumentError:
        before, here, after = (
            self._text[: self._at],
            self._text[self._at : self._at + 1],
            self._text[self._at + 1 :],
        )
        place = f"{before} >|{here}|< {after}" if here else self._text
        return InvalidArgumentError(f"filters: parse error: [{place}]: {message}")
