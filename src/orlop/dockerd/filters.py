# SPDX-License-Identifier: Apache-2.0
"""The `filters` parameter of list, prune and events requests."""

import re
from collections.abc import Iterable, Mapping

import msgspec

from orlop.errdefs import InvalidArgumentError


class Filters:
    """Wanted values by filter name: values of one name are alternatives, names must all hold."""

    __slots__ = ("_wanted",)

    def __init__(self, wanted: Mapping[str, Iterable[str]] | None = None) -> None:
        self._wanted = {name: list(values) for name, values in (wanted or {}).items()}

    @classmethod
    def parse(cls, text: str) -> "Filters":
        """Read the query parameter: `{"name":["value"]}`, or the old form `{"name":{"value":true}}`.

        Raises InvalidArgumentError for anything else.
        """
        if not text:
            return cls()
        try:
            raw = msgspec.json.decode(text, type=dict[str, list[str] | dict[str, bool]])
        except msgspec.DecodeError:
            raise InvalidArgumentError("invalid filter") from None
        wanted = {}
        for name, values in raw.items():
            wanted[name] = [value for value, on in values.items() if on] if isinstance(values, dict) else values
        return cls(wanted)

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def __contains__(self, name: str) -> bool:
        return name in self._wanted

    def get(self, name: str) -> list[str]:
        """The values asked for under a name; empty when the name is absent."""
        return self._wanted.get(name, [])

    def names(self) -> list[str]:
        """The filter names present."""
        return list(self._wanted)

    def add(self, name: str, value: str) -> None:
        """Ask for one more value under a name."""
        self._wanted.setdefault(name, []).append(value)

    def validate(self, accepted: Iterable[str]) -> None:
        """Raise InvalidArgumentError for a filter name outside `accepted`."""
        known = set(accepted)
        for name in self._wanted:
            if name not in known:
                raise InvalidArgumentError(f"invalid filter '{name}'")

    def flag(self, name: str, default: bool) -> bool:
        """A filter that is true or false. Raises InvalidArgumentError for other values."""
        values = set(self.get(name))
        if not values:
            return default
        if values <= {"1", "true", "True", "TRUE", "t", "T"}:
            return True
        if values <= {"0", "false", "False", "FALSE", "f", "F"}:
            return False
        raise InvalidArgumentError(f"invalid filter '{name}=[{' '.join(self.get(name))}]'")

    def exact(self, name: str, value: str) -> bool:
        """True if the name is absent or one of its values equals `value`."""
        wanted = self._wanted.get(name)
        return not wanted or value in wanted

    def matches(self, name: str, value: str) -> bool:
        """True if the name is absent, or one of its values equals or, as a pattern, is found in `value`."""
        wanted = self._wanted.get(name)
        return not wanted or any(value == item or _found(item, value) for item in wanted)

    def prefixes(self, name: str, value: str) -> bool:
        """True if the name is absent, or one of its values is a prefix of `value`."""
        wanted = self._wanted.get(name)
        return not wanted or any(value.startswith(item) for item in wanted)

    def labels(self, name: str, labels: Mapping[str, str]) -> bool:
        """True if the name is absent, or every `key` or `key=value` under it is among `labels`."""
        for item in self._wanted.get(name, []):
            key, equals, value = item.partition("=")
            if key not in labels or (equals and labels[key] != value):
                return False
        return True


def _found(pattern: str, value: str) -> bool:
    try:
        return re.search(pattern, value) is not None
    except re.error:
        return False
