# SPDX-License-Identifier: Apache-2.0
"""Which images there are and which one a name means, kept in memory so that `docker run` reads no content.

An image's ID is the digest of its configuration, as in Docker's classic store: it is the same on every machine
and in every compression of its layers. (moby's containerd store takes the digest of the manifest or index
instead; that digest is accepted as a name too, and stands in RepoDigests.)

Names are containerd's image records, full references: `docker.io/library/busybox:latest`. An image that lost its
last tag keeps a record `moby-dangling@<digest of its target>`, as with moby.
"""

import asyncio
import logging
import re
from collections.abc import Iterable
from typing import NamedTuple

from orlop.api import images_pb2
from orlop.containerd.client import Client
from orlop.containerd.client.unpack import ImageContent, read_image, unpack
from orlop.errdefs import InvalidArgumentError, NotFoundError, OrlopError
from orlop.oci import reference
from orlop.oci.image import Descriptor, Image, Platform, chain_ids
from orlop.oci.platforms import host_platform, platform_rank

DANGLING = "moby-dangling"
LABEL_PARENT = "org.mobyproject.image.parent"
"""On the manifest of an image that was made of another here: that one's ID. moby's label."""

_SHORT_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})\Z")
_log = logging.getLogger(__name__)


class ImageName(NamedTuple):
    """A containerd image record: its name, the descriptor that it names and when it last changed (seconds)."""

    name: str
    target: Descriptor
    updated: float = 0.0

    @property
    def dangling(self) -> bool:
        return self.name.startswith(DANGLING + "@")


class ImageRecord(NamedTuple):
    """An image with everything that making a container of it needs.

    `id` is `sha256:…` of the configuration; `config` the whole document (`config.config` the section with Env, Cmd
    …); `chain_id` names the committed snapshot of its top layer (empty: no layers); `names` are the records that
    point at it.
    """

    id: str
    config: Image
    config_descriptor: Descriptor
    manifest: Descriptor
    layers: list[Descriptor]
    chain_id: str
    names: tuple[ImageName, ...]

    @property
    def target(self) -> Descriptor:
        """What the first name points at: a manifest, or the index that holds it."""
        return self.names[0].target if self.names else self.manifest

    @property
    def parsed_names(self) -> list[reference.Reference | None]:
        """Each of `names` as a reference; None for a dangling or foreign one."""
        return [_parse(name.name) for name in self.names]

    @property
    def references(self) -> list[reference.Reference]:
        """The names under which people know it, dangling ones left out."""
        return [parsed for parsed in self.parsed_names if parsed is not None]

    @property
    def repo_tags(self) -> list[str]:
        """`busybox:latest` …"""
        return sorted({ref.familiar for ref in self.references if ref.tag})

    @property
    def repo_digests(self) -> list[str]:
        """`busybox@sha256:…` …"""
        found = set()
        for name in self.names:
            parsed = _parse(name.name)
            if parsed is not None:
                found.add(f"{parsed.familiar_name}@{parsed.digest or name.target.digest}")
        return sorted(found)


