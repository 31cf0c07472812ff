# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for modules of the standard library whose import takes longer than a whole command.

msgspec asks for a handful of names of `typing`, `re`, `enum`, `datetime`, `uuid`, `decimal` and others, in order
to tell types apart that no document of ours has; `signal` turns each number into an enumeration. Together that is
more than all else that a command does. A stand-in holds the few names that are asked for, and takes the place of
the module in `sys.modules`; whoever asks it for anything else gets that from the real module, imported at that
moment, and from then on there are no stand-ins any more.

Only for the process of a command. The container's child cannot import: what runs there may ask for no other names.
"""

import sys

TYPE_CHECKING = False  # without the import of typing, which is the point
if TYPE_CHECKING:
    from types import ModuleType
else:
    ModuleType = type(sys)


class _StandIn(ModuleType):
    """A module with a few names; the real one answers for the others."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        _withdraw()
        __import__(self.__name__)
        return getattr(sys.modules[self.__name__], name)


class _TypeVar:
    """As much of typing.TypeVar as subscribing an alias of a generic type takes (CPython 3.11)."""

    def __init__(self, name: str, *_: object, **__: object) -> None:
        self.__name__ = name

    def __typing_subst__(self, argument: object) -> object:
        return argument


class _ForwardRef:
    """An annotation as a string: msgspec makes one to see how, and none of our types has any."""

    def __init__(self, *_: object, **__: object) -> None:
        """Holds nothing."""


# Types that msgspec compares annotations with: of each it needs no more than that it is none of ours.
_TYPING = (
    "AbstractSet", "Any", "ClassVar", "Collection", "Dict", "Final", "FrozenSet", "Generic", "List", "Literal",
    "Mapping", "MutableMapping", "MutableSequence", "MutableSet", "NotRequired", "Required", "Sequence", "Set",
    "Tuple", "Union", "_AnnotatedAlias", "_GenericAlias",
)  # fmt: skip
# Parts of msgspec itself that no command uses.
_MSGSPEC = ("inspect", "msgpack", "structs", "toml", "yaml")

_placed: dict[str, ModuleType] = {}
_withdrawn = False


def install(*, for_msgspec: bool) -> None:
    """Put the stand-ins where nothing has been imported yet, those that msgspec asks for only `for_msgspec`.

    It may be called first without and then with that; where the real modules have been asked for since, they stay.
    Those of the modules that decide what an annotation means are for CPython 3.11, whose workings they have been
    made for.
    """
    if _withdrawn:
        return
    known = sys.implementation.name == "cpython" and sys.version_info[:2] == (3, 11)
    if known:
        _stand_in_for_the_common()
    if for_msgspec:
        sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]  # it is preferred, both serve
        _put("uuid", UUID=_type("UUID"), SafeUUID=_type("SafeUUID", unknown=None))
        _put("decimal", Decimal=_type("Decimal"))
        _put("textwrap")
        if known:
            _stand_in_for_what_annotations_mean()


def _stand_in_for_the_common() -> None:
    import _collections_abc
    import _signal  # type: ignore[import-not-found]

    _place("collections.abc", _collections_abc)
    _put("collections", abc=_collections_abc)
    _put("signal", **{name: value for name, value in vars(_signal).items() if not name.startswith("__")})
    _put("types", GenericAlias=type(list[int]), MappingProxyType=type(type.__dict__), UnionType=type(int | str))
    _put("typing", TYPE_CHECKING=False, TypeVar=_TypeVar)


def _stand_in_for_what_annotations_mean() -> None:
    typing = sys.modules["typing"]
    if not isinstance(typing, _StandIn):
        return  # the real one had been imported before
    import _datetime  # type: ignore[import-not-found]

    _place("datetime", _datetime)
    _put("re", compile=_compile)
    _put("enum", EnumMeta=_type("EnumMeta"))
    typing.__dict__.update(
        {name: _type(name) for name in _TYPING},
        ForwardRef=_ForwardRef,
        overload=_same,
        get_type_hints=_refuse,
        _eval_type=_evaluate,
    )
    for name in _MSGSPEC:
        _put(f"msgspec.{name}")
    _put("msgspec._json_schema", schema=_refuse, schema_components=_refuse)


def _withdraw() -> None:
    """Leave the field to the real modules, which are to find each other and no stand-ins."""
    global _withdrawn
    _withdrawn = True
    while _placed:
        name, module = _placed.popitem()
        if sys.modules.get(name) is module:
            del sys.modules[name]


def _put(name: str, **attributes: object) -> None:
    stand_in = _StandIn(name)
    stand_in.__dict__.update(attributes)
    _place(name, stand_in)


def _place(name: str, module: ModuleType) -> None:
    if name not in sys.modules:
        sys.modules[name] = _placed[name] = module


def _type(name: str, **attributes: object) -> type:
    return type(name, (), attributes)


def _same(value: object) -> object:
    return value


def _compile(pattern: str, flags: int = 0) -> object:
    """re.compile, which msgspec keeps for constraints on strings."""
    _withdraw()
    import re

    return re.compile(pattern, flags)


def _evaluate(annotation: object, *_: object) -> object:
    """An annotation as it is: typing._eval_type without the annotations as strings in it."""
    if isinstance(annotation, str | _ForwardRef):
        _refuse()
    for part in getattr(annotation, "__args__", ()):
        _evaluate(part)
    return annotation


def _refuse(*_: object, **__: object) -> object:
    raise NotImplementedError("orlop-runc has no dataclasses, annotations as strings or schemas")
