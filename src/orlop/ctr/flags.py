# SPDX-License-Identifier: Apache-2.0
"""Flags in the manner of Go's: `-name`, `--name`, `--name=value`, all of them before the first argument."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from orlop.errdefs import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Flag(NamedTuple):
    """One flag: its names (the first is the key of its value), type, default and help.

    Types: bool, str, int, float, list (may be repeated), and `duration` (seconds, as a float).
    """

    names: str  # separated by spaces
    type: type | Callable[[str], float] = str
    default: Any = None
    help: str = ""
    env: str = ""


def duration(text: str) -> float:
    """Seconds in a Go duration such as `1m30s`. Raises ValueError."""
    if text == "0":
        return 0.0
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("expected a duration such as 5s")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Values:
    """The values of parsed flags by name, and the arguments that follow."""

    def __init__(self, values: dict[str, Any], arguments: list[str], given: set[str]) -> None:
        self._values = values
        self.arguments = arguments
        self._given = given

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def has(self, name: str) -> bool:
        """Whether the command has such a flag."""
        return name in self._values

    def set(self, name: str, value: Any) -> None:
        """Replace the value of a flag by what it stands for."""
        self._values[name] = value

    def given(self, name: str) -> bool:
        """Whether the flag stood on the command line."""
        return name in self._given

    def need(self, *names: str) -> list[str]:
        """The first arguments, one for each name. Raises InvalidArgumentError that names the missing one."""
        for position, name in enumerate(names):
            if len(self.arguments) <= position or not self.arguments[position]:
                raise InvalidArgumentError(f"{name} must be provided")
        return self.arguments[: len(names)]


def parse(flags: Sequence[Flag], words: Sequence[str]) -> Values:
    """Parse flags up to the first argument or `--`. Raises InvalidArgumentError that names the flag."""
    by_name = {name: flag for flag in flags for name in flag.names.split()}
    values = {flag.names.split()[0]: _default(flag) for flag in flags}
    given: set[str] = set()
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            position += 1
            break
        if not word.startswith("-") or word == "-":
            break
        name, equals, value = word.lstrip("-").partition("=")
        flag = by_name.get(name)
        if flag is None:
            raise InvalidArgumentError(f"flag provided but not defined: -{name}")
        position += 1
        if not equals and flag.type is not bool:
            if position >= len(words):
                raise InvalidArgumentError(f"flag needs an argument: -{name}")
            value = words[position]
            position += 1
        key = flag.names.split()[0]
        given.add(key)
        converted = _convert(flag, value if equals or flag.type is not bool else "true", name)
        if flag.type is list:
            values[key] = [*values[key], converted]
        else:
            values[key] = converted
    return Values(values, list(words[position:]), given)


def _default(flag: Flag) -> Any:
    text = os.environ.get(flag.env) if flag.env else None
    if text:
        return _convert(flag, text, flag.env)
    if flag.default is not None:
        return flag.default
    return {bool: False, str: "", int: 0, float: 0.0, list: []}.get(flag.type, 0.0)  # type: ignore[arg-type]


def _convert(flag: Flag, text: str, name: str) -> Any:
    if flag.type in (str, list):
        return text
    if flag.type is bool:
        if text.lower() in ("true", "1", "t"):
            return True
        if text.lower() in ("false", "0", "f"):
            return False
        raise InvalidArgumentError(f'invalid value "{text}" for flag -{name}: expected true or false')
    try:
        return flag.type(text)
    except ValueError as error:
        raise InvalidArgumentError(f'invalid value "{text}" for flag -{name}: {error}') from None


def usage(command: str, arguments: str, flags: Sequence[Flag], summary: str) -> str:
    """The help of one command."""
    lines = [f"NAME:\n   {command} - {summary}\n", f"USAGE:\n   {command} {arguments}".rstrip() + "\n"]
    if flags:
        rows = []
        for flag in flags:
            names = ", ".join(("--" if len(name) > 1 else "-") + name for name in flag.names.split())
            rows.append((names + ("" if flag.type is bool else " value"), flag.help))
        width = max(len(names) for names, _ in rows)
        lines.append("OPTIONS:\n" + "\n".join(f"   {names:{width}}  {help}" for names, help in rows) + "\n")
    return "\n".join(lines)
