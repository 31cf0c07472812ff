# SPDX-License-Identifier: Apache-2.0
"""ctr install: programs out of an image into containerd's directory for them."""

from __future__ import annotations

import asyncio
import os
import posixpath
import shutil
import tarfile
import tempfile
from typing import IO, TYPE_CHECKING

from orlop.containerd.client import Client
from orlop.ctr.flags import Flag, Values
from orlop.ctr.main import Command
from orlop.errdefs import AlreadyExistsError, DataLossError, FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPT = "io.containerd.internal.v1"


async def _install(client: Client, values: Values) -> None:
    from orlop.containerd.client.unpack import from_proto, read_image
    from orlop.oci.platforms import host_platform

    (name,) = values.need("ref")
    directory = values["path"] or await _managed(client)
    wanted = ("bin", "lib") if values["libs"] else ("bin",)
    image = await client.images.get(name)
    content = await read_image(client, from_proto(image.target), host_platform())
    for layer in content.layers:
        with tempfile.TemporaryFile(prefix="orlop-layer-") as file:
            async for data in client.content.read(layer.digest):
                file.write(data)
            file.seek(0)
            await asyncio.to_thread(install_layer, file, directory, wanted, replace=values["replace"])


async def _managed(client: Client) -> str:
    """The directory that the daemon names for it. Raises FailedPreconditionError where it names none."""
    for plugin in await client.system.plugins(f"type=={_OPT},id==opt"):
        if path := plugin.exports.get("path"):
            return path
    raise FailedPreconditionError("this containerd has no directory for programs: give one with --path")


def install_layer(file: IO[bytes], directory: str, wanted: tuple[str, ...], *, replace: bool) -> None:
    """Write the plain files below the `wanted` top directories of a layer.

    Nothing but plain files and links among them is taken. Raises AlreadyExistsError for a file that is there,
    unless `replace`, InvalidArgumentError for a link that leads out, DataLossError for a damaged layer.
    """
    try:
        with tarfile.open(fileobj=_plain(file)) as members:
            for member, path in _chosen(members, wanted):
                _place(members, member, os.path.join(directory, path), replace=replace)
    except tarfile.TarError as error:
        raise DataLossError(f"layer: {error}") from None


def _plain(file: IO[bytes]) -> IO[bytes]:
    """The layer without compression, in a file of its own."""
    from orlop.containerd.archive.compression import LayerSource

    plain = tempfile.TemporaryFile(prefix="orlop-layer-")  # noqa: SIM115 - it is the answer
    with LayerSource(file.fileno(), hash_compressed=False) as source:
        for chunk in source:
            plain.write(chunk)
    plain.seek(0)
    return plain


def _chosen(members: tarfile.TarFile, wanted: tuple[str, ...]) -> Iterator[tuple[tarfile.TarInfo, str]]:
    for member in members:
        path = posixpath.normpath("/" + member.name).lstrip("/")
        if path.partition("/")[0] in wanted and (member.isreg() or member.issym()):
            yield member, path


def _place(members: tarfile.TarFile, member: tarfile.TarInfo, path: str, *, replace: bool) -> None:
    if os.path.lexists(path) and not replace:
        raise AlreadyExistsError(f"cannot replace {path}: use --replace")
    os.makedirs(os.path.dirname(path), 0o711, exist_ok=True)
    staging = f"{path}.orlop-{os.getpid()}"
    try:
        if member.issym():
            if "/" in member.linkname:
                raise InvalidArgumentError(
                    f"{member.name}: a link to {member.linkname} leads out of its directory"
                )
            os.symlink(member.linkname, staging)
        else:
            source = members.extractfile(member)
            assert source is not None
            with source, open(staging, "xb") as target:
                shutil.copyfileobj(source, target)
                os.fchmod(target.fileno(), member.mode & 0o755)
        os.replace(staging, path)
    except BaseException:
        if os.path.lexists(staging):
            os.unlink(staging)
        raise


COMMANDS = {
    "": Command(
        _install,
        "install a new package",
        "[flags] <ref>",
        (
            Flag("libs l", bool, help="install libs from the image"),
            Flag("replace r", bool, help="replace any binaries or libs in the opt directory"),
            Flag("path", help="set an optional install path other than the managed opt directory"),
        ),
    )
}
