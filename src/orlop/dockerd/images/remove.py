# SPDX-License-Identifier: Apache-2.0
"""Removes names of images, and images: `docker rmi`."""

from orlop.dockerd.images.names import keep_dangling, remove_name
from orlop.dockerd.images.ports import ContainerUses, PublishImageEvent
from orlop.dockerd.images.store import ImageName, ImageRecord, ImageStore
from orlop.errdefs import ConflictError, InvalidArgumentError
from orlop.oci import reference
from orlop.oci.image import chain_ids
from orlop.oci.reference import Reference

Removed = list[dict[str, str]]
"""ImageDeleteResponseItem objects: each `{"Untagged": …}` or `{"Deleted": …}`."""


class RemoveImage:
    """Removes by name or by ID.

    By name: the name goes; the image too, if that was its last one and no container uses it. By ID: all names of
    one repository and the image go. `force` overrides several repositories and stopped containers, never running
    ones.
    """

    def __init__(self, store: ImageStore, uses: ContainerUses, publish: PublishImageEvent) -> None:
        self._store = store
        self._uses = uses
        self._publish = publish

    async def __call__(self, name: str, *, force: bool = False) -> Removed:
        """Raises NotFoundError, and ConflictError in Docker's words."""
        if not name.strip():
            raise InvalidArgumentError("image name cannot be blank")
        record = await self._store.resolve(name)
        named = named_by(record, name)
        if named is None:
            return await self._remove_all(record, force)
        return await self._remove_name(record, named, name, force)

    async def _remove_name(self, record: ImageRecord, named: ImageName, asked: str, force: bool) -> Removed:
        going = [named, *_left_alone(record, named)]
        last = len(going) == len(record.names)
        users = self._uses(record.id)
        if last and users and not force:
            raise ConflictError(
                f'conflict: unable to remove repository reference "{asked}" (must force) - container '
                f"{short(users[0].id)} is using its referenced image {short(record.id)}"
            )
        removed: Removed = []
        if last and users:
            # The image stays for its containers, without a name.
            await keep_dangling(self._store, named.name, named.target)
        for name in going:
            await self._untag(record, name, removed, collect=last and not users)
        if last and not users:
            removed += await self._deleted(record)
        return removed

    async def _remove_all(self, record: ImageRecord, force: bool) -> Removed:
        repositories = {ref.name for ref in record.references}
        identity = short(record.id)
        users = self._uses(record.id)
        if running := [user for user in users if user.running]:
            raise ConflictError(
                f"conflict: unable to delete {identity} (cannot be forced) - image is being used by running "
                f"container {short(running[0].id)}"
            )
        if not force and len(repositories) > 1:
            raise ConflictError(
                f"conflict: unable to delete {identity} (must be forced) - image is referenced in multiple "
                "repositories"
            )
        if not force and users:
            raise ConflictError(
                f"conflict: unable to delete {identity} (must be forced) - image is being used by stopped "
                f"container {short(users[0].id)}"
            )
        removed: Removed = []
        for number, name in enumerate(record.names, 1):
            await self._untag(record, name, removed, collect=number == len(record.names))
        return removed + await self._deleted(record)

    async def _untag(self, record: ImageRecord, name: ImageName, removed: Removed, *, collect: bool) -> None:
        await remove_name(self._store, name.name, collect=collect)
        if not name.dangling:
            familiar = _familiar(name.name)
            removed.append({"Untagged": familiar})
            self._publish("untag", record.id, {**record.config.config.labels, "name": familiar})

    async def _deleted(self, record: ImageRecord) -> Removed:
        """What is gone now: the image, and those of its layers that no other image has."""
        self._publish("delete", record.id, {**record.config.config.labels, "name": record.id})
        kept = {
            chain
            for other in await self._store.records()
            if other.id != record.id
            for chain in chain_ids(other.config.rootfs.diff_ids)
        }
        layers = [chain for chain in chain_ids(record.config.rootfs.diff_ids) if chain not in kept]
        return [{"Deleted": record.id}, *({"Deleted": chain} for chain in reversed(layers))]


def named_by(record: ImageRecord, asked: str) -> ImageName | None:
    """The name of the image that the user means; None if it was asked for by ID or by its beginning."""
    try:
        wanted = reference.parse(asked)
    except InvalidArgumentError:
        return None
    full = str(wanted.canonical())
    for name in record.names:
        if name.name == full:
            return name
        parsed = _parsed(name)
        if wanted.digest and parsed and parsed.name == wanted.name and name.target.digest == wanted.digest:
            return name
    return None


def short(identity: str) -> str:
    """The first twelve digits of an ID."""
    return identity.removeprefix("sha256:")[:12]


def _left_alone(record: ImageRecord, named: ImageName) -> list[ImageName]:
    """Digest names of a repository whose last tag is going: they go along."""
    mine = _parsed(named)
    if mine is None:
        return []
    same = [
        (name, ref) for name in record.names if name != named and (ref := _parsed(name)) and ref.name == mine.name
    ]
    if any(ref.tag for _, ref in same):
        return []
    return [name for name, _ in same]


def _parsed(name: ImageName) -> Reference | None:
    try:
        return None if name.dangling else reference.parse(name.name)
    except InvalidArgumentError:
        return None


def _familiar(name: str) -> str:
    try:
        return reference.parse(name).familiar
    except InvalidArgumentError:
        return name
