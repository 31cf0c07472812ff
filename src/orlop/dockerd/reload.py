# SPDX-License-Identifier: Apache-2.0
"""Takes up a changed daemon.json while the daemon runs: all of it, or (where anything is wrong) nothing."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from orlop.dockerd.config import Config
from orlop.dockerd.config_file import load, read
from orlop.dockerd.containers.runtimes import Runtimes
from orlop.dockerd.events import Events
from orlop.dockerd.flags import Options
from orlop.dockerd.plugins.authorization import Authorization

log = logging.getLogger("orlop.dockerd.reload")

_KEPT = (
    "authorization-plugins",
    "debug",
    "default-cgroupns-mode",
    "default-ipc-mode",
    "default-runtime",
    "default-shm-size",
    "default-stop-timeout",
    "image-store-max-size",
    "image-store-min-age",
    "insecure-registries",
    "labels",
    "live-restore",
    "registry-mirrors",
    "runtimes",
    "shutdown-timeout",
    "socket-policy",
)
"""Keys that stay as they are when the file no longer has them."""
_RESET = ("features", "max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts")
"""Keys that go back to flag or default then."""
_FIELDS = {field.encode_name: field.name for field in msgspec.structs.fields(Config)}


class Reload:
    """The use case. `apply` hands the settings that live elsewhere to their owners; it must not fail."""

    def __init__(
        self,
        config: Config,
        options: Options,
        runtimes: Runtimes,
        events: Events,
        identity: str,
        name: Callable[[], str],
        authorization: Authorization,
        apply: Callable[[], None],
    ) -> None:
        self._config = config
        self._options = options
        self._runtimes = runtimes
        self._events = events
        self._identity = identity
        self._name = name
        self._authorization = authorization
        self._apply = apply
        self._lock = asyncio.Lock()

    async def __call__(self) -> None:
        """Read the file again. Raises InvalidArgumentError, and nothing is changed then."""
        async with self._lock:
            await self._reload()

    async def _reload(self) -> None:
        wanted = load(self._options)
        from_file = read(self._options)
        changes = {
            _FIELDS[key]: getattr(wanted, _FIELDS[key])
            for key in (*_KEPT, *_RESET)
            if key in _FIELDS and (key in from_file or key in _RESET)
        }
        authorization = changes.get("authorization_plugins", self._config.authorization_plugins)
        await asyncio.to_thread(self._authorization.check, authorization)
        self._runtimes.configure(
            changes.get("runtimes", self._config.runtimes),
            changes.get("default_runtime", self._config.default_runtime),
        )
        for field, value in changes.items():
            setattr(self._config, field, value)
        self._authorization.replace(authorization)
        self._apply()
        attributes = {**_attributes(self._config), "name": self._name()}
        self._events.publish("daemon", "reload", self._identity, attributes)
        log.info("configuration reloaded")


def _attributes(config: Config) -> dict[str, str]:
    found: dict[str, Any] = {
        key: getattr(config, _FIELDS[key]) for key in sorted((*_KEPT, *_RESET)) if key in _FIELDS
    }
    found["default-shm-size"] = config.shm_size
    found["runtimes"] = " ".join(f"{name}:{entry.path}" for name, entry in config.runtimes.items())
    switches = " ".join(f"{name}:{_text(on)}" for name, on in sorted(config.features.items()))
    found["features"] = f"map[{switches}]"
    return {key: _text(value) for key, value in found.items()}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))
