# SPDX-License-Identifier: Apache-2.0
"""Flags declared as data, parsed with pflag's rules: -abc, -w/dir, --name=value, --, interspersed or not."""

from collections.abc import Callable

from orlop.cli.errors import UsageError
from orlop.cli.units import parse_size
from orlop.engine.durations import parse_duration

Value = str | int | float | bool | list[str] | None


class Flag:
    """One flag.

    `kind` is bool, string, int, decimal, list (may be repeated), map (key=value, may be repeated), bytes (a size
    with a unit) or duration (nanoseconds). `hidden` flags are parsed but not shown in the help.
    """

    __slots__ = ("default", "help", "hidden", "kind", "name", "short", "shown_kind")

    def __init__(
        self,
        name: str,
        short: str = "",
        kind: str = "bool",
        help: str = "",
        *,
        default: Value = None,
        shown_kind: str = "",
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.help = help
        self.default = default
        self.shown_kind = shown_kind or kind
        self.hidden = hidden

    def initial(self) -> Value:
        if self.default is not None:
            return self.default
        return _INITIAL[self.kind]

    def parse(self, text: str) -> Value:
        """The value that `text` stands for. Raises UsageError."""
        try:
            if self.kind == "bool":
                return _BOOLS[text.lower()]
            if self.kind == "int":
                return int(text, 0)
            if self.kind == "decimal":
                return float(text)
            if self.kind == "bytes":
                return parse_size(text)
            if self.kind == "duration":
                return parse_duration(text)
        except (ValueError, KeyError) as error:
            reason = str(error) if self.kind in ("bytes", "duration") else f'parsing "{text}": invalid syntax'
            label = f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"
            raise UsageError(f'invalid argument "{text}" for "{label}" flag: {reason}') from None
        return text


_INITIAL: dict[str, Value] = {
    "bool": False,
    "string": "",
    "list": [],
    "map": [],
    "int": 0,
    "bytes": 0,
    "duration": 0,
    "decimal": 0.0,
}
_BOOLS = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}

HELP = Flag("help", "", "bool", "Print usage", hidden=True)


class Args:
    """A parsed command line: typed access to flags by name, and the positional arguments."""

    __slots__ = ("_values", "given", "positional")

    def __init__(self, values: dict[str, Value], given: set[str], positional: list[str]) -> None:
        self._values = values
        self.given = given
        self.positional = positional

    def flag(self, name: str) -> bool:
        return bool(self._values[name])

    def text(self, name: str) -> str:
        return str(self._values[name] or "")

    def number(self, name: str) -> int:
        value = self._values[name]
        return int(value) if isinstance(value, (int, float, str)) else 0

    def decimal(self, name: str) -> float:
        value = self._values[name]
        return float(value) if isinstance(value, (int, float)) else 0.0

    def items(self, name: str) -> list[str]:
        value = self._values[name]
        return value if isinstance(value, list) else []


def parse(flags: list[Flag], argv: list[str], *, interspersed: bool = True) -> Args:
    """Split `argv` into flags and arguments. Raises UsageError with pflag's words."""
    by_name = {flag.name: flag for flag in [*flags, HELP]}
    by_short = {flag.short: flag for flag in flags if flag.short}
    values: dict[str, Value] = {name: flag.initial() for name, flag in by_name.items()}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = list(value)
    given: set[str] = set()
    positional: list[str] = []
    rest = list(argv)

    def store(flag: Flag, text: str) -> None:
        current = values[flag.name]
        if flag.kind in ("list", "map") and isinstance(current, list):
            if flag.name not in given:
                current = []
            values[flag.name] = [*current, text]
        else:
            values[flag.name] = flag.parse(text)
        given.add(flag.name)

    while rest:
        word = rest.pop(0)
        if word == "--":
            positional += rest
            break
        if word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            if name not in by_name:
                raise UsageError(f"unknown flag: --{name}")
            flag = by_name[name]
            if not equals and flag.kind != "bool":
                if not rest:
                    raise UsageError(f"flag needs an argument: --{name}")
                text = rest.pop(0)
            store(flag, text if equals or flag.kind != "bool" else "true")
        elif word.startswith("-") and len(word) > 1:
            _parse_shorthands(word[1:], rest, by_short, store)
        else:
            positional.append(word)
            if not interspersed:
                positional += rest
                break
    return Args(values, given, positional)


def _parse_shorthands(
    letters: str, rest: list[str], by_short: dict[str, Flag], store: Callable[[Flag, str], None]
) -> None:
    whole = letters
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in by_short:
            raise UsageError(f"unknown shorthand flag: '{letter}' in -{whole}")
        flag = by_short[letter]
        if letters.startswith("="):
            store(flag, letters[1:])
            return
        if flag.kind == "bool":
            store(flag, "true")
            continue
        if not letters and not rest:
            raise UsageError(f"flag needs an argument: '{letter}' in -{whole}")
        store(flag, letters or rest.pop(0))
        return
