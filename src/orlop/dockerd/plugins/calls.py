# SPDX-License-Identifier: Apache-2.0
"""Plugins for the event loop: the same calls as `client`, made in threads."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from orlop.dockerd.plugins import client
from orlop.dockerd.plugins.discovery import RUNTIME_DIRECTORY, SPEC_DIRECTORIES, Discovery
from orlop.errdefs import InternalError, NotFoundError

DIRECTORIES = (RUNTIME_DIRECTORY, *SPEC_DIRECTORIES)
"""Where plugins are looked for: sockets, and files that name an address."""

_SECONDS = 60.0


class Plugins:
    """Plugins by name."""

    def __init__(self, directories: Sequence[str] = DIRECTORIES) -> None:
        self._discovery = Discovery(directories, directories)
        self._plugins = client.Plugins(self._discovery)

    def exists(self, name: str) -> bool:
        """Whether there is a socket or a file for a plugin of that name. Raises InvalidArgumentError."""
        try:
            self._discovery.find(name)
        except NotFoundError:
            return False
        return True

    async def call(self, name: str, method: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call "NetworkDriver.Join" or the like.

        Raises NotFoundError (no such plugin, or it does not implement that), UnavailableError (no answer),
        InternalError with what the plugin says.
        """
        return await asyncio.to_thread(self._call, name, method, arguments or {})

    def _call(self, name: str, method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        plugin = self._plugins.get(name, method.partition(".")[0])
        try:
            answer = plugin.call(method, arguments, dict[str, Any], _SECONDS)
        except InternalError as error:
            raise InternalError(f'plugin "{name}": {error}') from None
        if answer.get("Err"):
            raise InternalError(f'plugin "{name}": {method}: {answer["Err"]}')
        return answer
