# SPDX-License-Identifier: Apache-2.0
"""Network and IPAM plugins as the event loop sees them: calls that block are made in threads."""

import asyncio
import threading
from collections.abc import Callable, Mapping
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
        return await _beside(lambda: self._call(name, method, arguments or {}))

    def _call(self, name: str, method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        client = self._plugins.get(name, method.partition(".")[0])
        try:
            answer = client.call(method, arguments, dict[str, Any])
        except InternalError as error:
            raise InternalError(f'plugin "{name}": {error}') from None
        if answer.get("Err"):
            raise InternalError(f'plugin "{name}": {method}: {answer["Err"]}')
        return answer


async def _beside(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `function` returns, in a thread of its own.

    The loop's common threads are few, and the daemon waits for them at its end: plugins that hang would take them
    away from everybody.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[dict[str, Any]] = loop.create_future()

    def tell(answer: dict[str, Any] | None, error: BaseException | None) -> None:
        if result.done():  # nobody waits any longer
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(answer or {})

    def run() -> None:
        answer, failure = None, None
        try:
            answer = function()
        except Exception as error:  # noqa: BLE001 - handed to who waits, which raises it
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, answer, failure)

    threading.Thread(target=run, name="orlop-plugin", daemon=True).start()
    return await result
