# SPDX-License-Identifier: Apache-2.0
"""Makes an image of a container: `docker commit`."""

import secrets
import time
from collections.abc import Callable, Sequence

from orlop.archive.owners import with_owners
from orlop.archive.walk import buffered
from orlop.containerd.client import Client
from orlop.containerd.client.leases import leased
from orlop.containerd.client.tarstream import decompressed
from orlop.containerd.client.unpack import LABEL_UNCOMPRESSED, from_proto, unpack
from orlop.dockerd.containers.bridge import fed, from_thread
from orlop.dockerd.images.changes import apply_changes
from orlop.dockerd.images.import_ import store_layer, write_image
from orlop.dockerd.images.names import dangling_name, set_name
from orlop.dockerd.images.ports import CommitSource, FindCommitSource, PublishImageEvent
from orlop.dockerd.images.store import LABEL_PARENT, ImageRecord, ImageStore
from orlop.errdefs import InternalError
from orlop.oci.image import OCI_LAYER_GZIP, Descriptor, History, Image, ImageConfig, RootFS
from orlop.oci.reference import Reference

Owner = Callable[[int, int], tuple[int, int]]


class CommitContainer:
    """The container's image with what the container changed as one layer more."""

    def __init__(self, store: ImageStore, find: FindCommitSource, publish: PublishImageEvent) -> None:
        self._store = store
        self._find = find
        self._publish = publish

    async def __call__(
        self,
        container: str,
        *,
        reference: Reference | None = None,
        comment: str = "",
        author: str = "",
        pause: bool = True,
        changes: Sequence[str] = (),
        config: ImageConfig | None = None,
    ) -> str:
        """The new image's ID. `config` overrides the container's own, `changes` are instructions upon it.

        Raises NotFoundError (the container, its image), InvalidArgumentError (a change).
        """
        source = self._find(container)
        parent = await self._store.resolve(source.image_id)
        wanted = apply_changes(merged(config, source.config) if config else source.config, changes)
        async with leased(self._store.client) as client:
            if pause:
                async with source.paused():
                    layer, diff_id = await self._changes(client, source)
            else:
                layer, diff_id = await self._changes(client, source)
            image = _image(parent, wanted, diff_id, source, comment, author)
            content = await write_image(client, image, [*parent.layers, layer], {LABEL_PARENT: parent.id})
            await unpack(client, content, self._store.snapshotter)
            name = str(reference.tagged()) if reference else dangling_name(content.target)
            await set_name(self._store, name, content.target)
        image_id = content.config_descriptor.digest
        if reference:
            self._publish("tag", image_id, {**wanted.labels, "name": reference.tagged().familiar})
        source.committed(image_id, reference.tagged().familiar if reference else "", comment)
        return image_id

    async def _changes(self, client: Client, source: CommitSource) -> tuple[Descriptor, str]:
        """What the container's snapshot has over its parent: the layer and its diff ID."""
        snapshots = client.snapshots(self._store.snapshotter)
        parent = (await snapshots.stat(source.snapshot_key)).parent
        unique = f"commit-{secrets.token_hex(8)}"
        lower = await snapshots.view(unique, parent)
        try:
            upper = await snapshots.mounts(source.snapshot_key)
            made = from_proto(await client.diff.diff(lower, upper, media_type=OCI_LAYER_GZIP, ref=unique))
        finally:
            await snapshots.remove(unique)
        if source.inside is not None:
            return await _reowned(client, made.digest, source.inside)
        diff_id = (await client.content.info(made.digest)).labels.get(LABEL_UNCOMPRESSED, "")
        if not diff_id:
            raise InternalError(f"containerd does not say what layer {made.digest} is uncompressed")
        return Descriptor(media_type=OCI_LAYER_GZIP, digest=made.digest, size=made.size), diff_id


async def _reowned(client: Client, digest: str, owner: Owner) -> tuple[Descriptor, str]:
    """A layer with its members given to other owners, and its diff ID; what it is made of goes by itself."""
    async with fed(decompressed(client.content.read(digest))) as incoming:
        members = from_thread(buffered(with_owners(iter(incoming), owner)), lambda: None)
        try:
            return await store_layer(client, members)
        finally:
            incoming.stop()
            await members.aclose()


def _image(
    parent: ImageRecord, config: ImageConfig, diff_id: str, source: CommitSource, comment: str, author: str
) -> Image:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    step = History(created=now, created_by=" ".join(source.config.cmd or []), author=author, comment=comment)
    return Image(
        created=now,
        author=author,
        architecture=parent.config.architecture,
        os=parent.config.os,
        os_version=parent.config.os_version,
        os_features=parent.config.os_features,
        variant=parent.config.variant,
        config=config,
        rootfs=RootFS(diff_ids=[*parent.config.rootfs.diff_ids, diff_id]),
        history=[*parent.config.history, step],
        comment=comment,
    )


def merged(given: ImageConfig, container: ImageConfig) -> ImageConfig:
    """A given configuration, completed by the container's: lists and maps are united, the given ones win."""
    keys = {item.partition("=")[0] for item in given.env}
    has_command = bool(given.entrypoint or given.cmd)
    return ImageConfig(
        user=given.user or container.user,
        exposed_ports={**container.exposed_ports, **given.exposed_ports},
        env=[*given.env, *(item for item in container.env if item.partition("=")[0] not in keys)],
        entrypoint=container.entrypoint if given.entrypoint is None else given.entrypoint,
        cmd=given.cmd if has_command else container.cmd,
        volumes={**container.volumes, **given.volumes},
        working_dir=given.working_dir or container.working_dir,
        labels={**container.labels, **given.labels},
        stop_signal=given.stop_signal or container.stop_signal,
        healthcheck=given.healthcheck or container.healthcheck,
        on_build=given.on_build,
        shell=given.shell,
    )
