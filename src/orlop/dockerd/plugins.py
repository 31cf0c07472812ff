# SPDX-License-Identifier: Apache-2.0
"""Docker's plugin protocol: finds a plugin by its name, shakes hands, and calls it (JSON over HTTP on a socket).

Sources: docs.docker.com/engine/extend/plugin_api (discovery, activation) and .../legacy_plugins.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from orlop.errdefs import InternalError, InvalidArgumentError, NotFoundError, UnavailableError

DIRECTORIES = ("/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins")
"""Where plugins are looked for, in this order: sockets in the first, files that name an address in all."""

_MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"
_SECONDS = 60


class Plugins:
    """Plugins by name. A plugin is asked what it implements when it is used first, and again after it was away."""

    def __init__(self, directories: Sequence[str] = DIRECTORIES) -> None:
        self._directories = directories
        self._implements: dict[str, list[str]] = {}

    def exists(self, name: str) -> bool:
        """Whether there is a socket or a file for a plugin of that name."""
        return self._address(name) is not None

    async def call(self, name: str, method: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call "NetworkDriver.Join" or the like.

        Raises NotFoundError (no such plugin, or it does not implement that), UnavailableError (no answer),
        InternalError with what the plugin says.
        """
        address = self._address(name)
        if address is None:
            raise NotFoundError(f'plugin "{name}" not found')
        subsystem = method.partition(".")[0]
        try:
            if name not in self._implements:
                answer = await _post(address, "Plugin.Activate", None)
                self._implements[name] = list(answer.get("Implements") or ())
            if subsystem not in self._implements[name]:
                raise NotFoundError(f'plugin "{name}" does not implement {subsystem}')
            answer = await _post(address, method, arguments or {})
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            self._implements.pop(name, None)
            reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
            raise UnavailableError(f'plugin "{name}" at {address} does not answer {method}: {reason}') from None
        if answer.get("Err"):
            raise InternalError(f'plugin "{name}": {method}: {answer["Err"]}')
        return answer

    def _address(self, name: str) -> str | None:
        if not name or "/" in name or name.startswith("."):
            return None
        for directory in self._directories:
            for path in (f"{directory}/{name}.sock", f"{directory}/{name}/{name}.sock"):
                if os.path.exists(path):
                    return f"unix://{path}"
            if (text := _read(f"{directory}/{name}.spec")) is not None:
                return _checked(f"{directory}/{name}.spec", text.strip())
            if (text := _read(f"{directory}/{name}.json")) is not None:
                return _checked(f"{directory}/{name}.json", _addr_of(f"{directory}/{name}.json", text))
        return None


async def _post(address: str, method: str, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    if address.startswith("unix://"):
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(address.removeprefix("unix://"))
        base = "http://plugin"
    else:
        connector, base = aiohttp.TCPConnector(), address.replace("tcp://", "http://", 1)
    headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
    body = b"" if arguments is None else json.dumps(arguments).encode()
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.post(f"{base}/{method}", data=body, headers=headers) as response,
    ):
        text = await response.read()
        status = response.status
    try:
        answer = json.loads(text or b"{}")
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        answer = {"Err": text.decode(errors="replace").strip()} if status >= 400 else {}
    if status >= 400 and not answer.get("Err"):
        answer["Err"] = f"HTTP status {status}"
    return answer


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _addr_of(path: str, text: str) -> str:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"invalid plugin file {path}: {error}") from None
    address = parsed.get("Addr") if isinstance(parsed, dict) else None
    if not isinstance(address, str):
        raise InvalidArgumentError(f"invalid plugin file {path}: it has no Addr")
    if parsed.get("TLSConfig"):
        raise InvalidArgumentError(f"invalid plugin file {path}: TLSConfig is not supported")
    return address


def _checked(path: str, address: str) -> str:
    if not address.startswith(("unix:///", "tcp://", "http://", "https://")):
        raise InvalidArgumentError(f"invalid plugin file {path}: {address!r} is no unix:// or tcp:// address")
    return address
