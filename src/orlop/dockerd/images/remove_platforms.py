# SPDX-License-Identifier: Apache-2.0
"""Removes an image for some platforms, and keeps it for the others: `docker rmi --platform`."""

from collections.abc import Iterator, Sequence

from orlop.dockerd.images.ports import ContainerUses, PublishImageEvent
from orlop.dockerd.images.remove import Removed, RemoveImage, named_by, short
from orlop.dockerd.images.store import ImageRecord, ImageStore
from orlop.errdefs import ConflictError, InvalidArgumentError, NotFoundError
from orlop.oci.image import INDEX_TYPES, MANIFEST_SIZE_MAX, Descriptor, Index, Platform, parse_document


class RemovePlatforms:
    """What an index has for the platforms goes from the content store; the last of it takes the image along."""

    def __init__(
        self, store: ImageStore, uses: ContainerUses, publish: PublishImageEvent, remove: RemoveImage
    ) -> None:
        self._store = store
        self._uses = uses
        self._publish = publish
        self._remove = remove

    async def __call__(self, name: str, platforms: Sequence[Platform], *, force: bool = False) -> Removed:
        """Raises NotFoundError for a platform that is not here, ConflictError; then nothing is removed."""
        record = await self._store.resolve(name)
        named = named_by(record, name)
        target = named.target if named else record.target
        going = {one.manifest.digest: one for one in [await self._store.resolve(name, p) for p in platforms]}
        for one in going.values():
            self._check(one, force)
        if target.media_type not in INDEX_TYPES or not await self._left(target, going):
            return await self._remove(name, force=force)
        await self._check_others(target, going)
        for one in going.values():
            await self._store.client.content.delete(one.manifest.digest)
        self._store.changed(*(known.name for known in record.names))
        for one in going.values():
            self._publish("delete", one.id, {**one.config.config.labels, "name": one.id})
        return [{"Deleted": digest} for digest in going]

    def _check(self, record: ImageRecord, force: bool) -> None:
        users = self._uses(record.id)
        running = [user for user in users if user.running]
        if not users or (force and not running):
            return
        kind, how = ("running", "cannot be forced") if running else ("stopped", "must be forced")
        raise ConflictError(
            f"conflict: unable to delete {short(record.id)} ({how}) - image is being used by {kind} container "
            f"{short((running or users)[0].id)}"
        )

    async def _left(self, target: Descriptor, going: dict[str, ImageRecord]) -> bool:
        """Whether the index keeps a manifest that is here."""
        for child in _images(await self._index(target)):
            if child.digest not in going and await self._is_here(child):
                return True
        return False

    async def _check_others(self, target: Descriptor, going: dict[str, ImageRecord]) -> None:
        """A manifest that another image has too must stay."""
        for record in await self._store.records():
            for name in record.names:
                if name.target.digest == target.digest:
                    continue
                shared = {name.target.digest}
                if name.target.media_type in INDEX_TYPES:
                    shared = {child.digest for child in (await self._index(name.target)).manifests}
                for digest in shared & going.keys():
                    raise ConflictError(
                        f"conflict: unable to delete {short(digest)} (cannot be forced) - "
                        f"it is part of {name.name}"
                    )

    async def _is_here(self, descriptor: Descriptor) -> bool:
        try:
            await self._store.client.content.info(descriptor.digest)
        except NotFoundError:
            return False
        return True

    async def _index(self, target: Descriptor) -> Index:
        raw = await self._store.client.content.read_blob(target.digest, MANIFEST_SIZE_MAX)
        document = parse_document(raw, target.media_type)
        if not isinstance(document, Index):
            raise InvalidArgumentError(f"{target.digest} is no index")
        return document


def _images(index: Index) -> Iterator[Descriptor]:
    """The manifests of an index that are no attestations."""
    for child in index.manifests:
        if not child.annotations.get("vnd.docker.reference.type"):
            yield child
