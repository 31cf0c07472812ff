# SPDX-License-Identifier: Apache-2.0
"""An image and a container through orlop.containerd.client, on orlop-containerd or on the original.

Usage: containerd_client.py [socket [namespace]]. The image is made of the host's busybox and removed at the end.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator

from orlop.api.containers_pb2 import Container
from orlop.api.events_pb2 import TaskExit
from orlop.api.types_pb2 import Mount
from orlop.containerd.client import DEFAULT_ADDRESS, DEFAULT_SNAPSHOTTER, Client, typeurl
from orlop.containerd.client.archive import ImportedImage, import_archive
from orlop.containerd.client.leases import leased
from orlop.containerd.client.unpack import from_proto, read_image, to_proto
from orlop.oci.build import write_archive
from orlop.oci.busybox import busybox_image
from orlop.oci.defaults import containerd_default_spec
from orlop.oci.image import chain_ids
from orlop.oci.platforms import host_platform
from orlop.oci.runtime import Process

NAME = "example.com/busybox:1"
ID = "example"


async def main() -> int:
    """Import, run, exec, watch, remove."""
    address = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_ADDRESS
    namespace = sys.argv[2] if len(sys.argv) > 2 else "example"
    async with Client(address, namespace) as client:
        await import_image(client)
        try:
            await run(client)
        finally:
            await client.images.delete(NAME, sync=True)
    return 0


async def import_image(client: Client) -> None:
    """As `docker load` does, with a name of our own."""

    async def archive() -> AsyncIterator[bytes]:
        with tempfile.TemporaryFile() as file:
            write_archive({NAME: busybox_image()}, file)
            file.seek(0)
            while data := file.read(1 << 20):
                yield data

    async def name(image: ImportedImage) -> None:
        await client.images.create(NAME, to_proto(image.target))

    await import_archive(client, archive(), name)
    print("images:", [image.name for image in await client.images.list()])


async def run(client: Client) -> None:
    """A container on a snapshot of the image; its record and its snapshot are ours to remove."""
    image = await client.images.get(NAME)
    content = await read_image(client, from_proto(image.target), host_platform())
    spec = containerd_default_spec(ID, client.namespace)
    spec.process = Process(args=["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"], cwd="/")
    spec.process.env = ["PATH=/bin"]
    runtime = Container.Runtime(name="io.containerd.runc.v2")
    record = Container(id=ID, image=NAME, runtime=runtime, spec=typeurl.pack_json(typeurl.SPEC, spec))
    record.snapshotter, record.snapshot_key = DEFAULT_SNAPSHOTTER, ID
    async with leased(client) as work:  # until the record names the snapshot, the lease keeps it
        mounts = await work.snapshots().prepare(ID, chain_ids(content.image.rootfs.diff_ids)[-1])
        await work.containers.create(record)
    try:
        await live(client, mounts)
    finally:
        await client.snapshots().remove(ID)
        await client.containers.delete(ID)


async def live(client: Client, mounts: list[Mount]) -> None:
    """A task: its process, another one in it, and the events of both."""
    filters = f"namespace=={client.namespace},topic~=|^/tasks/exit|"
    async with client.events.subscribe(filters) as events:
        await client.tasks.create(ID, rootfs=mounts)
        await client.tasks.start(ID)
        print("tasks:", [task.id for task in await client.tasks.list()])
        process = Process(args=["sh", "-c", "exit 3"], cwd="/", env=["PATH=/bin"])
        await client.tasks.exec(ID, "second", typeurl.pack_json(typeurl.PROCESS, process))
        await client.tasks.start(ID, "second")
        ended = await client.tasks.wait(ID, "second")
        print("exec: exit code", ended.exit_status)
        await client.tasks.delete_process(ID, "second")
        await client.tasks.pause(ID)
        await client.tasks.resume(ID)
        await client.tasks.kill(ID, 15)
        async for envelope in events:
            exit = typeurl.unpack(envelope.event, TaskExit)
            print("event:", exit.id, "exited with code", exit.exit_status)
            if exit.id == ID:
                break
    print("deleted: exit code", (await client.tasks.delete(ID)).exit_status)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
