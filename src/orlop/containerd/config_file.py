# SPDX-License-Identifier: Apache-2.0
"""containerd.toml as text: where each field of the configuration is, how it is read, and how it is written."""

from __future__ import annotations

import glob
import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from orlop.containerd.config import ProxyPlugin, StreamProcessor
from orlop.errdefs import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.containerd.config import Config

VERSION = 3
_IMPORTS_MAX = 100  # files

Path = tuple[str, ...]


class Key(NamedTuple):
    """One key of the file: the field it sets, the type of its value, and where it is; later places win."""

    field: str
    kind: type
    places: Sequence[Path]


_SERVER = "io.containerd.server.v1."
_OVERLAYFS = "io.containerd.snapshotter.v1.overlayfs"


def _plugin(name: str, key: str) -> Path:
    return ("plugins", name, key)


def _grpc(field: str, kind: type, key: str) -> Key:
    return Key(field, kind, [("grpc", key), _plugin(_SERVER + "grpc", key)])


def _debug(field: str, kind: type, key: str) -> Key:
    return Key(field, kind, [("debug", key), _plugin(_SERVER + "debug", key)])


def _gc(field: str, kind: type, key: str) -> Key:
    return Key(field, kind, [_plugin("io.containerd.gc.v1.scheduler", key)])


def _timeout(field: str, name: str) -> Key:
    return Key(field, float, [("timeouts", f"io.containerd.timeout.{name}")])


# The keys that apply, in the order in which they are written. Others are the original's business.
KEYS = (
    Key("root", str, [("root",)]),
    Key("state", str, [("state",)]),
    Key("oom_score", int, [("oom_score",)]),
    Key("disabled_plugins", list, [("disabled_plugins",)]),
    Key("required_plugins", list, [("required_plugins",)]),
    _grpc("address", str, "address"),
    _grpc("uid", int, "uid"),
    _grpc("gid", int, "gid"),
    _grpc("max_receive", int, "max_recv_message_size"),
    _grpc("max_send", int, "max_send_message_size"),
    Key("ttrpc_address", str, [("ttrpc", "address"), _plugin(_SERVER + "ttrpc", "address")]),
    _debug("debug_address", str, "address"),
    _debug("debug_uid", int, "uid"),
    _debug("debug_gid", int, "gid"),
    Key("level", str, [("debug", "level")]),
    Key("format", str, [("debug", "format")]),
    Key("metrics_address", str, [("metrics", "address"), _plugin(_SERVER + "metrics", "address")]),
    Key(
        "grpc_histogram",
        bool,
        [("metrics", "grpc_histogram"), _plugin("io.containerd.metrics.v1.grpc-prometheus", "grpc_histogram")],
    ),
    Key("overlay_options", list, [_plugin(_OVERLAYFS, "mount_options")]),
    Key("overlay_upper_label", bool, [_plugin(_OVERLAYFS, "upperdir_label")]),
    Key("differs", list, [_plugin("io.containerd.service.v1.diff-service", "default")]),
    _gc("gc_mutation_threshold", int, "mutation_threshold"),
    _gc("gc_pause_threshold", float, "pause_threshold"),
    _gc("gc_schedule_delay", float, "schedule_delay"),
    _gc("gc_startup_delay", float, "startup_delay"),
    Key("shim_env", list, [_plugin("io.containerd.shim.v1.manager", "env")]),
    Key("shim_socket_dir", str, [_plugin("io.containerd.shim.v1.manager", "socket_dir")]),
    Key("opt", str, [_plugin("io.containerd.internal.v1.opt", "path")]),
    Key("downloads", int, [_plugin("io.containerd.transfer.v1.local", "max_concurrent_downloads")]),
    _timeout("cleanup_timeout", "shim.cleanup"),
    _timeout("load_timeout", "shim.load"),
    _timeout("shutdown_timeout", "shim.shutdown"),
)
_SHARES = frozenset({"gc_pause_threshold"})
"""Fields that are numbers, not durations."""
_APPENDED = ("disabled_plugins", "required_plugins")


def read(path: str, *, required: bool) -> dict[str, object]:
    """The fields that a file and what it imports set. Raises as `config.load`."""
    if not required and not os.path.exists(path):
        return {}
    document = _with_imports(path, [])
    values: dict[str, object] = {}
    for key in KEYS:
        for place in key.places:
            found = _lookup(document, place)
            if found is not None and found != "":
                where = f"{path}: {'.'.join(place)}"
                values[key.field] = _typed(found, key.kind, where, share=key.field in _SHARES)
    for field, made in (("proxy_plugins", ProxyPlugin), ("stream_processors", StreamProcessor)):
        values[field] = tuple(_entry(path, field, name, table, made) for name, table in _tables(document, field))
    return values


