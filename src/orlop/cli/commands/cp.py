# SPDX-License-Identifier: Apache-2.0
"""`cp`: copy files between a container and here."""

import base64
import json
import os
import posixpath
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.local_paths import (
    Placement,
    Side,
    absolute,
    local_destination,
    local_source,
    place,
    rebase_name,
    split,
)
from orlop.cli.output import check_path, write_archive
from orlop.engine.client import Client, EngineError

_DIRECTORY, _LINK, _DEVICE, _CHAR_DEVICE = 1 << 31, 1 << 27, 1 << 26, 1 << 21  # of Go's fs.FileMode
_STAT = "x-docker-container-path-stat"
_CHUNK = 1 << 18


def run(client: Client, args: Args) -> int:
    source, target = args.positional
    if not source:
        raise ExitError("source can not be empty")
    if not target:
        raise ExitError("destination can not be empty")
    from_container, source_path = _split_argument(source)
    to_container, target_path = _split_argument(target)
    if from_container and to_container:
        raise ExitError("copying between containers is not supported")
    count = _Count(_quiet(args))
    if from_container:
        _copy_out(client, args, from_container, source_path, target_path, count)
    elif to_container:
        _copy_in(client, args, to_container, source_path, target_path, count)
    else:
        raise ExitError("must specify at least one container source")
    return 0


def _quiet(args: Args) -> bool:
    return args.flag("quiet") if "quiet" in args.given else not sys.stdout.isatty()


def _split_argument(text: str) -> tuple[str, str]:
    """(container, path); a path with a colon has to begin with `/` or `.` to be a local one."""
    container, colon, path = text.partition(":")
    if text.startswith("/") or not colon or container.startswith("."):
        return "", text
    return container, path


class _Count:
    """Counts bytes on their way and says at the end how many there were."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._total = 0

    def of(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._total += len(chunk)
            yield chunk

    def report(self, target: str) -> None:
        if not self._quiet:
            from orlop.cli.units import human_size

            print(f"Successfully copied {human_size(self._total)} to {target}", file=sys.stderr)


# -- out of a container


def _copy_out(client: Client, args: Args, container: str, path: str, target: str, count: _Count) -> None:
    if target != "-":
        target = absolute(target)
        check_path(target.removesuffix("/."))
    rebase = ""
    if args.flag("follow-link"):
        path, rebase = _follow(client, container, path)
    response = client.stream("GET", f"/containers/{container}/archive", {"path": path})
    stat = _stat(response.headers)
    if target == "-":
        write_archive(response.stream(), "")
        return
    source = Side(path, True, bool(stat["mode"] & _DIRECTORY), rebase)
    _extract(count.of(response.stream()), source, place(source, local_destination(target)))
    count.report(target)


def _follow(client: Client, container: str, path: str) -> tuple[str, str]:
    """The path that a link leads to and the name that it shall have."""
    stat = _try_stat(client, container, path)
    if stat is None or not stat["mode"] & _LINK:
        return path, ""
    return rebase_name(path, posixpath.join(split(path)[0], stat["linkTarget"]))


def _extract(chunks: Iterator[bytes], source: Side, placement: Placement) -> None:
    from orlop.archive.extract import BENEATH, extract_all
    from orlop.archive.relocate import RelocatingExtractor, Relocation
    from orlop.errdefs import OrlopError

    base = split(source.path)[1]
    name = "" if placement.name in (".", "/") else placement.name
    relocation = Relocation(lead=os.fsencode(name), strip=0 if base in (".", "/") else 1, keep_kinds=True)
    try:
        directory = os.open(placement.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ExitError(f"{placement.directory}: {(error.strerror or '').lower()}") from None
    try:
        extract_all(chunks, RelocatingExtractor(directory, relocation, resolve=BENEATH, own=False))
    except OrlopError as error:
        raise ExitError(str(error)) from None
    finally:
        os.close(directory)


# -- into a container


def _copy_in(client: Client, args: Args, container: str, path: str, given: str, count: _Count) -> None:
    target = _target(client, container, given)
    if path == "-":
        if not target.is_directory:
            raise ExitError(f'destination "{container}:{given}" must be a directory')
        directory, chunks = target.path, _standard_input()
    else:
        source = local_source(absolute(path), args.flag("follow-link"))
        placement = place(source, target)
        directory, chunks = placement.directory, _archive(source.path, placement.name)
    query = {
        "path": directory,
        "noOverwriteDirNonDir": "true",
        "copyUIDGID": "true" if args.flag("archive") else None,
    }
    headers = {"Content-Type": "application/x-tar"}
    response = client.stream("PUT", f"/containers/{container}/archive", query, count.of(chunks), headers)
    response.read()
    count.report(f"{container}:{target.path}")


def _target(client: Client, container: str, path: str) -> Side:
    """What is at the destination; where it cannot be found out, the extraction will tell."""
    stat = _try_stat(client, container, path)
    if stat is not None and stat["mode"] & _LINK:
        path = posixpath.join(split(path)[0], stat["linkTarget"])
        stat = _try_stat(client, container, path)
    if stat is None:
        return Side(path)
    if stat["mode"] & (_DEVICE | _CHAR_DEVICE):
        raise ExitError(f'destination "{container}:{path}" must be a directory or a regular file: got a device')
    return Side(path, True, bool(stat["mode"] & _DIRECTORY))


def _standard_input() -> Iterator[bytes]:
    while chunk := os.read(0, _CHUNK):
        yield chunk


def _archive(path: str, name: str) -> Iterator[bytes]:
    from orlop.archive import write
    from orlop.archive.walk import TreeWriter, buffered

    def tar() -> Iterator[bytes]:
        pinned = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield from TreeWriter().one(pinned, os.fsencode(name))
            yield write.END
        except OSError as error:
            raise ExitError(f"{error.filename or path}: {(error.strerror or '').lower()}") from None
        finally:
            os.close(pinned)

    return buffered(tar(), _CHUNK)


# -- what is in a container


def _stat(headers: dict[str, str]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(base64.b64decode(headers[_STAT]))
    except (KeyError, ValueError):
        raise ExitError("unable to decode container path stat header") from None
    return found


def _try_stat(client: Client, container: str, path: str) -> dict[str, Any] | None:
    try:
        response = client.request("HEAD", f"/containers/{container}/archive", {"path": path})
    except EngineError:
        return None
    response.read()
    return _stat(response.headers)


CP = Command(
    "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\torlop cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files/folders between a container and the local filesystem",
    run,
    flags=[
        Flag("archive", "a", "bool", "Archive mode (copy all uid/gid information)"),
        Flag("follow-link", "L", "bool", "Always follow symbol link in SRC_PATH"),
        Flag(
            "quiet",
            "q",
            "bool",
            "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is "
            "attached",
        ),
    ],
    min_args=2,
    max_args=2,
    long=(
        "Copy files/folders between a container and the local filesystem\n\n"
        "Use '-' as the source to read a tar archive from stdin\n"
        "and extract it to a directory destination in a container.\n"
        "Use '-' as the destination to stream a tar archive of a\n"
        "container source to stdout."
    ),
)
