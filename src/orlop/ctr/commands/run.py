# SPDX-License-Identifier: Apache-2.0
"""ctr run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orlop.containerd.client import Client
from orlop.ctr.container import CONTAINER_FLAGS, create_container, remove_container
from orlop.ctr.flags import Flag, Values
from orlop.ctr.io import Streams, make_fifos, remove_fifos
from orlop.ctr.main import Command
from orlop.ctr.process import Attachment
from orlop.errdefs import InvalidArgumentError, OrlopError

if TYPE_CHECKING:
    from orlop.api.containers_pb2 import Container
    from orlop.api.types_pb2 import Descriptor
    from orlop.ctr.cni import Network

STREAM_FLAGS = (
    Flag("null-io", bool, help="send all IO to /dev/null"),
    Flag("log-uri", help="log uri"),
    Flag("detach d", bool, help="detach from the task after it has started execution"),
    Flag("fifo-dir", help="directory used for storing IO FIFOs"),
)


async def _run(client: Client, values: Values) -> int:
    if values["rm"] and values["detach"]:
        raise InvalidArgumentError("flags --detach and --rm cannot be specified together")
    if values["null-io"] and values["tty"]:
        raise InvalidArgumentError("tty and null-io cannot be used together")
    if values["cni"] and values["net-host"]:
        raise InvalidArgumentError("flags --cni and --net-host cannot be specified together")
    network = None
    if values["cni"]:
        from orlop.ctr.cni import default_network

        network = default_network()
    container = await create_container(client, values)
    if values["dump-config"]:
        with open(values["dump-config"], "wb") as file:
            file.write(container.spec.value)
    try:
        status = await run_task(client, container, values, network)
    except BaseException:
        if values["rm"]:
            await asyncio.shield(asyncio.ensure_future(remove_container(client, container.id)))
        raise
    if values["rm"]:
        await remove_container(client, container.id)
    return status


async def run_task(
    client: Client,
    container: Container,
    values: Values,
    network: Network | None = None,
    checkpoint: Descriptor | None = None,
) -> int:
    """Make and start the task of a container, and stay with it to its end unless it is to be detached.

    A network that it is connected to, it leaves at its end; a detached one is left connected.
    """
    id = container.id
    tty = values["tty"]
    mounts = []
    if container.snapshot_key:
        mounts = await client.snapshots(container.snapshotter).mounts(container.snapshot_key)
    streams = streams_of(values, id, tty=tty)
    attachment = None
    try:
        if streams.stdin:  # detached too: a shim waits for a reader of the fifos
            attachment = Attachment(client.tasks, id, "", streams)
        options = container.runtime.options if container.runtime.HasField("options") else None
        pid = await client.tasks.create(
            id,
            rootfs=mounts,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            terminal=tty,
            options=options,
            checkpoint=checkpoint,
        )
        try:
            if values["pid-file"]:
                with open(values["pid-file"], "w", encoding="ascii") as file:
                    file.write(str(pid))
            if network is None:
                return await _start(client, id, values, attachment)
            return await _start_connected(client, id, values, attachment, network, pid)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(_discard(client, id)))
            raise
    finally:
        if attachment is not None:
            attachment.close()
        if not values["detach"]:
            remove_fifos(streams)


async def _start_connected(
    client: Client, id: str, values: Values, attachment: Attachment | None, network: Network, pid: int
) -> int:
    name, netns = f"{client.namespace}-{id}", f"/proc/{pid}/ns/net"
    await asyncio.to_thread(network.setup, name, netns)
    connected = False
    try:
        status = await _start(client, id, values, attachment)
        connected = values["detach"]
        return status
    finally:
        if not connected:
            await asyncio.shield(asyncio.to_thread(network.remove, name))


async def _start(client: Client, id: str, values: Values, attachment: Attachment | None) -> int:
    if values["detach"]:
        await client.tasks.start(id)
        return 0
    if attachment is None:
        waiting = asyncio.ensure_future(client.tasks.wait(id))
        await client.tasks.start(id)
        status = (await waiting).exit_status
    else:
        status = await attachment.run()
    await client.tasks.delete(id)
    if attachment is not None:
        await attachment.drain()
    return status


async def _discard(client: Client, id: str) -> None:
    """Remove a task whose start failed, or that we were interrupted at."""
    try:
        waiting = asyncio.ensure_future(client.tasks.wait(id))
        await client.tasks.kill(id, 9)
        await asyncio.wait([waiting], timeout=5)
    except OrlopError:
        pass  # it has ended, or was never started
    try:
        await client.tasks.delete(id)
    except OrlopError:
        pass  # the error that brought us here is what the user should see


def streams_of(values: Values, id: str, *, tty: bool) -> Streams:
    """The streams that the flags ask for."""
    if values["null-io"]:
        return Streams()
    if values["log-uri"]:
        uri = values["log-uri"]
        if "://" not in uri:
            raise InvalidArgumentError(f"log-uri: expected scheme://path, got {uri!r}")
        return Streams("", uri, "" if tty else uri, tty)
    return make_fifos(id, terminal=tty, directory=values["fifo-dir"])


COMMANDS = {
    "": Command(
        _run,
        "run a container",
        "[flags] Image|RootFS ID [COMMAND] [ARG...]",
        (
            *CONTAINER_FLAGS,
            *STREAM_FLAGS,
            Flag("rm", bool, help="remove the container after running, cannot be used with --detach"),
            Flag("dump-config", help="file to write the container's OCI spec to"),
        ),
    )
}
