# SPDX-License-Identifier: Apache-2.0
"""Makes the streams of containers and execs: attach sockets on our shim, FIFOs on others."""

from pathlib import Path

from orlop.containerd.client import Client
from orlop.dockerd.containers.attach_point import AttachSocket, Source
from orlop.dockerd.containers.foreign_io import ForeignIO, Keeper
from orlop.dockerd.containers.log_writer import LogWriter
from orlop.dockerd.containers.model import ContainerRecord, ExecRecord
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.stdio import Stdio, closes_stdin, container_stdio, exec_stdio
from orlop.dockerd.logging.place import Place, place


class Streams:
    """A factory: what it makes is handed to an AttachPoint."""

    def __init__(self, client: Client, paths: Paths, keeper: Keeper) -> None:
        self._client = client
        self._keeper = keeper
        self._paths = paths

    async def container(self, record: ContainerRecord, ours: bool) -> tuple[Source, Stdio]:
        """For the init process; notes in the record where to attach. Raises InternalError."""
        if ours:
            record.attach_socket = self._paths.attach_socket(record.id)
            return AttachSocket(record.attach_socket), container_stdio(
                record, record.attach_socket, self._log(record)
            )
        record.attach_socket = ""
        io = self._foreign(record)
        await io.open()
        return io, io.stdio

    async def exec(self, container: ContainerRecord, record: ExecRecord) -> tuple[Source, Stdio]:
        """For an extra process. Raises InternalError."""
        if container.attach_socket:
            socket = self._paths.exec_socket(container.id, record.id)
            return AttachSocket(socket), exec_stdio(record, socket)
        io = self._foreign_exec(record)
        await io.open()
        return io, io.stdio

    async def again(self, record: ContainerRecord) -> Source:
        """The streams of a container that was running before this daemon started."""
        if record.attach_socket:
            return AttachSocket(record.attach_socket)
        io = self._foreign(record)
        await io.open(again=True)
        return io

    async def exec_again(self, container: ContainerRecord, record: ExecRecord) -> Source:
        """The same for an extra process."""
        if container.attach_socket:
            return AttachSocket(self._paths.exec_socket(container.id, record.id))
        io = self._foreign_exec(record)
        await io.open(again=True)
        return io

    def _log(self, record: ContainerRecord) -> Place | None:
        log = place(record, self._paths.data(record.id))
        if log is not None and log.scheme == "local":
            Path(log.path).parent.mkdir(mode=0o700, exist_ok=True)
        return log

    def _foreign(self, record: ContainerRecord) -> ForeignIO:
        log = self._log(record)
        return ForeignIO(
            self._paths.volatile(record.id),
            "init",
            stdin=record.config.open_stdin,
            tty=record.config.tty,
            once=closes_stdin(record),
            log=LogWriter(log) if log else None,
            close_io=lambda: self._client.tasks.close_io(record.id),
            owner=record.id,
            keeper=None if log is None else self._keeper,
        )

    def _foreign_exec(self, record: ExecRecord) -> ForeignIO:
        return ForeignIO(
            self._paths.volatile(record.container_id),
            record.id[:16],
            stdin=record.open_stdin,
            tty=record.tty,
            once=not record.tty,
            log=None,
            close_io=lambda: self._client.tasks.close_io(record.container_id, record.id),
        )
