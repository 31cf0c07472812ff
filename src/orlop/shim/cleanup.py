# SPDX-License-Identifier: Apache-2.0
"""`delete`: what containerd runs when a shim is gone, to remove what may be left of its container."""

import os
import select
import signal
import time
from collections.abc import Coroutine
from typing import Any

from orlop.api.shim_v2_pb2 import DeleteResponse
from orlop.errdefs import OrlopError
from orlop.shim import log, rootfs
from orlop.shim.loop import Loop
from orlop.shim.reaper import Reaper
from orlop.shim.runtime.select import remembered_runtime
from orlop.unix.events import read_signals, signalfd

_KILLED = 128 + 9


def delete(namespace: str, container_id: str, bundle: str) -> bytes:
    """Kill the container, remove the runtime's state, unmount the rootfs; returns the DeleteResponse to print."""
    if os.path.basename(os.path.normpath(bundle)) != container_id:
        bundle = os.path.join(os.path.dirname(os.path.normpath(bundle)), container_id)
    loop, reaper = Loop(), Reaper()
    pid = _init_pid(bundle)
    runtime = remembered_runtime(bundle, container_id, namespace, loop, reaper)
    _run(loop, reaper, runtime.delete(True))
    rootfs.unmount_all(f"{bundle}/rootfs")
    response = DeleteResponse(pid=pid, exit_status=_KILLED)
    response.exited_at.FromNanoseconds(time.time_ns())
    return response.SerializeToString()


def _init_pid(bundle: str) -> int:
    try:
        with open(f"{bundle}/init.pid", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0  # it never came so far, or the runtime keeps it elsewhere


def _run(loop: Loop, reaper: Reaper, work: Coroutine[Any, None, None]) -> None:
    """Run a coroutine of the shim's to its end outside of a shim."""
    children = signalfd((signal.SIGCHLD,))

    def child(_events: int) -> None:
        read_signals(children)
        reaper.reap()

    loop.add(children, select.EPOLLIN, child)
    future = loop.spawn(work)
    future.on_done(loop.stop)
    if not future.done:
        loop.run()
    os.close(children)
    loop.close()
    try:
        future.result()
    except OrlopError as error:
        log.error(f"delete: {error}")
        raise
