# SPDX-License-Identifier: Apache-2.0
"""Writes images into an archive: `docker save`."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from orlop.containerd.client.export import ExportedImage, Selection, export_archive
from orlop.containerd.client.push import is_complete
from orlop.containerd.client.unpack import ImageContent
from orlop.dockerd.images.ports import PublishImageEvent
from orlop.dockerd.images.remove import named_by
from orlop.dockerd.images.store import ImageRecord, ImageStore
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci import reference
from orlop.oci.image import INDEX_TYPES, Descriptor, Platform


class _Wanted(NamedTuple):
    """What an argument asks for: an image, what its name points at, and the name (none for an ID)."""

    record: ImageRecord
    target: Descriptor
    names: tuple[tuple[str, str], ...] = ()
    """At most one: familiar form, full form."""


class SaveImages:
    """Images by name (with those names), by repository (with all its tags) or by ID (without any)."""

    def __init__(self, store: ImageStore, publish: PublishImageEvent) -> None:
        self._store = store
        self._publish = publish

    async def __call__(self, names: list[str], platforms: Sequence[Platform] = ()) -> AsyncIterator[bytes]:
        """The archive in pieces: one platform's manifest, the index with those of several, or all that is here.

        Raises NotFoundError, InvalidArgumentError before there is any.
        """
        if not names:
            raise InvalidArgumentError("no images to save")
        wanted: dict[str, _Wanted] = {}
        for name in names:
            for one in await self._wanted(name):
                before = wanted.get(one.target.digest, one).names
                named = dict.fromkeys((*before, *one.names))
                wanted[one.target.digest] = one._replace(names=tuple(named))
        exported = [await self._exported(one, platforms) for one in wanted.values()]
        for record in {one.record.id: one.record for one in wanted.values()}.values():
            self._publish("save", record.id, {**record.config.config.labels, "name": record.id})
        return export_archive(self._store.client, exported)

    async def _exported(self, wanted: _Wanted, platforms: Sequence[Platform]) -> ExportedImage:
        found = [await self._store.resolve(wanted.target.digest, platform) for platform in platforms]
        record = found[0] if found else wanted.record
        content = ImageContent(
            wanted.target, record.manifest, record.config_descriptor, record.layers, record.config
        )
        whole = wanted.target.media_type in INDEX_TYPES and len(platforms) != 1
        if whole and not platforms:
            whole = await is_complete(self._store.client, wanted.target)
        return ExportedImage(wanted.names, content, Selection(platforms) if whole else None)

    async def _wanted(self, name: str) -> list[_Wanted]:
        try:
            record = await self._store.resolve(name)
        except NotFoundError:
            if not (found := await self._repository(name)):
                raise
            return found
        named = named_by(record, name)
        if named is None:
            return [_Wanted(record, record.target)]
        parsed = reference.parse(named.name)
        if not parsed.tag:
            return [_Wanted(record, named.target)]
        asked = reference.parse(name)
        if not asked.tag and not asked.digest:
            return await self._repository(name)
        return [_Wanted(record, named.target, ((parsed.familiar, str(parsed)),))]

    async def _repository(self, name: str) -> list[_Wanted]:
        """Every tag of a repository; nothing if `name` is no bare repository."""
        try:
            asked = reference.parse(name)
        except InvalidArgumentError:
            return []
        if asked.tag or asked.digest:
            return []
        return [
            _Wanted(record, known.target, ((ref.familiar, str(ref)),))
            for record in await self._store.records()
            for known, ref in zip(record.names, record.parsed_names, strict=True)
            if ref and ref.tag and ref.name == asked.name
        ]
