# SPDX-License-Identifier: Apache-2.0
"""ctr containers checkpoint and restore: a container as an image, an index in the form of containerd's clients.

The index's annotations name image, runtime and snapshotter; its manifests are blobs that are known by their media
types: the spec, the runtime's options, the image itself, the writable layer, and what CRIU wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.any_pb2 import Any

from orlop.api.containers_pb2 import Container
from orlop.api.runc_options_pb2 import CheckpointOptions
from orlop.api.task_types_pb2 import Status
from orlop.containerd.client import Client, typeurl
from orlop.containerd.client.leases import leased
from orlop.ctr.commands.run import run_task
from orlop.ctr.flags import Flag, Values
from orlop.ctr.main import Command
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci.image import INDEX_TYPES, OCI_INDEX, OCI_LAYER_GZIP, Descriptor, Index, chain_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.api.types_pb2 import Descriptor as Message

IMAGE_NAME = "org.opencontainers.image.ref.name"
RUNTIME_NAME = "io.containerd.checkpoint.runtime"
SNAPSHOTTER_NAME = "io.containerd.checkpoint.snapshotter"
CRIU = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
CONFIG = "application/vnd.containerd.container.checkpoint.config.v1+proto"
RUNTIME_OPTIONS = "application/vnd.containerd.container.checkpoint.runtime.options+proto"
_SIZE_MAX = 8 << 20  # bytes of a spec


async def _checkpoint(client: Client, values: Values) -> None:
    id, reference = values.need("container id", "checkpoint reference")
    container = await client.containers.get(id)
    if not container.image:
        raise InvalidArgumentError(f"container {id} has no image: its root file system cannot be found again")
    paused = values["task"] and await _pause(client, id)
    try:
        async with leased(client) as work:
            target = await _store(work, container, values)
            await client.images.create(reference, target)
    finally:
        if paused:
            await client.tasks.resume(id)


async def _pause(client: Client, id: str) -> bool:
    """Hold a running task still, so that its files and its memory are of one moment."""
    if (await client.tasks.get(id)).status != Status.RUNNING:
        return False
    await client.tasks.pause(id)
    return True


async def _store(work: Client, container: Container, values: Values) -> Message:
    """Put the index and what it names into the content store; the descriptor of the index as a message."""
    from orlop.codec import encode
    from orlop.containerd.client.fetch import children_labels, store_small
    from orlop.containerd.client.unpack import from_proto, to_proto
    from orlop.oci.image import digest_of

    parts: list[Descriptor] = []
    if container.runtime.HasField("options"):
        raw = container.runtime.options.SerializeToString()
        parts.append(await _blob(work, RUNTIME_OPTIONS, raw))
    if values["image"]:
        parts.append(from_proto((await work.images.get(container.image)).target))
    if values["task"]:
        parts += [from_proto(one) for one in await work.tasks.checkpoint(container.id, _options())]
    else:  # a task's has it
        parts.append(await _blob(work, CONFIG, container.spec.SerializeToString()))
    if values["rw"]:
        parts.append(await _writable_layer(work, container))
    annotations = {
        IMAGE_NAME: container.image,
        RUNTIME_NAME: container.runtime.name,
        SNAPSHOTTER_NAME: container.snapshotter,
    }
    index = Index(media_type=OCI_INDEX, manifests=parts, annotations=annotations)
    raw = encode(index)
    target = Descriptor(media_type=OCI_INDEX, digest=digest_of(raw), size=len(raw))
    await store_small(work, target, raw, children_labels(index))
    return to_proto(target)


def _options() -> Any:
    return typeurl.pack(CheckpointOptions())


async def _blob(work: Client, media_type: str, raw: bytes) -> Descriptor:
    from orlop.containerd.client.fetch import store_small
    from orlop.oci.image import digest_of

    made = Descriptor(media_type=media_type, digest=digest_of(raw), size=len(raw))
    await store_small(work, made, raw, {})
    return made


async def _writable_layer(work: Client, container: Container) -> Descriptor:
    """What the container has changed of its image, as a layer."""
    from orlop.containerd.client.unpack import from_proto
    from orlop.ctr.commands.snapshots import mounts_of

    snapshots = work.snapshots(container.snapshotter)
    parent = (await snapshots.stat(container.snapshot_key)).parent
    async with mounts_of(snapshots, parent) as left:
        right = await snapshots.mounts(container.snapshot_key)
        return from_proto(await work.diff.diff(left, right, media_type=OCI_LAYER_GZIP))


class _Parts(NamedTuple):
    """A checkpoint that has been read."""

    document: Index

    def find(self, media_type: str) -> Descriptor | None:
        """The first part of a media type."""
        return next((part for part in self.document.manifests if part.media_type == media_type), None)

    def annotation(self, name: str) -> str:
        """Raises InvalidArgumentError where it is missing."""
        annotations = self.document.annotations
        value = annotations.get(name, "") if annotations else ""
        if not value:
            raise InvalidArgumentError(f"checkpoint: annotation {name} is missing")
        return value


async def _restore(client: Client, values: Values) -> int:
    id, reference = values.need("container id", "checkpoint reference")
    async with leased(client) as work:
        parts = await _read(work, reference)
        container = await _container(work, id, parts, rw=values["rw"])
    checkpoint = parts.find(CRIU) if values["live"] else None
    if values["live"] and checkpoint is None:
        raise NotFoundError(f"checkpoint {reference} holds no task: it was made without --task")
    return await _run(client, container, checkpoint)


async def _read(client: Client, reference: str) -> _Parts:
    from orlop.codec import decode

    image = await client.images.get(reference)
    if image.target.media_type not in INDEX_TYPES:
        raise InvalidArgumentError(f"image {reference} is no checkpoint: expected an index")
    return _Parts(decode(await client.content.read_blob(image.target.digest), Index))


async def _container(work: Client, id: str, parts: _Parts, *, rw: bool) -> Container:
    """The record that the checkpoint describes, with a snapshot of its own; on failure there is neither."""
    from orlop.containerd.client.unpack import from_proto, read_image, to_proto, unpack
    from orlop.oci.platforms import host_platform

    config = parts.find(CONFIG)
    layer = parts.find(OCI_LAYER_GZIP) if rw else None
    if config is None:
        raise InvalidArgumentError("checkpoint: the container's spec is missing")
    if rw and layer is None:
        raise NotFoundError("checkpoint: the writable layer is missing: it was made without --rw")
    name, snapshotter = parts.annotation(IMAGE_NAME), parts.annotation(SNAPSHOTTER_NAME)
    target = await _image(work, name, parts)
    content = await read_image(work, from_proto(target), host_platform())
    await unpack(work, content, snapshotter)
    snapshots = work.snapshots(snapshotter)
    mounts = await snapshots.prepare(id, chain_ids(content.image.rootfs.diff_ids)[-1])
    try:
        if layer is not None:
            await work.diff.apply(to_proto(layer), mounts)
        return await work.containers.create(
            Container(
                id=id,
                image=name,
                runtime=Container.Runtime(
                    name=parts.annotation(RUNTIME_NAME), options=await _runtime(work, parts)
                ),
                spec=Any.FromString(await work.content.read_blob(config.digest, _SIZE_MAX)),
                snapshotter=snapshotter,
                snapshot_key=id,
            )
        )
    except BaseException:
        await snapshots.remove(id)
        raise


async def _image(client: Client, name: str, parts: _Parts) -> Message:
    """The image of the container: the one of that name, or else the one in the checkpoint, which gets the name."""
    from orlop.containerd.client.unpack import to_proto

    try:
        return (await client.images.get(name)).target
    except NotFoundError:
        inside = next((one for one in parts.document.manifests if _is_image(one.media_type)), None)
        if inside is None:
            raise
    target = to_proto(inside)
    await client.images.create(name, target)
    return target


def _is_image(media_type: str) -> bool:
    from orlop.oci.image import MANIFEST_TYPES

    return media_type in MANIFEST_TYPES | INDEX_TYPES


async def _runtime(client: Client, parts: _Parts) -> Any | None:
    options = parts.find(RUNTIME_OPTIONS)
    return None if options is None else Any.FromString(await client.content.read_blob(options.digest))


async def _run(client: Client, container: Container, checkpoint: Descriptor | None) -> int:
    """Run the task at our streams, until it ends."""
    from orlop.containerd.client.unpack import to_proto
    from orlop.oci.runtime import decode_spec

    process = decode_spec(container.spec.value).process
    given = {
        "tty": process is not None and process.terminal,
        "null-io": False,
        "log-uri": "",
        "detach": False,
        "fifo-dir": "",
        "pid-file": "",
    }
    values = Values(given, [], set())
    return await run_task(
        client, container, values, checkpoint=None if checkpoint is None else to_proto(checkpoint)
    )


def _flags(*flags: tuple[str, str]) -> Sequence[Flag]:
    return tuple(Flag(name, bool, help=text) for name, text in flags)


COMMANDS = {
    "checkpoint": Command(
        _checkpoint,
        "checkpoint a container",
        "[flags] CONTAINER REF",
        _flags(
            ("rw", "include the rw layer in the checkpoint"),
            ("image", "include the image in the checkpoint"),
            ("task", "checkpoint container task (by CRIU)"),
        ),
    ),
    "restore": Command(
        _restore,
        "restore a container from checkpoint",
        "[flags] CONTAINER REF",
        _flags(
            ("rw", "restore the rw layer from the checkpoint"),
            ("live", "restore the runtime and memory data from the checkpoint"),
        ),
    ),
}
