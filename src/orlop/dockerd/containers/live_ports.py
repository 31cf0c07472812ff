# SPDX-License-Identifier: Apache-2.0
"""Published ports that come to a container, or go, while it may be running."""

import msgspec

from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.ports import Publishing
from orlop.dockerd.containers.resources import Resources
from orlop.dockerd.containers.running import lives
from orlop.dockerd.network.ports import parse_port
from orlop.engine.types import PortBinding
from orlop.errdefs import ConflictError, NotFoundError

Bindings = dict[str, list[PortBinding] | None]


class LivePorts:
    """Wants the container's lock to be held, and leaves saving the record to the caller."""

    def __init__(self, networks: Publishing, resources: Resources) -> None:
        self._networks = networks
        self._resources = resources

    async def change(self, container: Container, added: Bindings, removed: Bindings) -> None:
        """A port in `removed` loses the bindings listed, or all of them where none is listed.

        Raises NotFoundError (not published), ConflictError, InvalidArgumentError, InternalError in Docker's words;
        then everything is as it was.
        """
        record = container.record
        mode = record.host_config.network_mode
        if mode in ("host", "none") or mode.startswith("container:"):
            raise ConflictError(f"container {record.id} has the network {mode}: no port can be published there")
        wanted = changed(record.host_config.port_bindings, _normal(added), _normal(removed))
        if lives(container):
            request = self._resources.sandbox_request(record)
            request.port_bindings, request.publish_all = _normal(added), False
            shown = await self._networks.republish(request, _normal(removed))
            record.network.ports = msgspec.to_builtins(shown)
        record.host_config = msgspec.structs.replace(record.host_config, port_bindings=wanted)


def changed(bindings: Bindings, added: Bindings, removed: Bindings) -> Bindings:
    """HostConfig.PortBindings after a change: pure. Raises NotFoundError for what is not there to be removed."""
    result = {port: list(wanted or []) for port, wanted in _normal(bindings).items()}
    for port, which in removed.items():
        if port not in result:
            raise NotFoundError(f"port {port} is not published")
        if not which:
            del result[port]
            continue
        for binding in which:
            staying = [each for each in result[port] if not _covers(binding, each)]
            if len(staying) == len(result[port]):
                raise NotFoundError(f"port {port} is not published at {binding.host_ip}:{binding.host_port}")
            result[port] = staying
        if not result[port]:
            del result[port]
    for port, which in added.items():
        result[port] = [*result.get(port, []), *(which or [])]
    return dict(result)


def _covers(removed: PortBinding, binding: PortBinding) -> bool:
    return removed.host_port in ("", binding.host_port) and removed.host_ip in ("", binding.host_ip)


def _normal(bindings: Bindings) -> Bindings:
    """Keys as `80/tcp`. Raises InvalidArgumentError."""
    found: Bindings = {}
    for text, wanted in bindings.items():
        number, protocol = parse_port(text)
        found[f"{number}/{protocol}"] = wanted
    return found
