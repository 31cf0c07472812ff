# SPDX-License-Identifier: Apache-2.0
"""Images made in memory: layers, configuration and manifest, written out as an archive that Docker loads.

    layer = LayerBuilder(mtime=0)
    layer.directory("etc", 0o755)
    layer.file("etc/motd", b"ahoy\n")
    image = build_image([layer.finish()], ImageConfig(cmd=["sh"]))
    write_archive({"example:latest": image}, output)

Everything is deterministic: the same input gives the same digests.
"""

import gzip
import io
import json
import stat
import tarfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, NamedTuple

from orlop.codec import encode
from orlop.oci import reference
from orlop.oci.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    History,
    Image,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RootFS,
    digest_of,
)
from orlop.oci.platforms import host_platform

ANNOTATION_REF_NAME = "org.opencontainers.image.ref.name"
ANNOTATION_IMAGE_NAME = "io.containerd.image.name"


class Layer(NamedTuple):
    """One layer: the bytes as stored and sent, their media type, and the digest of the uncompressed tar."""

    media_type: str
    blob: bytes
    diff_id: str
    created_by: str = ""


class BuiltImage(NamedTuple):
    """An image, or an index of several: the descriptor to name it by, and every blob by digest."""

    target: Descriptor
    blobs: dict[str, bytes]
    image: Image | None = None