def _with_imports(path: str, seen: list[str]) -> dict[str, Any]:
    """A file, and over it the files that it imports, by patterns relative to its directory."""
    seen.append(os.path.realpath(path))
    if len(seen) > _IMPORTS_MAX:
        raise InvalidArgumentError(f"{path}: imports: more than {_IMPORTS_MAX} files")
    document = _parse(path)
    imports = _typed(document.get("imports", []), list, f"{path}: imports")
    assert isinstance(imports, tuple)
    for pattern in imports:
        for name in map(os.path.realpath, sorted(glob.glob(os.path.join(os.path.dirname(path), pattern)))):
            if name not in seen:  # files may import each other
                _merge(document, _with_imports(name, seen), ())
    return document


def _parse(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such configuration file") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgumentError(f"{path}: {error}") from None
    version = document.get("version", 1)
    if version not in (2, 3, 4):
        raise InvalidArgumentError(f"{path}: version: expected 2, 3 or 4, got {version}")
    return document


def _merge(into: dict[str, Any], other: Mapping[str, Any], place: Path) -> None:
    for name, value in other.items():
        present = into.get(name)
        if isinstance(present, dict) and isinstance(value, dict):
            _merge(present, value, (*place, name))
        elif not place and name in _APPENDED and isinstance(present, list) and isinstance(value, list):
            into[name] = [*present, *value]
        else:
            into[name] = value


def _lookup(document: object, place: Path) -> object:
    for name in place:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def _tables(document: Mapping[str, Any], name: str) -> list[tuple[str, Mapping[str, Any]]]:
    found = document.get(name, {})
    if not isinstance(found, dict) or not all(isinstance(table, dict) for table in found.values()):
        raise InvalidArgumentError(f"{name}: expected tables, one an entry")
    return sorted(found.items())


def _entry(path: str, kind: str, name: str, table: Mapping[str, Any], made: type[Any]) -> Any:
    values: dict[str, Any] = {"name": name}
    for field in made._fields[1:]:
        value = table.get(field)
        if value is None:
            if field not in made._field_defaults:
                raise InvalidArgumentError(f"{path}: {kind}.{name}.{field} must be set")
            continue
        expected = dict if field == "exports" else list if field in _LISTS else str
        values[field] = _typed(value, expected, f"{path}: {kind}.{name}.{field}")
    return made(**values)


_LISTS = ("accepts", "args", "env", "capabilities")


def _typed(value: object, kind: type, where: str, *, share: bool = False) -> object:
    if kind is float and share and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str) and not share:
        return parse_duration(value, where)
    if kind is list and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind is dict and isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return value
    if kind in (str, int, bool) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise InvalidArgumentError(f"{where}: expected {'a number' if share else _KIND_NAMES[kind]}, got {value!r}")


_KIND_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    float: "a duration such as 5s",
    list: "strings",
    dict: "a table of strings",
}
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str, where: str) -> float:
    """Seconds in a Go duration such as `1m30s`. Raises InvalidArgumentError that names `where`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidArgumentError(f"{where}: expected a duration such as 5s, got {text!r}")
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)


def dump(config: Config) -> str:
    """The configuration as a containerd.toml that gives it again."""
    document: dict[str, Any] = {"version": VERSION}
    values = config._asdict() | {
        "ttrpc_address": config.ttrpc,
        "shim_socket_dir": config.socket_dir,
        "opt": config.opt_dir,
    }
    for key in KEYS:
        table = document
        *tables, last = key.places[0]
        for name in tables:
            table = table.setdefault(name, {})
        value = values[key.field]
        table[last] = f"{value:g}s" if key.kind is float and key.field not in _SHARES else value
    for field in ("proxy_plugins", "stream_processors"):
        entries = {
            entry.name: {k: v for k, v in entry._asdict().items() if k != "name"} for entry in values[field]
        }
        if entries:
            document[field] = entries
    return "".join(_lines(document, ()))


def _lines(table: Mapping[str, Any], place: Path) -> list[str]:
    indent = "  " * len(place)
    lines = [f"{indent}{_name(name)} = {_value(value)}\n" for name, value in table.items() if not _is_table(value)]
    for name, value in table.items():
        if _is_table(value):
            inner = (*place, name)
            lines.append(f"\n{indent}[{'.'.join(map(_name, inner))}]\n")
            lines += _lines(value, inner)
    return lines


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and truth values are written as in JSON
