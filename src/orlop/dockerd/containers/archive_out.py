# SPDX-License-Identifier: Apache-2.0
"""Copy files out of a container: `docker cp CONTAINER:PATH`."""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from orlop.archive import write
from orlop.archive.walk import TreeWriter, buffered, is_unreadable
from orlop.dockerd.containers.bridge import from_thread
from orlop.dockerd.containers.path_stat import Found, describe, find
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remapping import Remapping, Shift
from orlop.dockerd.containers.view import Views
from orlop.errdefs import InternalError, InvalidArgumentError, NotFoundError


class Archive(NamedTuple):
    """What is there, as X-Docker-Container-Path-Stat says it, and the tar stream of it; close it with aclose()."""

    stat: dict[str, Any]
    chunks: AsyncIterator[bytes]


class ArchiveOut:
    """The use case."""

    def __init__(self, registry: Registry, views: Views, remapping: Remapping) -> None:
        self._registry = registry
        self._views = views
        self._remapping = remapping

    async def stat(self, reference: str, path: str) -> dict[str, Any]:
        """What a path is. Raises NotFoundError (container, file), ConflictError, InvalidArgumentError."""
        view = await self._views.reading(self._registry.get(reference))

        def look() -> dict[str, Any]:
            with explained(path, reference):
                found = find(view, path)
                try:
                    return describe(view, found, path)
                finally:
                    os.close(found.pinned)

        try:
            return await asyncio.to_thread(look)
        finally:
            os.close(view)

    async def __call__(self, reference: str, path: str) -> Archive:
        """A tar of a file, or of a directory with all that is in it, under its own name.

        Raises as `stat`; the stream raises OSError for what cannot be read.
        """
        container = self._registry.get(reference)
        view = await self._views.reading(container)
        try:
            found, stat = await asyncio.to_thread(_open, view, path, reference)
        except BaseException:
            os.close(view)
            raise

        def close() -> None:
            os.close(found.pinned)
            os.close(view)

        inside = self._remapping.inside(container.record.host_config)
        self._registry.publish(container, "archive-path")
        return Archive(stat, from_thread(buffered(_tar(found, inside)), close))


def _open(view: int, path: str, reference: str) -> tuple[Found, dict[str, Any]]:
    with explained(path, reference):
        found = find(view, path)
        try:
            if is_unreadable(found.pinned) and not stat.S_ISDIR(os.fstat(found.pinned).st_mode):
                raise FileNotFoundError  # in docker's words; an empty file would be a lie
            return found, describe(view, found, path)
        except BaseException:
            os.close(found.pinned)
            raise


def _tar(found: Found, inside: Shift | None) -> Iterator[bytes]:
    with told():
        yield from TreeWriter(inside).one(found.pinned, os.fsencode(found.name))
    yield write.END


@contextmanager
def told() -> Iterator[None]:
    """Turn what could not be read while a stream was being sent into one line for the log."""
    try:
        yield
    except OSError as error:
        name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
        raise InternalError(f"cannot read {name or 'a directory'}: {error.strerror}") from None


@contextmanager
def explained(path: str, reference: str) -> Iterator[None]:
    """Turn what the kernel says about a path of a container into docker's errors."""
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"Could not find the file {path} in container {reference}") from None
    except OSError as error:
        message = f"{path}: {os.strerror(error.errno).lower() if error.errno else error}"
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EXDEV, None):
            raise InvalidArgumentError(message) from None
        raise InternalError(message) from None
