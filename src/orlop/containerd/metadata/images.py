# SPDX-License-Identifier: Apache-2.0
"""Images in the metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orlop.api.image_events_pb2 import ImageCreate, ImageDelete, ImageUpdate
from orlop.containerd.core import filters as filter_language
from orlop.containerd.core import labels as label_rules
from orlop.containerd.core.content import validate_digest
from orlop.containerd.core.images import Image, Target
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.failpoints import failpoint
from orlop.containerd.metadata.db import Database, Row, now, pack, unpack
from orlop.containerd.metadata.leases import MetadataLeases
from orlop.containerd.metadata.namespaces import MetadataNamespaces
from orlop.errdefs import AlreadyExistsError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from orlop.containerd.core.events import EventPublisher
    from orlop.containerd.metadata.gc import GarbageCollector

_MIGRATIONS = (
    """
    CREATE TABLE images (
        namespace TEXT NOT NULL, name TEXT NOT NULL,
        media_type TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, annotations TEXT NOT NULL,
        labels TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL,
        PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID
    """,
)


class MetadataImages:
    """All images; `bind` gives the `ImageStore` of a scope."""

    def __init__(
        self,
        db: Database,
        namespaces: MetadataNamespaces,
        leases: MetadataLeases,
        gc: GarbageCollector,
        events: EventPublisher,
    ) -> None:
        db.migrate("images", _MIGRATIONS)
        namespaces.register_contents("images", "SELECT 1 FROM images WHERE namespace = ? LIMIT 1")
        self.db = db
        self.namespaces = namespaces
        self.leases = leases
        self.gc = gc
        self.events = events

    def bind(self, scope: Scope) -> BoundImages:
        """The images of one namespace."""
        return BoundImages(self, scope)


class BoundImages:
    """Implements `orlop.containerd.core.images.ImageStore`."""

    def __init__(self, owner: MetadataImages, scope: Scope) -> None:
        self._owner = owner
        self._db = owner.db
        self._scope = scope
        self._namespace = scope.namespace

    def get(self, name: str) -> Image:
        """One image; raises NotFoundError."""
        row = self._db.row("SELECT * FROM images WHERE namespace = ? AND name = ?", (self._namespace, name))
        if row is None:
            raise NotFoundError(f'image "{name}": not found')
        return _image(row)

    def list(self, filters: Sequence[str] = ()) -> list[Image]:
        """The images that match, by name; raises InvalidArgumentError."""
        matches = filter_language.parse_all(filters)
        rows = self._db.rows("SELECT * FROM images WHERE namespace = ? ORDER BY name", (self._namespace,))
        return [image for image in map(_image, rows) if matches(_adapt(image))]

    def create(self, image: Image, epoch: int | None = None) -> Image:
        """Add an image; raises AlreadyExistsError, InvalidArgumentError."""
        image = _checked(image)
        created = epoch if epoch is not None else now()
        image = image._replace(created=created, updated=created)
        with self._db.transaction():
            self._owner.namespaces.ensure(self._namespace)
            self._hold_expiring(image)
            if self._db.row(
                "SELECT 1 FROM images WHERE namespace = ? AND name = ?", (self._namespace, image.name)
            ):
                raise AlreadyExistsError(f'image "{image.name}": already exists')
            self._store(image)
        failpoint("image.create.after_record")
        self._owner.events.publish(
            self._namespace, "/images/create", ImageCreate(name=image.name, labels=image.labels)
        )
        return image

    def update(self, image: Image, paths: Sequence[str] = (), epoch: int | None = None) -> Image:
        """Change an image; raises NotFoundError, InvalidArgumentError."""
        if not image.name:
            raise InvalidArgumentError("image name is required for update")
        with self._db.transaction():
            stored = self.get(image.name)
            updated = _merge(stored, image, paths) if paths else image
            updated = _checked(updated)._replace(
                created=stored.created, updated=epoch if epoch is not None else now()
            )
            self._hold_expiring(updated)
            self._store(updated)
        self._owner.gc.mutated()
        self._owner.events.publish(
            self._namespace, "/images/update", ImageUpdate(name=updated.name, labels=updated.labels)
        )
        return updated

    def delete(self, name: str, digest: str = "") -> None:
        """Remove an image; raises NotFoundError."""
        with self._db.transaction():
            stored = self.get(name)
            if digest and stored.target.digest != digest:
                raise NotFoundError(f'image "{name}" has target {stored.target.digest}, not {digest}: not found')
            self._db.execute("DELETE FROM images WHERE namespace = ? AND name = ?", (self._namespace, name))
            self._owner.leases.release(self._scope, "images", name)
        failpoint("image.delete.after_record")
        self._owner.gc.deleted()
        self._owner.events.publish(self._namespace, "/images/delete", ImageDelete(name=name))

    def _hold_expiring(self, image: Image) -> None:
        if label_rules.GC_EXPIRE in image.labels:  # other images are roots themselves
            self._owner.leases.hold(self._scope, "images", image.name)

    def _store(self, image: Image) -> None:
        target = image.target
        self._db.execute(
            "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._namespace,
                image.name,
                target.media_type,
                target.digest,
                target.size,
                pack(target.annotations),
                pack(image.labels),
                image.created,
                image.updated,
            ),
        )


def _image(row: Row) -> Image:
    target = Target(row["media_type"], row["digest"], row["size"], unpack(row["annotations"]))
    return Image(row["name"], target, unpack(row["labels"]), row["created"], row["updated"])


def _adapt(image: Image) -> filter_language.Adaptor:
    return filter_language.adapt(
        {"name": image.name, "target.digest": image.target.digest, "target.mediatype": image.target.media_type},
        {"labels": image.labels, "annotations": image.target.annotations},
    )


def _merge(stored: Image, wanted: Image, paths: Sequence[str]) -> Image:
    for path in paths:
        if path == "target":
            stored = stored._replace(target=wanted.target)
        elif path == "annotations" or path.startswith("annotations."):
            annotations = _merge_annotations(stored.target.annotations, wanted.target.annotations, path)
            stored = stored._replace(target=stored.target._replace(annotations=annotations))
        else:
            labels = label_rules.update(f'image "{wanted.name}"', stored.labels, wanted.labels, (path,))
            stored = stored._replace(labels=labels)
    return stored


def _merge_annotations(stored: Mapping[str, str], wanted: Mapping[str, str], path: str) -> Mapping[str, str]:
    if path == "annotations":
        return wanted
    key = path.removeprefix("annotations.")
    return {**stored, key: wanted.get(key, "")}


def _checked(image: Image) -> Image:
    """The image as it comes to exist; raises InvalidArgumentError that names the field."""
    if not image.name:
        raise InvalidArgumentError("image name must not be empty")
    labels = label_rules.checked(image.labels)
    validate_digest(image.target.digest, "target.digest")
    if image.target.size <= 0:
        raise InvalidArgumentError("target.size must be greater than zero")
    if not image.target.media_type:
        raise InvalidArgumentError("target.media_type must be set")
    annotations = {key: value for key, value in image.target.annotations.items() if value}
    return image._replace(labels=labels, target=image.target._replace(annotations=annotations))
