# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the content store. CRIU itself is played: a runtime that writes, and finds again, some files."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import AsyncIterator

import pytest
from support import images
from support.containerd import RUNC_SHIM, Daemon, wait_until
from support.containerd_state import assert_settled

from orlop.api.containers_pb2 import Container
from orlop.api.runc_options_pb2 import CheckpointOptions, Options
from orlop.api.task_types_pb2 import CREATED, RUNNING
from orlop.api.tasks_pb2 import CreateTaskRequest
from orlop.api.types_pb2 import Descriptor
from orlop.containerd.client import Client, typeurl
from orlop.errdefs import FailedPreconditionError, InvalidArgumentError, NotFoundError, OrlopError

pytestmark = pytest.mark.root

CHECKPOINT = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
CONFIG = "application/vnd.containerd.container.checkpoint.config.v1+proto"
RUNTIME = """#!{python}
import os, sys
words = sys.argv[1:]
if "--image-path" in words:
    images = words[words.index("--image-path") + 1]
    if "checkpoint" in words:
        os.makedirs(images + "/deep", exist_ok=True)
        open(images + "/deep/pages.img", "w").write("the pages")
        sys.exit(0)
    if "restore" in words:
        found = sorted(os.path.join(where, name) for where, _, names in os.walk(images) for name in names)
        open({base!r} + "/restored", "w").write("\\n".join(found))
        if not found or open(found[0]).read() != "good pages":
            sys.exit(1)
        for flag in ("--image-path", "--work-path"):
            del words[words.index(flag) : words.index(flag) + 2]
        words[words.index("restore")] = "run"
os.execv("/usr/sbin/runc", ["runc", *words])
"""


@pytest.fixture
def runtime(orlop: Daemon) -> str:
    """The runtime that plays."""
    path = f"{orlop.base}/runc"
    with open(path, "w", encoding="utf-8") as file:
        file.write(RUNTIME.format(python=sys.executable, base=orlop.base))
    os.chmod(path, 0o755)
    return path


@pytest.fixture
async def client(orlop: Daemon) -> AsyncIterator[Client]:
    async with Client(orlop.address, orlop.namespace) as client:
        await client.leases.create("test")
        yield client.with_lease("test")
        await client.leases.delete("test", sync=True)
    assert_settled(orlop)
    base = f"{orlop.state}/checkpoints"
    assert not os.path.isdir(base) or os.listdir(base) == []


def container(
    client: Client, id: str, rootfs: str, runtime: str, shim: str = "io.containerd.orlop.v2"
) -> Container:
    options = typeurl.pack(Options(binary_name=runtime)) if runtime else None
    return Container(
        id=id,
        runtime=Container.Runtime(name=shim, options=options),
        spec=typeurl.pack_json(typeurl.SPEC, spec(client.namespace, id, rootfs)),
    )


