# SPDX-License-Identifier: Apache-2.0
"""Gives an image another name: `docker tag`."""

from orlop.dockerd.images.names import set_name
from orlop.dockerd.images.ports import PublishImageEvent
from orlop.dockerd.images.store import ImageStore
from orlop.errdefs import InvalidArgumentError
from orlop.oci import reference
from orlop.oci.reference import Reference


class TagImage:
    """Names an image; the image that had the name before stays, dangling."""

    def __init__(self, store: ImageStore, publish: PublishImageEvent) -> None:
        self._store = store
        self._publish = publish

    async def __call__(self, name: str, repository: str, tag: str = "") -> None:
        """Raises NotFoundError for no such image, InvalidArgumentError for what cannot be a tag."""
        wanted = tag_reference(repository, tag)
        record = await self._store.resolve(name)
        await set_name(self._store, str(wanted), record.target)
        self._publish("tag", record.id, {**record.config.config.labels, "name": wanted.familiar})


def tag_reference(repository: str, tag: str = "") -> Reference:
    """The full reference of `repository` and `tag` (default: latest). Raises InvalidArgumentError."""
    parsed = reference.parse(repository)
    if parsed.digest:
        raise InvalidArgumentError("refusing to create a tag with a digest reference")
    if tag:
        parsed = parsed.with_tag(tag)
    if parsed.familiar_name == "sha256":
        raise InvalidArgumentError("refusing to create an ambiguous tag using digest algorithm as name")
    return parsed.tagged()
