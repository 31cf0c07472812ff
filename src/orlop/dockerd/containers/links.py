# SPDX-License-Identifier: Apache-2.0
"""Legacy links between containers on the default bridge: `--link name:alias`."""

import os
from functools import partial

from orlop.dockerd.containers.model import ContainerRecord
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.rewriting import rewrite
from orlop.dockerd.network.files import with_addresses
from orlop.errdefs import ConflictError, InvalidArgumentError, NotFoundError

KEEP_VARIABLES = "DOCKER_KEEP_DEPRECATED_LEGACY_LINKS_ENV_VARS"
"""`1` in the daemon's environment: links bring the environment variables that Docker 29 has given up."""


class RemoveLink:
    """Takes a link away: DELETE /containers/{name}/{alias}?link=1."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, reference: str) -> None:
        """`reference` is the linking container and the alias. It counts from the container's next start on.

        Raises NotFoundError, InvalidArgumentError for a container's own name.
        """
        name, slash, alias = reference.strip("/").rpartition("/")
        if not slash:
            raise InvalidArgumentError("Conflict, cannot remove the default link name of the container")
        container = self._registry.get(name)
        links = container.record.host_config.links or []
        kept = [link for link in links if parse_link(link)[1] != alias]
        if len(kept) == len(links):
            raise NotFoundError(f"No such container: {reference}")
        container.record.host_config.links = kept
        self._registry.save(container)


def parse_link(link: str) -> tuple[str, str]:
    """The container that a link means, and what it is called by the linking one."""
    name, _, alias = link.removeprefix("/").partition(":")
    return name, (alias or name).rpartition("/")[2]


class Links:
    """What the links of a container that starts refer to."""

    def __init__(self, registry: Registry, paths: Paths) -> None:
        self._registry = registry
        self._paths = paths

    def hosts(self, links: list[str]) -> list[tuple[str, str]]:
        """What links are in the hosts file: the other container's names, the alias first, and its address.

        Raises ConflictError for one that does not run.
        """
        found = []
        for link in links:
            other, alias = self._linked(link), parse_link(link)[1]
            names = " ".join(dict.fromkeys((alias, other.config.hostname, other.name)))
            found += [(names, address) for address in self._addresses(other)]
        return found

    def ids(self, links: list[str]) -> list[str]:
        """The ids of the containers that links mean."""
        return [self._linked(link).id for link in links]

    def tell(self, record: ContainerRecord) -> None:
        """A container has addresses, perhaps others than before: the running ones that link to it are told."""
        for container in self._registry:
            other = container.record
            links = (other.host_config.links or []) if other.state.running and "bridge" in other.endpoints else []
            for link in links:
                name, alias = parse_link(link)
                if name == record.name or record.id.startswith(name):
                    change = partial(with_addresses, name=alias, addresses=self._addresses(record))
                    rewrite(self._paths.file(other.id, "hosts"), change)

    def variables(self, record: ContainerRecord) -> list[str]:
        """The environment that the links bring; nothing unless KEEP_VARIABLES is set."""
        if os.environ.get(KEEP_VARIABLES) != "1":
            return []
        found = []
        for link in record.host_config.links or []:
            found += self._variables(record.name, link)
        return found

    def _variables(self, linking: str, link: str) -> list[str]:
        other, alias = self._linked(link), parse_link(link)[1]
        address, prefix = self._addresses(other)[0], alias.upper().replace("-", "_")
        found = []
        for number, port in enumerate(sorted(other.config.exposed_ports, key=_tcp_first)):
            value, _, protocol = port.partition("/")
            url = f"{protocol}://{address}:{value}"
            if number == 0:
                found.append(f"{prefix}_PORT={url}")
            name = f"{prefix}_PORT_{value}_{protocol.upper()}"
            found += [
                f"{name}={url}",
                f"{name}_ADDR={address}",
                f"{name}_PORT={value}",
                f"{name}_PROTO={protocol}",
            ]
        found.append(f"{prefix}_NAME=/{linking}/{alias}")
        for entry in other.config.env:
            if not entry.startswith(("HOME=", "PATH=")) and "=" in entry:
                found.append(f"{prefix}_ENV_{entry}")
        return found

    def _linked(self, link: str) -> ContainerRecord:
        return self._registry.get(parse_link(link)[0]).record

    def _addresses(self, other: ContainerRecord) -> list[str]:
        bridge = other.endpoints.get("bridge")
        if bridge is None:
            raise ConflictError(f"Cannot link to /{other.name}, as it does not belong to the default network")
        found = [address for address in (bridge.ip_address, bridge.global_ipv6_address) if address]
        if not found:
            raise ConflictError(f"Cannot link to a non running container: /{other.name}")
        return found


def _tcp_first(port: str) -> tuple[bool, str, int]:
    number, _, protocol = port.partition("/")
    return protocol != "tcp", protocol, int(number)
