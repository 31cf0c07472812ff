# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of images: a containerd of either kind for a module, and a namespace in it for a test.

from support.image_daemons import client, containerd_daemon
"""

import contextlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import images
from support.containerd import Daemon

from orlop.api.types_pb2 import Mount
from orlop.containerd.client import Client
from orlop.oci.build import BuiltImage, LayerBuilder, build_image
from orlop.oci.image import ImageConfig

_seeds = itertools.count()


@pytest.fixture(scope="module", params=["orlop", pytest.param("original", marks=pytest.mark.original)])
def containerd_daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Each implementation of containerd, one for a module."""
    daemon = Daemon(request.param).start()
    yield daemon
    daemon.remove()


@pytest.fixture
async def client(containerd_daemon: Daemon) -> AsyncIterator[Client]:
    """A client in a namespace of its own; afterwards no lease and no open ingestion may be left."""
    namespace = f"test{next(_seeds)}"
    async with Client(containerd_daemon.address, namespace) as connected:
        yield connected
        leases = [lease.id for lease in await connected.leases.list()]
        for image in await connected.images.list():
            await connected.images.delete(image.name, sync=True)
        for snapshot in [info.name async for info in connected.snapshots().list()][::-1]:
            with contextlib.suppress(Exception):
                await connected.snapshots().remove(snapshot)
        assert not leases, f"leases left: {leases}"


def fresh_image(kilobytes: int = 300, layer_count: int = 1) -> BuiltImage:
    """An image that no test has seen: containerd shares content between namespaces."""
    import random

    layers = []
    for number in range(layer_count):
        layer = LayerBuilder()
        seed = f"{next(_seeds)}-{random.random()}"
        layer.file(f"file{number}", random.Random(seed).randbytes(kilobytes << 10))
        layers.append(layer.finish())
    return build_image(layers, ImageConfig(cmd=["/none"]))


@contextmanager
def mounted(mounts: Sequence[Mount]) -> Iterator[Path]:
    """A snapshot's file system at a directory, for looking at it."""
    (mount,) = mounts
    with tempfile.TemporaryDirectory(prefix="orlop-mounted-") as directory:
        options = ",".join(["ro" if option == "rw" else option for option in mount.options if option != "rbind"])
        bind = ["--bind"] if mount.type == "bind" else ["-t", mount.type]
        source = mount.source if mount.type == "bind" else "overlay"
        # mount(8) of util-linux 2.40 passes options one by one, each of 255 bytes at most, unless told not to.
        environment = {**os.environ, "LIBMOUNT_FORCE_MOUNT2": "always"}
        subprocess.run(["mount", *bind, "-o", options or "ro", source, directory], check=True, env=environment)
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", directory], check=True)


async def content_of(client: Client) -> set[str]:
    """The digests in the client's namespace."""
    return {info.digest async for info in client.content.list()}


async def snapshots_of(client: Client) -> set[str]:
    """The snapshots in the client's namespace."""
    return {info.name async for info in client.snapshots().list()}


Make = Callable[[], BuiltImage]

__all__ = ["client", "containerd_daemon", "content_of", "fresh_image", "images", "mounted", "snapshots_of"]
