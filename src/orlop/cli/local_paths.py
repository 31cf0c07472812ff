# SPDX-License-Identifier: Apache-2.0
"""Where `cp` puts what, decided from what is known of both sides, with docker's rules."""

import os
import posixpath
from typing import NamedTuple

from orlop.cli.errors import ExitError


class Side(NamedTuple):
    """One side of a copy. `rebase` is the name that was asked for, where a followed link has another one."""

    path: str
    exists: bool = False
    is_directory: bool = False
    rebase: str = ""


def split(path: str) -> tuple[str, str]:
    """(directory, name) of a path; the name of `dir/.` is `.`."""
    cleaned = posixpath.normpath(path)
    if names_itself(path):
        return cleaned, "."
    return posixpath.dirname(cleaned) or ".", posixpath.basename(cleaned) or "/"


def names_itself(path: str) -> bool:
    """Whether the path ends with `/.`: what is in a directory, not the directory."""
    return posixpath.basename(path) == "."


def asserts_directory(path: str) -> bool:
    """Whether the path says that it is one of a directory."""
    return path.endswith("/") or names_itself(path)


def keep_ending(cleaned: str, original: str) -> str:
    """Give a cleaned path the ending of the original, which means something."""
    if names_itself(original):
        return cleaned.rstrip("/") + "/." if not names_itself(cleaned) else cleaned
    return cleaned + "/" if original.endswith("/") and not cleaned.endswith("/") else cleaned


def absolute(path: str) -> str:
    """A local path from the root, its ending kept."""
    return keep_ending(os.path.abspath(path), path)


def rebase_name(path: str, resolved: str) -> tuple[str, str]:
    """(the resolved path with the ending of the one asked for, the name asked for if it is another)."""
    resolved = keep_ending(resolved, path)
    asked, got = posixpath.basename(path.rstrip("/")), posixpath.basename(resolved.rstrip("/"))
    return resolved, asked if asked != got else ""


def local_source(path: str, follow: bool) -> Side:
    """A local path to copy from: links in its way are resolved, the last one only if it is to be followed.

    Raises ExitError where there is nothing.
    """
    try:
        if follow:
            resolved, rebase = rebase_name(path, os.path.realpath(path, strict=True))
        else:
            above, name = posixpath.split(path)
            resolved, rebase = posixpath.join(os.path.realpath(above, strict=True), name), ""
            if not name:
                resolved, rebase = rebase_name(path, os.path.realpath(above, strict=True))
        status = os.lstat(resolved)
    except OSError as error:
        raise ExitError(f"lstat {path}: {(error.strerror or '').lower()}") from None
    return Side(resolved, True, _is_directory(status.st_mode), rebase)


def local_destination(path: str) -> Side:
    """A local path to copy to: a link is followed, even where it leads to nothing. Raises ExitError."""
    original = path
    for _ in range(11):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            above, _ = split(path)
            if not os.path.isdir(above):
                reason = "not a directory" if os.path.exists(above) else "no such file or directory"
                raise ExitError(f"stat {above}: {reason}") from None
            return Side(path)
        except OSError as error:
            raise ExitError(f"lstat {path}: {(error.strerror or '').lower()}") from None
        if status.st_mode & 0o170000 != 0o120000:
            return Side(path, True, _is_directory(status.st_mode))
        path = posixpath.join(split(path)[0], os.readlink(path))
    raise ExitError(f"too many symlinks in {original}")


def _is_directory(mode: int) -> bool:
    return mode & 0o170000 == 0o040000


class Placement(NamedTuple):
    """An archive goes to `directory`; its top is called `name` there."""

    directory: str
    name: str


def place(source: Side, target: Side) -> Placement:
    """What docker's rules make of a source and a target. Raises ExitError."""
    directory, base = split(target.path)
    name = source.rebase or split(source.path)[1]
    if target.exists and target.is_directory:
        return Placement(target.path, name)
    if target.exists and source.is_directory:
        raise ExitError("cannot copy directory")
    if not target.exists and not source.is_directory and asserts_directory(target.path):
        raise ExitError("no such directory")
    return Placement(directory, base)
