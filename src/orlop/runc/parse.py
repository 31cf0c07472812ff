# SPDX-License-Identifier: Apache-2.0
"""Command lines as Go's flag package reads them, without argparse and its 10 ms."""

from orlop.errdefs import InvalidArgumentError
from orlop.runc.commands import Flag

Value = bool | str | int | list[str]


class Flags:
    """The flags that were given; the accessors answer the type's zero for those that were not."""

    __slots__ = ("_given",)

    def __init__(self, given: dict[str, Value]) -> None:
        self._given = given

    def has(self, name: str) -> bool:
        """Whether the flag was given at all."""
        return name in self._given

    def flag(self, name: str) -> bool:
        """A bool."""
        return bool(self._given.get(name, False))

    def text(self, name: str) -> str:
        """A string."""
        return str(self._given.get(name, ""))

    def number(self, name: str) -> int:
        """An int."""
        value = self._given.get(name, 0)
        assert isinstance(value, int)
        return value

    def items(self, name: str) -> list[str]:
        """A list."""
        value = self._given.get(name, [])
        assert isinstance(value, list)
        return value


def parse(arguments: list[str], flags: tuple[Flag, ...], *, stop: bool) -> tuple[Flags, list[str]]:
    """Split `arguments` into flags and the rest.

    With `stop` the first word that is no flag ends the flags (the rest is another program's). `--name value`,
    `--name=value`, `-name` and `-n` are all the same flag; `--` ends the flags. Raises InvalidArgumentError.
    """
    names = {name: flag for flag in flags for name in flag[:2] if name}
    given: dict[str, Value] = {}
    rest: list[str] = []
    index = 0
    while index < len(arguments):
        word = arguments[index]
        index += 1
        if word == "--":
            return Flags(given), rest + arguments[index:]
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if stop:
                return Flags(given), rest + arguments[index:]
            continue
        name, separator, value = word.lstrip("-").partition("=")
        if name not in names:
            raise InvalidArgumentError(f"flag provided but not defined: -{name}")
        long, _, kind, _ = names[name]
        if kind == "bool":
            given[long] = _bool(name, value) if separator else True
            continue
        if not separator:
            if index == len(arguments):
                raise InvalidArgumentError(f"flag needs an argument: -{name}")
            value = arguments[index]
            index += 1
        _store(given, long, kind, value)
    return Flags(given), rest


def _store(given: dict[str, Value], name: str, kind: str, value: str) -> None:
    if kind == "list":
        present = given.setdefault(name, [])
        assert isinstance(present, list)
        present.append(value)
    elif kind == "int":
        try:
            given[name] = int(value.encode("ascii"), 0)
        except ValueError:
            raise InvalidArgumentError(f'invalid value "{value}" for flag -{name}: not a number') from None
    else:
        given[name] = value


def _bool(name: str, value: str) -> bool:
    if value in ("true", "1", "t", "T", "TRUE", "True"):
        return True
    if value in ("false", "0", "f", "F", "FALSE", "False"):
        return False
    raise InvalidArgumentError(f'invalid boolean value "{value}" for -{name}')
