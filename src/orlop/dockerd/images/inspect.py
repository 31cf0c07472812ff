# SPDX-License-Identifier: Apache-2.0
"""Describes one image: `docker image inspect`."""

from typing import Any

import msgspec

from orlop.containerd.client.fetch import DISTRIBUTION_SOURCE
from orlop.dockerd import timestamps
from orlop.dockerd.images.sizes import LayerSizes
from orlop.dockerd.images.store import LABEL_PARENT, ImageRecord, ImageStore
from orlop.errdefs import NotFoundError
from orlop.oci.image import Platform


class InspectImage:
    """An image as the Engine API's ImageInspect object."""

    def __init__(self, store: ImageStore, sizes: LayerSizes) -> None:
        self._store = store
        self._sizes = sizes

    async def __call__(self, name: str, platform: Platform | None = None) -> dict[str, Any]:
        """Raises NotFoundError, also for an image that is here for other platforms only."""
        record = await self._store.resolve(name, platform)
        image = record.config
        body: dict[str, Any] = {
            "Id": record.id,
            "RepoTags": record.repo_tags,
            "RepoDigests": record.repo_digests,
            "Parent": await self._parent(record),
            "Comment": image.comment or (image.history[-1].comment if image.history else ""),
            "Created": image.created,
            "Author": image.author,
            "Config": config_section(record),
            "Architecture": image.architecture,
            "Variant": image.variant,
            "Os": image.os,
            "OsVersion": image.os_version,
            "Size": await self._sizes.total(record),
            "RootFS": {"Type": image.rootfs.type, "Layers": image.rootfs.diff_ids},
            "Metadata": {"LastTagTime": timestamps.rfc3339(_last_tagged(record))},
            "Identity": await identity_of(self._store, record.target.digest),
            "Descriptor": msgspec.to_builtins(record.target),
            "DockerVersion": image.docker_version,
            "GraphDriver": {"Name": self._store.snapshotter, "Data": None},
        }
        return {key: value for key, value in body.items() if value or key not in _OPTIONAL}

    async def _parent(self, record: ImageRecord) -> str:
        try:
            info = await self._store.client.content.info(record.manifest.digest)
        except NotFoundError:
            return ""  # being removed
        return info.labels.get(LABEL_PARENT, "")


_OPTIONAL = frozenset(
    {"Parent", "Comment", "Created", "Author", "Variant", "OsVersion", "DockerVersion", "Identity"}
)


async def identity_of(store: ImageStore, digest: str) -> dict[str, Any] | None:
    """Where a manifest or index was pulled from, as the API's Identity object; None for what was not pulled.

    Signatures are not looked at, and nothing is built here.
    """
    try:
        labels = (await store.client.content.info(digest)).labels
    except NotFoundError:
        return None  # being removed
    repositories = sorted(
        f"{name.removeprefix(DISTRIBUTION_SOURCE)}/{path}"
        for name, value in labels.items()
        if name.startswith(DISTRIBUTION_SOURCE)
        for path in value.split(",")
    )
    return {"Pull": [{"Repository": repository} for repository in repositories]} if repositories else None


def config_section(record: ImageRecord) -> dict[str, Any]:
    """The `config` section as it is shown: what is empty is left out."""
    section: dict[str, Any] = msgspec.to_builtins(record.config.config)
    return section


def _last_tagged(record: ImageRecord) -> int:
    return max((int(name.updated * timestamps.SECOND) for name in record.names), default=0)
