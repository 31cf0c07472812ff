# SPDX-License-Identifier: Apache-2.0
"""Field names of a JSON body in whatever case, as Go's decoder takes them: docker-py sends `detachKeys`."""

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect


def fold(body: bytes, to: type[Any]) -> bytes:
    """The JSON text with the keys of `to` and of the types below it in their own case.

    Raises msgspec.DecodeError. An exact key wins over one in another case.
    """
    return msgspec.json.encode(_fold(msgspec.json.decode(body), _described(to)))


_described: Callable[[type[Any]], inspect.Type] = cache(inspect.type_info)  # type: ignore[assignment]


def _fold(value: Any, kind: inspect.Type) -> Any:
    if isinstance(kind, inspect.UnionType):
        kind = next((each for each in kind.types if not isinstance(each, inspect.NoneType)), kind)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        return _fold_struct(value, kind)
    if isinstance(kind, inspect.ListType) and isinstance(value, list):
        return [_fold(item, kind.item_type) for item in value]
    if isinstance(kind, inspect.DictType) and isinstance(value, dict):
        return {key: _fold(item, kind.value_type) for key, item in value.items()}
    return value


def _fold_struct(value: dict[str, Any], kind: inspect.StructType) -> dict[str, Any]:
    fields = {field.encode_name.lower(): field for field in kind.fields}
    folded: dict[str, Any] = {}
    for key, item in value.items():
        field = fields.get(key.lower())
        if field is None:
            folded[key] = item
        elif key == field.encode_name or field.encode_name not in value:
            folded[field.encode_name] = _fold(item, field.type)
    return folded