class ImageStore:
    """The images of one containerd namespace.

    `resolve`, `records` answer from memory while `watch` runs (it follows containerd's events); without it every
    call lists the names anew, and only unchanged content comes from memory.
    """

    def __init__(self, client: Client, snapshotter: str = "overlayfs") -> None:
        self.client = client
        self.snapshotter = snapshotter
        self._platform = host_platform()
        self._names: dict[str, ImageName] = {}
        self._contents: dict[str, ImageContent] = {}  # by the target's digest
        self._records: dict[str, ImageRecord] = {}  # by image ID
        self._fresh = False
        self._watched = False
        self._lock = asyncio.Lock()

    @property
    def watched(self) -> bool:
        """Whether containerd's events keep the memory true, so that resolving needs no call."""
        return self._watched

    async def resolve(self, name: str, platform: Platform | None = None) -> ImageRecord:
        """The image that a reference, an ID, the beginning of an ID or a digest means.

        An index may be here for several platforms: without `platform` it means the host's, else any that is here.
        Raises NotFoundError `No such image: foo:latest`, InvalidArgumentError for what cannot be a name.
        """
        await self.refresh()
        record = self._find(name)
        if record is None:
            raise NotFoundError(f"No such image: {_display(name)}")
        if platform is None or platform_rank(platform, record.config.platform) is not None:
            return record
        return await self._for_platform(name, record, platform)

    async def _for_platform(self, name: str, record: ImageRecord, platform: Platform) -> ImageRecord:
        for named in record.names:
            try:
                content = await read_image(self.client, named.target, platform)
            except NotFoundError:
                continue
            if platform_rank(platform, content.image.platform) is not None:
                return _record(content, (named,))
        raise NotFoundError(
            f"image with reference {name} was found but does not provide the specified platform ({platform})"
        )

    async def of_manifest(self, manifest: Descriptor) -> ImageRecord:
        """The image of one manifest that is here, without names. Raises NotFoundError, InvalidArgumentError."""
        return _record(await read_image(self.client, manifest, manifest.platform or self._platform), ())

    async def records(self) -> list[ImageRecord]:
        """All images that are here for some platform, those that changed last first."""
        await self.refresh()
        return sorted(self._records.values(), key=lambda record: -max(name.updated for name in record.names))

    async def ensure_unpacked(self, record: ImageRecord) -> None:
        """Unpack an image whose snapshot is missing in the snapshotter (it came by another client, say)."""
        content = ImageContent(
            record.target, record.manifest, record.config_descriptor, record.layers, record.config
        )
        await unpack(self.client, content, self.snapshotter)

    def changed(self, *names: str) -> None:
        """Forget what is known: call after changing image records, or content below an index."""
        for name in names:
            if known := self._names.get(name):
                self._contents.pop(known.target.digest, None)
        self._fresh = False

    async def refresh(self) -> None:
        """Read the names, and the content that is new, if anything may have changed."""
        if self._fresh and self._watched and not self._lock.locked():  # locked: somebody is just reading them
            return
        async with self._lock:
            if self._fresh and self._watched:
                return
            self._fresh = True  # an event from here on makes it stale again
            try:
                await self._read(await self.client.images.list())
            except BaseException:
                self._fresh = False
                raise

    async def watch(self) -> None:
        """Follow containerd's image events until cancelled; a broken stream is taken up again."""
        namespace = self.client.namespace
        while True:
            try:
                filter = f"namespace=={namespace},topic~=|^/images/|"
                async with self.client.events.subscribe(filter) as events:
                    self._fresh, self._watched = False, True
                    async for _ in events:
                        self._fresh = False
            except OrlopError as error:
                _log.debug("image events: %s", error)  # the monitor of tasks says once that containerd is away
            finally:
                self._watched = self._fresh = False
            await asyncio.sleep(1)  # containerd is away: ask again once a second

    async def _read(self, images: Iterable[images_pb2.Image]) -> None:
        names: dict[str, ImageName] = {}
        for image in images:
            target = Descriptor(
                media_type=image.target.media_type,
                digest=image.target.digest,
                size=image.target.size,
                annotations=dict(image.target.annotations),
            )
            names[image.name] = ImageName(image.name, target, image.updated_at.ToNanoseconds() / 1e9)
        wanted = {name.target.digest: name.target for name in names.values()}
        contents: dict[str, ImageContent] = {}
        for digest, target in wanted.items():
            content = self._contents.get(digest)
            if content is None:
                try:
                    content = await read_image(self.client, target, self._platform)
                except (NotFoundError, InvalidArgumentError) as error:
                    _log.debug("image %s is not usable here: %s", digest, error)
                    continue
            contents[digest] = content
        self._names, self._contents = names, contents
        self._records = _by_id(names, contents)

    def _find(self, name: str) -> ImageRecord | None:
        if reference.is_image_id(name):
            return self._by_digest("sha256:" + name)
        if name.startswith("sha256:") and reference.is_image_id(name[7:]):
            return self._by_digest(name)
        try:
            parsed = reference.parse(name)
        except InvalidArgumentError:
            if not _SHORT_ID.match(name):
                raise
        else:
            if found := self._by_reference(parsed):
                return found
        short = _SHORT_ID.match(name)
        return self._by_prefix(short[1]) if short else None

    def _by_digest(self, digest: str) -> ImageRecord | None:
        if digest in self._records:
            return self._records[digest]
        for record in self._records.values():
            if digest == record.manifest.digest or any(digest == name.target.digest for name in record.names):
                return record
        return None

    def _by_reference(self, wanted: reference.Reference) -> ImageRecord | None:
        full = wanted.canonical()
        named = self._names.get(str(full))
        if named is None and full.digest:
            # Pulled by tag, asked for by digest.
            for name in self._names.values():
                parsed = _parse(name.name)
                if parsed and parsed.name == full.name and name.target.digest == full.digest:
                    named = name
        if named is None or named.target.digest not in self._contents:
            return None
        return self._records.get(self._contents[named.target.digest].config_descriptor.digest)

    def _by_prefix(self, prefix: str) -> ImageRecord | None:
        found = {
            record.id: record
            for record in self._records.values()
            if record.id.startswith("sha256:" + prefix)
            or any(name.target.digest.startswith("sha256:" + prefix) for name in record.names)
        }
        return next(iter(found.values())) if len(found) == 1 else None


def _by_id(names: dict[str, ImageName], contents: dict[str, ImageContent]) -> dict[str, ImageRecord]:
    grouped: dict[str, list[ImageName]] = {}
    for name in sorted(names.values()):
        if name.target.digest in contents:
            grouped.setdefault(contents[name.target.digest].config_descriptor.digest, []).append(name)
    records = {}
    for image_id, named in grouped.items():
        records[image_id] = _record(contents[named[0].target.digest], tuple(named))
    return records


def _record(content: ImageContent, names: tuple[ImageName, ...]) -> ImageRecord:
    chains = chain_ids(content.image.rootfs.diff_ids)
    return ImageRecord(
        id=content.config_descriptor.digest,
        config=content.image,
        config_descriptor=content.config_descriptor,
        manifest=content.manifest_descriptor,
        layers=content.layers,
        chain_id=chains[-1] if chains else "",
        names=names,
    )


def _parse(name: str) -> reference.Reference | None:
    if name.startswith(DANGLING + "@"):
        return None
    try:
        return reference.parse(name)
    except InvalidArgumentError:
        return None  # a name that another client of containerd gave, which Docker cannot show


def _display(name: str) -> str:
    try:
        return reference.parse(name).tagged().familiar
    except InvalidArgumentError:
        return name
