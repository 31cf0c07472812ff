# SPDX-License-Identifier: Apache-2.0
"""A running container's mount namespace and root, held by descriptors."""

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from orlop.api.task_types_pb2 import Status
from orlop.containerd.client import Client
from orlop.dockerd.containers.container import Container
from orlop.errdefs import ConflictError

_LIVE = (Status.RUNNING, Status.PAUSED, Status.PAUSING, Status.CREATED)


def lives(container: Container) -> bool:
    """Whether there is a mount namespace to act on."""
    state = container.record.state
    return state.running and not state.restarting and state.pid > 0


@asynccontextmanager
async def opened(client: Client, container: Container) -> AsyncIterator[tuple[int, int]]:
    """Its mount namespace (setns(2)) and its root directory. Raises ConflictError if it has just stopped."""
    pid = container.record.state.pid
    with ExitStack() as stack:
        try:
            namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, namespace)
            root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, root)
        except (FileNotFoundError, ProcessLookupError):
            raise ConflictError(f"container {container.id} has just stopped") from None
        # Asked after the opening: while the shim has not reaped the process, its number is nobody else's.
        task = await client.tasks.get(container.id)
        if task.pid != pid or task.status not in _LIVE:
            raise ConflictError(f"container {container.id} has just stopped")
        yield namespace, root
