# SPDX-License-Identifier: Apache-2.0
"""A small image made here: busybox-static as an OCI archive."""

import gzip
import hashlib
import io
import json
import os
import tarfile

NAME = "docker.io/library/busybox:latest"
_APPLETS = "sh cat echo ls ps sleep true false id env mount hostname kill test head tty stty dd yes seq tail pwd wc".split()


def layer() -> bytes:
    """The root file system as an uncompressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
            tar.addfile(info)
        with open("/bin/busybox", "rb") as file:
            info = tarfile.TarInfo("bin/busybox")
            info.mode, info.size = 0o755, os.fstat(file.fileno()).st_size
            tar.addfile(info, file)
        for applet in _APPLETS:
            info = tarfile.TarInfo(f"bin/{applet}")
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, "busybox", 0o777
            tar.addfile(info)
        passwd = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n"
        for path, text in (("etc/passwd", passwd), ("etc/group", b"root:x:0:\nuser:x:1000:\n")):
            info = tarfile.TarInfo(path)
            info.mode, info.size = 0o644, len(text)
            tar.addfile(info, io.BytesIO(text))
    return buffer.getvalue()


def oci_archive(path: str, name: str = NAME) -> str:
    """Write the image as an OCI archive, as `ctr images import` takes it; the digest of its manifest."""
    plain = layer()
    packed = gzip.compress(plain, 1, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
        }
    ).encode()
    oci = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": _descriptor(f"{oci}.config.v1+json", config),
            "layers": [_descriptor(f"{oci}.layer.v1.tar+gzip", packed)],
        }
    ).encode()
    entry = _descriptor(f"{oci}.manifest.v1+json", manifest)
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    with tarfile.open(path, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", index)
        for blob in (config, packed, manifest):
            _add(tar, "blobs/sha256/" + _digest(blob).removeprefix("sha256:"), blob)
    return _digest(manifest)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
