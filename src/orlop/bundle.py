# SPDX-License-Identifier: Apache-2.0
"""The byte code of all modules that a command loads, kept in one file.

To find, open, check and read a module's own file takes the interpreter longer than to run it; a command that makes
a container loads seventy. A bundle is to them what `__pycache__` is to one: it lies there, is written by the first
run that may (and never where the interpreter writes no byte code), and each module in it counts only as long as
its source has the time of change and the size that are noted with it. Without a bundle all works the same.
"""

import marshal
import os
import sys

TYPE_CHECKING = False  # without the import of typing
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    Entry = tuple[str, int, int, bool, bytes]
    """Path of the source, its time of change (ns) and size, whether it is a package, marshalled code."""

_Spec = type(sys.__spec__)
# What is worth keeping besides our own: what every command loads that makes a container.
_OTHERS = ("__future__", "ctypes", "msgspec", "struct")


class Bundle:
    """A finder and loader (importlib.abc) of the modules in one file."""

    def __init__(self, name: str) -> None:
        directory = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__")
        self._path = f"{directory}/{name}.{sys.implementation.cache_tag}.bundle"
        self._entries: dict[str, Entry] = _read(self._path)
        self._before = set(sys.modules)
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """The module's, if its source is still what it was."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        origin, changed, size, package, _ = entry
        try:
            found = os.stat(origin)
        except OSError:
            return None
        if found.st_mtime_ns != changed or found.st_size != size:
            return None
        spec = _Spec(name, self, origin=origin, is_package=package)  # type: ignore[arg-type]
        if package:
            spec.submodule_search_locations = [os.path.dirname(origin)]
        return spec

    def create_module(self, spec: object) -> None:
        """The usual kind."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run its code."""
        origin, _, _, _, code = self._entries[module.__name__]
        module.__file__ = origin
        exec(marshal.loads(code), module.__dict__)

    def keep(self) -> None:
        """Add what had to be loaded from elsewhere, for the next run; where that may not be, nothing is lost."""
        if sys.dont_write_bytecode or sys.implementation.cache_tag is None:
            return
        added = dict(_loaded_from_files(self._before))
        if not added:
            return
        temporary = f"{self._path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with open(temporary, "xb") as file:
                file.write(marshal.dumps((_magic(), {**self._entries, **added})))
            os.rename(temporary, self._path)
        except OSError:
            return


def _read(path: str) -> "dict[str, Entry]":
    try:
        with open(path, "rb", buffering=0) as file:
            magic, entries = marshal.loads(file.read())
    except (OSError, ValueError, EOFError, TypeError):
        return {}
    return entries if magic == _magic() else {}


def _magic() -> bytes:
    """The interpreter's version of byte code."""
    number: bytes = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
    return number


def _loaded_from_files(before: set[str]) -> "list[tuple[str, Entry]]":
    loader = sys.modules["_frozen_importlib_external"].SourceFileLoader
    found: list[tuple[str, Entry]] = []
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if name in before or spec is None or type(spec.loader) is not loader:
            continue
        if not name.startswith("orlop.") and name.partition(".")[0] not in _OTHERS:
            continue
        status = os.stat(spec.origin)
        code: CodeType = spec.loader.get_code(name)
        package = spec.submodule_search_locations is not None
        found.append((name, (spec.origin, status.st_mtime_ns, status.st_size, package, marshal.dumps(code))))
    return found
