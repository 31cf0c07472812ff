# SPDX-License-Identifier: Apache-2.0
"""Wait for a container to stop or to be gone."""

import asyncio

from orlop.dockerd.containers.container import ExitInfo
from orlop.dockerd.containers.registry import Registry
from orlop.errdefs import InvalidArgumentError

CONDITIONS = ("not-running", "next-exit", "removed")


class Wait:
    """The use case."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, reference: str, condition: str = "") -> "asyncio.Future[ExitInfo]":
        """Begin to wait: what happens after this call returns is not missed. Cancel the future to give up.

        Raises NotFoundError, InvalidArgumentError.
        """
        condition = condition or "not-running"
        if condition not in CONDITIONS:
            raise InvalidArgumentError(f'invalid condition: "{condition}"')
        container = self._registry.get(reference)
        if condition == "removed":
            return container.on_remove()
        if condition == "not-running" and not container.record.state.running:
            done: asyncio.Future[ExitInfo] = asyncio.get_running_loop().create_future()
            done.set_result(container.last_exit)
            return done
        return container.on_end()  # a restart by policy ends the wait, as with Docker
