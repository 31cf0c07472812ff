# SPDX-License-Identifier: Apache-2.0
"""Network and IPAM plugins as the event loop sees them: calls that block are made in threads."""

import asyncio
from collections.abc import Mapping
from typing import Any

from orlop.dockerd.plugins.client import Plugins
from orlop.errdefs import InternalError, NotFoundError


class NetworkPlugins:
    """Plugins by name."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    def exists(self, name: str) -> bool:
        """Whether there is a plugin of that name. Raises InvalidArgumentError for a file that cannot be read."""
        try:
            return self._plugins.find(name) is not None
        except NotFoundError:
            return False

    async def call(self, name: str, method: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call "NetworkDriver.Join" or the like.

        Raises NotFoundError (no such plugin, or it does not implement that), UnavailableError (no answer),
        InternalError with what the plugin says.
        """
        return await asyncio.to_thread(self._call, name, method, arguments or {})

    def _call(self, name: str, method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        client = self._plugins.get(name, method.partition(".")[0])
        try:
            answer = client.call(method, arguments, dict[str, Any])
        except InternalError as error:
            raise InternalError(f'plugin "{name}": {error}') from None
        if answer.get("Err"):
            raise InternalError(f'plugin "{name}": {method}: {answer["Err"]}')
        return answer
