# SPDX-License-Identifier: Apache-2.0
"""Opening and making files inside a root directory whose contents are hostile.

Every function takes the root as a descriptor and resolves with RESOLVE_IN_ROOT, so that `..`, absolute links and
links that are swapped meanwhile end inside the root. The caller closes what is returned.
"""

import os

from orlop.unix.fs import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

_MOST_LINKS = 40


def open_in_root(root: int, path: str, flags: int = os.O_PATH, resolve: int = 0) -> int:
    """Open an existing `path` inside `root`."""
    return openat2(root, path or ".", flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve)


def make_directories(root: int, path: str, mode: int = 0o755) -> int:
    """Make the directory `path` with its parents where they are missing, and open it."""
    try:
        return open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    missing = _components(path)
    made = _make_last(root, missing, mode)
    return made if made >= 0 else _make_each(root, missing, mode)


def _make_last(root: int, components: list[str], mode: int) -> int:
    """The usual case: only the last directory is missing; -1 when it is another."""
    if not components or components[-1] == "..":
        return -1
    try:
        parent = open_in_root(root, "/".join(components[:-1]), os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return -1
    try:
        os.mkdir(components[-1], mode, dir_fd=parent)
        return openat2(parent, components[-1], os.O_PATH | os.O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except FileExistsError:
        return -1
    finally:
        os.close(parent)


def _make_each(root: int, missing: list[str], mode: int) -> int:
    done: list[str] = []
    links = 0
    while missing:
        name = missing.pop(0)
        try:
            os.close(open_in_root(root, "/".join([*done, name]), os.O_PATH | os.O_DIRECTORY))
        except FileNotFoundError:
            parent = open_in_root(root, "/".join(done), os.O_PATH | os.O_DIRECTORY)
            try:
                os.mkdir(name, mode, dir_fd=parent)
            except FileExistsError:
                # A dangling link: make what it points to, seen from inside the root.
                target = os.readlink(name, dir_fd=parent)
                links += 1
                if links > _MOST_LINKS:
                    raise
                if target.startswith("/"):
                    done = []
                missing = _components(target) + missing
                continue
            finally:
                os.close(parent)
        done.append(name)
    return open_in_root(root, "/".join(done), os.O_PATH | os.O_DIRECTORY)


def open_parent(root: int, path: str) -> tuple[int, str]:
    """The directory that holds `path` (made where missing) and the last component. ValueError for the root."""
    components = _components(path)
    if not components or components[-1] == "..":
        raise ValueError(f"{path!r} names no file")
    return make_directories(root, "/".join(components[:-1])), components[-1]


def make_file(root: int, path: str, mode: int = 0o644) -> int:
    """Open `path` (O_PATH), made as an empty file with its parents if missing."""
    try:
        return open_in_root(root, path)
    except FileNotFoundError:
        pass
    parent, name = open_parent(root, path)
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(name, flags, mode, dir_fd=parent))
        return openat2(parent, name, os.O_PATH | os.O_NOFOLLOW, RESOLVE_IN_ROOT)
    finally:
        os.close(parent)


def _components(path: str) -> list[str]:
    return [component for component in path.split("/") if component not in ("", ".")]