def spec(namespace: str, id: str, rootfs: str) -> bytes:
    kinds = ("pid", "ipc", "uts", "mount", "network")
    return json.dumps(
        {
            "ociVersion": "1.0.2",
            "process": {"args": ["sleep", "100"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
            "root": {"path": rootfs},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": kind} for kind in kinds], "cgroupsPath": f"/{namespace}/{id}"},
        }
    ).encode()


async def finish(client: Client, id: str) -> None:
    waiting = asyncio.ensure_future(client.tasks.wait(id))
    await client.tasks.kill(id, 9)
    await waiting
    await client.tasks.delete(id)
    await client.containers.delete(id)


async def test_into_the_content_store(client: Client, orlop: Daemon, rootfs: str, runtime: str) -> None:
    made = container(client, "c", rootfs, runtime)
    await client.containers.create(made)
    await client.tasks.create("c")
    await client.tasks.start("c")
    tar, config = await client.tasks.checkpoint("c")
    assert (tar.media_type, config.media_type) == (CHECKPOINT, CONFIG)
    raw = await client.content.read_blob(tar.digest)
    assert len(raw) == tar.size
    with tarfile.open(fileobj=io.BytesIO(raw)) as members:
        assert members.getnames() == ["deep", "deep/pages.img"]
        pages = members.extractfile("deep/pages.img")
        assert pages is not None
        assert pages.read() == b"the pages"
    assert await client.content.read_blob(config.digest) == made.spec.SerializeToString()
    # Into a directory that the client names, nothing becomes content.
    options = typeurl.pack(CheckpointOptions(image_path=f"{orlop.base}/images"))
    assert await client.tasks.checkpoint("c", options) == []
    assert os.path.exists(f"{orlop.base}/images/deep/pages.img")
    await finish(client, "c")


async def test_without_criu(client: Client, rootfs: str) -> None:
    if shutil.which("criu"):
        pytest.skip("criu is there")
    await client.containers.create(container(client, "c", rootfs, ""))
    await client.tasks.create("c")
    await client.tasks.start("c")
    with pytest.raises(FailedPreconditionError, match="criu"):
        await client.tasks.checkpoint("c")
    assert [info async for info in client.content.list()] == []
    await finish(client, "c")


async def _create(client: Client, checkpoint: Descriptor) -> None:
    request = CreateTaskRequest(container_id="c", checkpoint=checkpoint)
    await client.tasks._call(client.tasks._stub.Create, request)


async def _checkpoint(client: Client, pages: bytes) -> str:
    """A tar with these pages in the content store."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("deep/pages.img")
        info.size = len(pages)
        tar.addfile(info, io.BytesIO(pages))
    digest = images.digest_of(data.getvalue())
    await client.content.write_blob("c", data.getvalue(), digest)
    return digest


@pytest.mark.parametrize("shim", [RUNC_SHIM, "io.containerd.orlop.v2"])
async def test_out_of_the_content_store(
    client: Client, orlop: Daemon, rootfs: str, runtime: str, shim: str
) -> None:
    """A shim has the runtime restore from a directory that holds what the tar held."""
    await client.containers.create(container(client, "c", rootfs, runtime, shim))
    digest = await _checkpoint(client, b"pages")
    with pytest.raises(InvalidArgumentError, match="unsupported checkpoint type"):
        await _create(client, Descriptor(media_type="text/plain", digest=digest))
    with pytest.raises(NotFoundError):
        await _create(client, Descriptor(media_type=CHECKPOINT, digest="sha256:" + "0" * 64))
    await _create(client, Descriptor(media_type=CHECKPOINT, digest=digest))
    with pytest.raises(OrlopError):
        await client.tasks.start("c")
    with open(f"{orlop.base}/restored", encoding="utf-8") as file:
        assert file.read().endswith("/c/checkpoint/deep/pages.img")
    with contextlib.suppress(OrlopError):
        await client.tasks.delete("c")
    await client.containers.delete("c")
    wait_until(lambda: orlop.ctr("tasks", "ls", "-q").ok() == "")


async def test_restored(client: Client, orlop: Daemon, rootfs: str, runtime: str) -> None:
    """There is no process before the start; then it is watched as one that began here."""
    await client.containers.create(container(client, "c", rootfs, runtime))
    await _create(client, Descriptor(media_type=CHECKPOINT, digest=await _checkpoint(client, b"good pages")))
    task = await client.tasks.get("c")
    assert (task.status, task.pid) == (CREATED, 0)
    pid = await client.tasks.start("c")
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        assert file.read() == b"sleep\x00100\x00"
    assert (await client.tasks.get("c")).status == RUNNING
    await finish(client, "c")


async def test_restore_without_criu(client: Client, rootfs: str) -> None:
    if shutil.which("criu"):
        pytest.skip("criu is there")
    await client.containers.create(container(client, "c", rootfs, ""))
    await _create(client, Descriptor(media_type=CHECKPOINT, digest=await _checkpoint(client, b"pages")))
    with pytest.raises(OrlopError, match="need CRIU"):
        await client.tasks.start("c")
    assert (await client.tasks.get("c")).status == CREATED
    await client.tasks.delete("c")
    await client.containers.delete("c")
