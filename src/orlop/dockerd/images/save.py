# SPDX-License-Identifier: Apache-2.0
"""Writes images into an archive: `docker save`."""

from collections.abc import AsyncIterator

from orlop.containerd.client.export import ExportedImage, export_archive
from orlop.containerd.client.unpack import ImageContent
from orlop.dockerd.images.ports import PublishImageEvent
from orlop.dockerd.images.remove import named_by
from orlop.dockerd.images.store import ImageRecord, ImageStore
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci import reference


class SaveImages:
    """Images by name (with those names), by repository (with all its tags) or by ID (without any)."""

    def __init__(self, store: ImageStore, publish: PublishImageEvent) -> None:
        self._store = store
        self._publish = publish

    async def __call__(self, names: list[str]) -> AsyncIterator[bytes]:
        """The archive in pieces. Raises NotFoundError, InvalidArgumentError before there is any."""
        if not names:
            raise InvalidArgumentError("no images to save")
        records: dict[str, ImageRecord] = {}
        tags: dict[str, dict[str, str]] = {}
        for name in names:
            for record, familiar, full in await self._wanted(name):
                records[record.id] = record
                named = tags.setdefault(record.id, {})
                if full:
                    named[familiar] = full
        exported = [ExportedImage(list(tags[key].items()), _content(record)) for key, record in records.items()]
        for record in records.values():
            self._publish("save", record.id, {**record.config.config.labels, "name": record.id})
        return export_archive(self._store.client, exported)

    async def _wanted(self, name: str) -> list[tuple[ImageRecord, str, str]]:
        """What one argument asks for: image, familiar name, full name (both empty for an ID)."""
        try:
            record = await self._store.resolve(name)
        except NotFoundError:
            if not (found := await self._repository(name)):
                raise
            return found
        named = named_by(record, name)
        if named is None:
            return [(record, "", "")]
        parsed = reference.parse(named.name)
        if not parsed.tag:
            return [(record, "", "")]
        asked = reference.parse(name)
        if not asked.tag and not asked.digest:
            return await self._repository(name)
        return [(record, parsed.familiar, str(parsed))]

    async def _repository(self, name: str) -> list[tuple[ImageRecord, str, str]]:
        """Every tag of a repository; nothing if `name` is no bare repository."""
        try:
            asked = reference.parse(name)
        except InvalidArgumentError:
            return []
        if asked.tag or asked.digest:
            return []
        return [
            (record, ref.familiar, str(ref))
            for record in await self._store.records()
            for ref in record.references
            if ref.tag and ref.name == asked.name
        ]


def _content(record: ImageRecord) -> ImageContent:
    return ImageContent(record.target, record.manifest, record.config_descriptor, record.layers, record.config)
