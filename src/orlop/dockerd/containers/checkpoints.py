# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of containers: directories that CRIU writes and a start reads again."""

import asyncio
import contextlib
import os
import re
import shutil
from pathlib import Path

import msgspec

from orlop.api.runc_options_pb2 import CheckpointOptions
from orlop.containerd.client import Client, typeurl
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.registry import Registry
from orlop.errdefs import ConflictError, InternalError, InvalidArgumentError, NotFoundError, OrlopError

_VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


class CheckpointRequest(msgspec.Struct, rename="pascal"):
    """Body of POST /containers/{id}/checkpoints; `exit` stops the container, `checkpoint_dir` is another place."""

    checkpoint_id: str = msgspec.field(default="", name="CheckpointID")
    checkpoint_dir: str = ""
    exit: bool = False


class Checkpoints:
    """The use cases. A checkpoint is `checkpoints/<name>/` below the container's directory, or
    `<directory>/<id>/checkpoints/<name>/` where a request names a directory, as with Docker."""

    def __init__(self, registry: Registry, client: Client, paths: Paths) -> None:
        self._registry = registry
        self._client = client
        self._paths = paths

    async def create(self, reference: str, request: CheckpointRequest) -> None:
        """Write a checkpoint. Raises NotFoundError, ConflictError, InvalidArgumentError, and CRIU's failure."""
        container = self._registry.get(reference)
        place = self._place(container, request.checkpoint_dir, request.checkpoint_id)
        async with container.lock:
            if not container.record.state.running or container.record.state.restarting:
                raise ConflictError(f"container {reference} is not running")
            if container.record.config.tty:
                raise InvalidArgumentError("checkpoint is not supported on containers with a terminal")
            if place.is_dir():
                raise ConflictError(
                    f"checkpoint with name {request.checkpoint_id} already exists for container {reference}"
                )
            try:
                await self._write(container, place, request.exit)
            except OrlopError as error:
                raise type(error)(f"cannot checkpoint container {reference}: {error}") from None
        self._registry.publish(container, "checkpoint")

    def list(self, reference: str, directory: str = "") -> list[str]:
        """The names of a container's checkpoints. Raises NotFoundError, InvalidArgumentError."""
        base = self._base(self._registry.get(reference), directory)
        try:
            found = [entry.name for entry in base.iterdir() if entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InternalError(f"checkpoints of container {reference}: {error}") from None
        return sorted(name for name in found if _VALID.fullmatch(name))

    async def delete(self, reference: str, name: str, directory: str = "") -> None:
        """Remove a checkpoint. Raises NotFoundError, InvalidArgumentError, InternalError."""
        place = self.find(reference, name, directory)
        try:
            await asyncio.to_thread(shutil.rmtree, place)
        except OSError as error:
            raise InternalError(f"checkpoint {name} of container {reference}: {error}") from None

    def find(self, reference: str, name: str, directory: str = "") -> Path:
        """Where a checkpoint is. Raises NotFoundError, InvalidArgumentError."""
        place = self._place(self._registry.get(reference), directory, name)
        if not place.is_dir():
            raise NotFoundError(f"checkpoint {name} does not exist for container {reference}")
        return place

    async def _write(self, container: Container, place: Path, exit: bool) -> None:
        """Under another name first: what a crash leaves behind is no checkpoint."""
        part = place.with_name(f".{place.name}")
        await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
        options = typeurl.pack(CheckpointOptions(exit=exit, image_path=str(part), cgroups_mode="soft"))
        try:
            part.mkdir(mode=0o700, parents=True)
            await self._client.tasks.checkpoint(container.id, options)
            os.rename(part, place)
        except OSError as error:
            raise InternalError(f"{place}: {error.strerror}") from None
        finally:
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
            with contextlib.suppress(OSError):  # where there are others
                place.parent.rmdir()

    def _place(self, container: Container, directory: str, name: str) -> Path:
        if not _VALID.fullmatch(name):
            raise InvalidArgumentError(
                f"invalid checkpoint ID ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )
        return self._base(container, directory) / name

    def _base(self, container: Container, directory: str) -> Path:
        if not directory:
            return self._paths.data(container.id) / "checkpoints"
        if not os.path.isabs(directory):
            raise InvalidArgumentError(f"checkpoint directory {directory!r}: expected an absolute path")
        return Path(directory, container.id, "checkpoints")