class LayerBuilder:
    """A layer's tar, member by member, in pax format; paths are relative to the image's root."""

    def __init__(self, mtime: int = 0) -> None:
        self._mtime = mtime
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    def directory(self, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        self.add(self._info(path, tarfile.DIRTYPE, mode, uid, gid))

    def file(
        self,
        path: str,
        data: bytes = b"",
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        xattrs: Mapping[str, bytes] | None = None,
    ) -> None:
        """A regular file; `xattrs` are written as SCHILY.xattr records, as every builder of images does."""
        info = self._info(path, tarfile.REGTYPE, mode, uid, gid)
        info.size = len(data)
        info.pax_headers = {
            f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
            for name, value in (xattrs or {}).items()
        }
        self.add(info, data)

    def symlink(self, path: str, target: str) -> None:
        info = self._info(path, tarfile.SYMTYPE, 0o777)
        info.linkname = target
        self.add(info)

    def hardlink(self, path: str, target: str) -> None:
        """A second name for `target`, an earlier path of this layer (overlay has no links to lower layers)."""
        # Extractors set a link's mode on the file that it names, so it has to be that file's.
        original = self._tar.getmember(target)
        info = self._info(path, tarfile.LNKTYPE, original.mode, original.uid, original.gid)
        info.linkname = target
        self.add(info)

    def device(self, path: str, kind: int, major: int, minor: int, mode: int = 0o666) -> None:
        """A device node or fifo; `kind` is stat.S_IFCHR, S_IFBLK or S_IFIFO."""
        types = {stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}
        info = self._info(path, types[kind], mode)
        info.devmajor, info.devminor = major, minor
        self.add(info)

    def whiteout(self, path: str) -> None:
        """Take a path of a lower layer away."""
        parent, slash, name = path.rpartition("/")
        self.file(f"{parent}{slash}.wh.{name}", mode=0o600)

    def opaque(self, directory: str) -> None:
        """Hide everything that lower layers have in a directory."""
        self.file(f"{directory}/.wh..wh..opq", mode=0o600)

    def add(self, info: tarfile.TarInfo, data: bytes = b"") -> None:
        """Any member, for what the other methods do not make."""
        self._tar.addfile(info, io.BytesIO(data))

    def tar(self) -> bytes:
        """End the tar and return it; the builder is used up."""
        self._tar.close()
        return self._buffer.getvalue()

    def finish(self, *, compress: bool = True, docker: bool = False, created_by: str = "") -> Layer:
        """End the layer; `docker` gives it Docker's media type in place of OCI's."""
        return layer_of(self.tar(), compress=compress, docker=docker, created_by=created_by)

    def _info(self, path: str, kind: bytes, mode: int, uid: int = 0, gid: int = 0) -> tarfile.TarInfo:
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.uid, info.gid, info.mtime = kind, mode, uid, gid, self._mtime
        return info


def layer_of(tar: bytes, *, compress: bool = True, docker: bool = False, created_by: str = "") -> Layer:
    """A layer of a tar's bytes."""
    if compress:
        media_type = DOCKER_LAYER_GZIP if docker else OCI_LAYER_GZIP
        return Layer(media_type, gzip.compress(tar, 6, mtime=0), digest_of(tar), created_by)
    return Layer(DOCKER_LAYER if docker else OCI_LAYER, tar, digest_of(tar), created_by)


def build_image(
    layers: Sequence[Layer],
    config: ImageConfig,
    *,
    platform: Platform | None = None,
    created: int = 0,
    docker: bool = False,
    history: Sequence[History] = (),
) -> BuiltImage:
    """Put layers and configuration under a manifest.

    `created` in seconds since 1970; `docker` makes it schema 2 in place of OCI.
    """
    platform = platform or host_platform()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
    image = Image(
        created=stamp,
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        config=config,
        rootfs=RootFS(diff_ids=[layer.diff_id for layer in layers]),
        history=list(history)
        or [History(created=stamp, created_by=layer.created_by or "orlop build") for layer in layers],
    )
    blobs = {digest_of(layer.blob): layer.blob for layer in layers}
    raw_config = encode(image)
    manifest = Manifest(
        media_type=DOCKER_MANIFEST if docker else OCI_MANIFEST,
        config=_describe(DOCKER_CONFIG if docker else OCI_CONFIG, raw_config),
        layers=[_describe(layer.media_type, layer.blob) for layer in layers],
    )
    raw_manifest = encode(manifest)
    blobs[digest_of(raw_config)] = raw_config
    blobs[digest_of(raw_manifest)] = raw_manifest
    target = _describe(manifest.media_type, raw_manifest)
    target.platform = platform
    return BuiltImage(target, blobs, image)


def build_index(images: Sequence[BuiltImage], *, docker: bool = False) -> BuiltImage:
    """Put images of several platforms under one index (Docker: manifest list)."""
    index = Index(media_type=DOCKER_LIST if docker else OCI_INDEX, manifests=[image.target for image in images])
    raw = encode(index)
    blobs = {digest: blob for image in images for digest, blob in image.blobs.items()}
    blobs[digest_of(raw)] = raw
    return BuiltImage(_describe(index.media_type, raw), blobs)


def write_archive(images: Mapping[str, BuiltImage], output: IO[bytes]) -> None:
    """Write images by reference as one tar: an OCI layout that is a docker-archive too, as of `docker save`."""
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _put(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        top = Index(media_type=OCI_INDEX, manifests=[_named(name, image) for name, image in images.items()])
        _put(tar, "index.json", encode(top))
        written: set[str] = set()
        for image in images.values():
            for digest, blob in image.blobs.items():
                if digest not in written:
                    _put(tar, _blob_path(digest), blob)
                    written.add(digest)
        _put(tar, "manifest.json", json.dumps(_docker_manifest(images)).encode())


def _named(name: str, image: BuiltImage) -> Descriptor:
    full = reference.parse(name).tagged()
    return Descriptor(
        media_type=image.target.media_type,
        digest=image.target.digest,
        size=image.target.size,
        platform=image.target.platform,
        annotations={ANNOTATION_IMAGE_NAME: str(full), ANNOTATION_REF_NAME: full.tag},
    )


def _docker_manifest(images: Mapping[str, BuiltImage]) -> list[dict[str, object]]:
    """The manifest.json of a docker-archive; an index has no place in it."""
    items: list[dict[str, object]] = []
    for name, image in images.items():
        if image.image is None:
            continue
        manifest = json.loads(image.blobs[image.target.digest])
        items.append(
            {
                "Config": _blob_path(manifest["config"]["digest"]),
                "RepoTags": [reference.parse(name).tagged().familiar],
                "Layers": [_blob_path(layer["digest"]) for layer in manifest["layers"]],
            }
        )
    return items


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _describe(media_type: str, blob: bytes) -> Descriptor:
    return Descriptor(media_type=media_type, digest=digest_of(blob), size=len(blob))


def _put(tar: tarfile.TarFile, path: str, data: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))
