# SPDX-License-Identifier: Apache-2.0
"""Layers through the Diff service of any daemon, and what makes a tree of files the same as another."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile

import grpc
import zstandard
from support import images
from support.snapshotter_suite import ROOT
from support.storage import RemoteContent, RemoteSnapshotter, digest_of, metadata_of, put

from orlop.api import diff_pb2, diff_pb2_grpc, types_pb2
from orlop.codec import decode
from orlop.containerd.core.diff import Descriptor
from orlop.containerd.core.mount import Mount, to_proto
from orlop.containerd.core.namespaces import Scope
from orlop.oci.image import Manifest

Tree = dict[str, tuple[object, ...]]


class Layer:
    """A tar being made."""

    def __init__(self, format: int = tarfile.PAX_FORMAT) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=format)  # noqa: SIM115
        self.encoding = "utf-8"

    def add(self, name: str, type: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object) -> Layer:
        """Add a member; returns itself."""
        info = tarfile.TarInfo(name)
        info.type, info.size, info.mode = type, len(data), 0o644
        for field, value in fields.items():
            setattr(info, field, value)
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def directory(self, name: str, mode: int = 0o755, **fields: object) -> Layer:
        """Add a directory."""
        return self.add(name, tarfile.DIRTYPE, mode=mode, **fields)

    def link(self, name: str, target: str) -> Layer:
        """Add a symbolic link."""
        return self.add(name, tarfile.SYMTYPE, linkname=target)

    def hardlink(self, name: str, target: str, **fields: object) -> Layer:
        """Add a hard link."""
        return self.add(name, tarfile.LNKTYPE, linkname=target, **fields)

    def bytes(self) -> bytes:
        """The tar."""
        self._tar.close()
        return self._buffer.getvalue()


def tree_of(root: str) -> Tree:
    """Everything below a directory: modes, owners, times, xattrs, contents, and which names are one file."""
    found: Tree = {}
    first: dict[int, str] = {}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = f"{directory}/{name}"
            status = os.lstat(path)
            relative = path.removeprefix(root)
            xattrs = [
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in sorted(os.listxattr(path, follow_symlinks=False))
            ]
            content: object = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            linked = first.setdefault(status.st_ino, relative) if not stat.S_ISDIR(status.st_mode) else ""
            found[relative] = (
                *(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev),
                *(linked, xattrs, content),
            )
    return found


class RemoteLayers:
    """The Diff service of a daemon, with a scope of its own."""

    def __init__(self, channel: grpc.Channel, scope: Scope) -> None:
        self.content = RemoteContent(channel, scope)
        self.snapshots = RemoteSnapshotter(channel, scope, "overlayfs")
        self._stub = diff_pb2_grpc.DiffStub(channel)
        self._metadata = metadata_of(scope)

    def apply(self, layer: Descriptor, mounts: list[Mount]) -> Descriptor:
        """Apply a layer."""
        message = types_pb2.Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size)
        request = diff_pb2.ApplyRequest(diff=message, mounts=to_proto(mounts))
        applied = self._stub.Apply(request, metadata=self._metadata, timeout=30).applied
        return Descriptor(applied.media_type, applied.digest, applied.size)

    def compare(self, left: list[Mount], right: list[Mount], media_type: str = "") -> Descriptor:
        """Make a layer."""
        request = diff_pb2.DiffRequest(
            left=to_proto(left), right=to_proto(right), media_type=media_type, ref="diff", labels=ROOT
        )
        made = self._stub.Diff(request, metadata=self._metadata, timeout=30).diff
        return Descriptor(made.media_type, made.digest, made.size)

    def unpack(self, image: images.BuiltImage) -> str:
        """Unpack all layers of an image; the name of the topmost snapshot."""
        parent = ""
        for number, layer in enumerate(decode(image.blobs[image.target.digest], Manifest).layers):
            data = image.blobs[layer.digest]
            put(self.content, data, ROOT)
            mounts = self.snapshots.prepare("unpacking", parent, ROOT)
            applied = self.apply(Descriptor(layer.media_type, layer.digest, layer.size), mounts)
            plain = plain_of(data)
            assert (applied.digest, applied.size) == (digest_of(plain), len(plain))
            parent = f"layer-{number}"
            self.snapshots.commit(parent, "unpacking", ROOT)
        return parent


def plain_of(data: bytes) -> bytes:
    """A layer, uncompressed."""
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def change(root: str) -> None:
    """Change a busybox tree in every way that a layer can show."""
    os.mkdir(f"{root}/new")
    os.mkdir(f"{root}/new/deep", 0o700)
    for name in ("file", "deep/file", "ümläut", "n" * 200):
        with open(f"{root}/new/{name}", "w", encoding="utf-8") as file:
            file.write(name)
    os.chmod(f"{root}/new/file", 0o4755)
    os.chown(f"{root}/new/file", 3_000_000, 5)
    os.chmod(f"{root}/new/file", 0o4755)
    os.setxattr(f"{root}/new/deep/file", "security.capability", images.CAPABILITY)
    os.link(f"{root}/new/file", f"{root}/new/zz-link")
    os.symlink("../target", f"{root}/new/soft")
    os.mknod(f"{root}/new/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(f"{root}/new/fifo")
    os.utime(f"{root}/new/file", ns=(1, 1_234_567_890_123_456_789))
    os.chmod(f"{root}/etc", 0o750)
    os.unlink(f"{root}/etc/passwd")
    with open(f"{root}/etc/group", "a", encoding="utf-8") as file:
        file.write("more\n")
    for name in ("home", "root"):
        shutil.rmtree(f"{root}/{name}")
    os.mkdir(f"{root}/root")
    with open(f"{root}/root/only", "w", encoding="utf-8") as file:
        file.write("x")
