# SPDX-License-Identifier: Apache-2.0
"""JSON to typed values and back, with null counting as absent, as for every Go implementation."""

from typing import Any, TypeVar

import msgspec

from orlop.errdefs import InvalidArgumentError

T = TypeVar("T")


def decode(raw: bytes | str, to: type[T], *, called: str = "") -> T:
    """Parse JSON text into a msgspec type.

    Raises InvalidArgumentError that names the field, as `$.linux.resources.memory.limit`, of what is `called` so
    (the type's name).
    """
    try:
        try:
            return msgspec.json.decode(raw, type=to)
        except msgspec.ValidationError:
            # Go writes an empty list or map without omitempty as null: take those out, then let msgspec judge.
            return convert(msgspec.json.decode(raw), to, called=called)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgumentError(f"invalid {called or _name(to)}: {error}") from None


def convert(value: Any, to: type[T], *, called: str = "") -> T:
    """Turn parsed JSON (dicts, lists, strings …) into a msgspec type.

    Raises InvalidArgumentError that names the field, of what is `called` so (the type's name).
    """
    try:
        return msgspec.convert(_without_nulls(value), type=to)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"invalid {called or _name(to)}: {error}") from None


def encode(value: Any) -> bytes:
    """A msgspec value, dict or list as JSON text; what equals its type's default is left out where so declared."""
    return msgspec.json.encode(value)


def _name(to: type[Any]) -> str:
    return getattr(to, "__name__", str(to)).lower()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
