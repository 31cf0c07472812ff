# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the processes that unpack layers: started when needed, killed when given up or idle."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Executor

from orlop.containerd.failpoints import failpoint
from orlop.containerd.plugins.layer_worker import MAX_DESCRIPTORS, MAX_PACKET
from orlop.containerd.threads import in_thread
from orlop.errdefs import FailedPreconditionError, InternalError, UnavailableError
from orlop.rpc import status

IDLE_TIME = 10.0  # seconds that a worker without a job is kept
_MODULE = "orlop.containerd.plugins.layer_worker"


class LayerWorkers:
    """At most as many workers as there are processors. Belongs to the thread of the event loop."""

    def __init__(self, threads: Executor, limit: int | None = None) -> None:
        self._threads = threads
        self._slots = asyncio.Semaphore(limit or os.cpu_count() or 1)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def apply(
        self, digest: str, blob: int, root: int, lower: Sequence[int], *, opaque: str, sync: bool
    ) -> tuple[str, int]:
        """Apply the layer `blob` of that digest (empty: unknown); digest and size of the uncompressed layer.

        `opaque` is the mark of the overlay that `root` is the upper directory of, empty for none.
        The descriptors stay the caller's. When the caller is cancelled, nothing is written any more by the time
        the cancellation goes on. Raises what `orlop.containerd.archive.apply.apply_layer` does, DataLossError for
        damaged content, InternalError when the worker dies.
        """
        if len(lower) + 2 > MAX_DESCRIPTORS:
            raise FailedPreconditionError(f"{len(lower)} lower directories are too many to apply a layer onto")
        job = json.dumps({"digest": digest, "opaque": opaque, "sync": sync}).encode()
        async with self._slots:
            worker = self._take()
            try:
                answer = await worker.call(job, (blob, root, *lower))
            except BaseException:
                self._all.discard(worker)
                await in_thread(self._threads, worker.end)
                raise
            self._keep(worker)
        failpoint("diff.apply.after_worker")
        if "code" in answer:
            raise status.error_for(int(str(answer["code"])), str(answer["message"]))
        return str(answer["digest"]), int(str(answer["size"]))

    def close(self) -> None:
        """End all workers."""
        if self._timer is not None:
            self._timer.cancel()
        for worker in self._all:
            worker.end()
        self._all.clear()
        self._idle.clear()

    def _take(self) -> "_Worker":
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            worker = self._idle.pop()
            if worker.alive():
                return worker
            self._all.discard(worker)
            worker.end()
        worker = _Worker()
        self._all.add(worker)
        return worker

    def _keep(self, worker: "_Worker") -> None:
        self._idle.append(worker)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(IDLE_TIME, self._retire)

    def _retire(self) -> None:
        self._timer = None
        for worker in self._idle:
            self._all.discard(worker)
            worker.end()
        self._idle.clear()


class _Worker:
    """One process and our end of its socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        ours.setblocking(False)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise UnavailableError(f"layer worker cannot be started: {error.strerror}") from None

    async def call(self, job: bytes, descriptors: Sequence[int]) -> dict[str, object]:
        """Send one job and wait for its answer; raises InternalError when the process ends first."""
        try:
            socket.send_fds(self._socket, [job], list(descriptors))
            failpoint("diff.apply.after_send")
            packet = await asyncio.get_running_loop().sock_recv(self._socket, MAX_PACKET)
        except (BrokenPipeError, ConnectionResetError):
            packet = b""
        if not packet:
            raise InternalError(f"layer worker {self._process.pid} has died")
        answer: dict[str, object] = json.loads(packet)
        return answer

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill the process, whose work nobody wants, and wait until it is gone; a full disk may make that long."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
