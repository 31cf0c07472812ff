# SPDX-License-Identifier: Apache-2.0
"""Layers as images of the file system EROFS, which the kernel mounts as they are; mkfs.erofs makes them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import tempfile
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from orlop.containerd.archive.apply import OVERLAY_OPAQUE, apply_layer
from orlop.containerd.archive.compression import LayerSource
from orlop.containerd.client.recompress import LAYER_TYPES, Compression, store_compressed
from orlop.errdefs import DataLossError, FailedPreconditionError, InvalidArgumentError
from orlop.oci.image import Descriptor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orlop.containerd.client.client import Client

EROFS_LAYER = "application/vnd.erofs.layer.v1"
OS_FEATURE = "erofs"
"""What `os.features` of an image says that has such layers."""

_BLOCK = 4096  # of dm-verity
_CLUSTER = 65536  # bytes that are compressed together
_SALT = "00" * 32
_TICK = 10_000_000  # nanoseconds by which the times of files may be behind the clock


class Erofs(NamedTuple):
    """How file systems are made: `zstd` compresses the blob, `compressors` (`lz4hc,9`) the blocks inside of it."""

    zstd: bool = False
    compressors: str = ""
    options: Sequence[str] = ()


async def erofs_layer(client: Client, layer: Descriptor, diff_id: str, wanted: Erofs) -> tuple[Descriptor, str]:
    """The layer as a file system in the content store, and the digest of that without compression.

    What is no layer of a tar is answered as it is. Raises FailedPreconditionError without mkfs.erofs,
    InvalidArgumentError for what that refuses, DataLossError for a layer that is not what `diff_id` says.
    """
    if layer.media_type not in LAYER_TYPES:
        return layer, diff_id
    with tempfile.TemporaryDirectory(prefix="orlop-erofs-") as directory:
        path = f"{directory}/layer.erofs"
        await make(client, layer, diff_id, path, wanted)
        compression = Compression.ZSTD if wanted.zstd else Compression.NONE
        with open(path, "rb") as file:
            ref = f"convert-erofs-{layer.digest}-{secrets.token_hex(6)}"
            digest, size, plain = await store_compressed(client, ref, file.fileno(), compression)
    media_type = f"{EROFS_LAYER}+zstd" if wanted.zstd else EROFS_LAYER
    return Descriptor(media_type=media_type, digest=digest, size=size), plain


async def make(client: Client, layer: Descriptor, diff_id: str, path: str, wanted: Erofs) -> None:
    """Write the layer as a file system to `path`; the same layer makes the same bytes. Raises as `erofs_layer`."""
    program = _program("mkfs.erofs", "erofs-utils")
    begun = time.time_ns() - _TICK
    async with _unpacked(client, layer, diff_id) as tree:
        newest = await asyncio.to_thread(_newest, tree, begun)
        words = [program, "--quiet", "-Enoinline_data", f"-T{newest}", "--preserve-mtime"]
        words += ["-U", str(uuid.uuid5(uuid.NAMESPACE_URL, f"erofs:blobs/{diff_id}"))]
        if wanted.compressors:
            words += [f"-z{wanted.compressors}", "-C", str(_CLUSTER)]
        await _run(*words, *wanted.options, path, tree)


async def add_verity(path: str) -> None:
    """Append dm-verity's hash tree to a file system, and write `<path>.dmverity`, which says where it begins.

    Raises FailedPreconditionError without veritysetup.
    """
    program = _program("veritysetup", "cryptsetup-bin")
    size = os.stat(path).st_size
    offset = -(-size // _BLOCK) * _BLOCK
    os.truncate(path, offset)
    sizes = [f"--data-block-size={_BLOCK}", f"--hash-block-size={_BLOCK}", f"--data-blocks={offset // _BLOCK}"]
    words = ["format", "--hash=sha256", f"--salt={_SALT}", *sizes, f"--hash-offset={offset}", path, path]
    found = re.search(r"Root hash:\s+([0-9a-f]+)", await _run(program, *words))
    if found is None:
        raise InvalidArgumentError(f"veritysetup: {path}: no root hash was told")
    with open(f"{path}.dmverity", "w", encoding="ascii") as file:
        json.dump({"roothash": found[1], "hashoffset": offset}, file, indent=2)


@asynccontextmanager
async def _unpacked(client: Client, layer: Descriptor, diff_id: str) -> AsyncIterator[str]:
    """A directory with the layer's files, in which deletions are what overlayfs takes for them."""
    with tempfile.TemporaryDirectory(prefix="orlop-layer-") as tree, tempfile.TemporaryFile() as blob:
        async for data in client.content.read(layer.digest):
            blob.write(data)
        blob.flush()
        os.chmod(tree, 0o755)
        root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with LayerSource(blob.fileno(), hash_compressed=False) as source:
                await asyncio.to_thread(apply_layer, iter(source), root, opaque=OVERLAY_OPAQUE)
        finally:
            os.close(root)
        if source.digest != diff_id:
            raise DataLossError(f"layer {layer.digest} unpacks to {source.digest}, the image says {diff_id}")
        yield tree


def _newest(tree: str, begun: int) -> int:
    """The newest time of a file, rounded up: without it each file system would tell of its own making.

    Directories that the layer presupposes have been made since `begun` (nanoseconds), and get no time.
    """
    now, newest = time.time_ns(), 0
    for place, directories, files in os.walk(tree):
        for path in (place, *(os.path.join(place, name) for name in (*directories, *files))):
            changed = os.lstat(path).st_mtime_ns
            if begun <= changed <= now:
                os.utime(path, (0, 0), follow_symlinks=False)
            else:
                newest = max(newest, changed)
    return -(-newest // 10**9)


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise FailedPreconditionError(f"{name} is not installed: it comes with {package}")
    return found


async def _run(*words: str) -> str:
    """What a program prints. Raises InvalidArgumentError with what it says when it fails."""
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    text = output.decode(errors="replace").strip()
    if process.returncode:
        said = text.splitlines()[-1] if text else f"it ended with status {process.returncode}"
        raise InvalidArgumentError(f"{os.path.basename(words[0])}: {said}")
    return text


async def build_cache(
    client: Client, layers: Sequence[tuple[Descriptor, str]], directory: str, wanted: Erofs, *, verity: bool
) -> None:
    """Write layers, given with their diff ids, as `<directory>/<algorithm>/<xx>/<hex of the diff id>.erofs`.

    One that is there is made anew; each appears whole. Raises as `erofs_layer`.
    """
    os.makedirs(directory, 0o755, exist_ok=True)
    for layer, diff_id in layers:
        if layer.media_type not in LAYER_TYPES:
            continue
        algorithm, _, encoded = diff_id.partition(":")
        place = f"{directory}/{algorithm}/{encoded[:2]}"
        with tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as work:
            made = f"{work}/layer"
            await make(client, layer, diff_id, made, wanted)
            if verity:
                await add_verity(made)
            os.makedirs(place, 0o755, exist_ok=True)
            # The blob's presence is what counts: what belongs to it comes first.
            for ending in (".dmverity", "")[not verity :]:
                _publish(f"{made}{ending}", f"{place}/{encoded}.erofs{ending}")
        _sync(place)


def _publish(made: str, name: str) -> None:
    os.chmod(made, 0o644)
    _sync(made)
    os.rename(made, name)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
