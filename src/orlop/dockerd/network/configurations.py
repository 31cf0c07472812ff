# SPDX-License-Identifier: Apache-2.0
"""Configuration-only networks: settings under a name, which other networks are made from (pure functions)."""

from collections.abc import Iterable

import msgspec

from orlop.dockerd.network.types import Network
from orlop.engine.types import IPAM, NetworkCreateRequest
from orlop.errdefs import NotFoundError, PermissionDeniedError


def plan(request: NetworkCreateRequest, network_id: str, created: str) -> Network:
    """The record of a configuration-only network. Raises PermissionDeniedError in Docker's words."""
    if request.config_from.get("Network"):
        raise PermissionDeniedError("a configuration network cannot depend on another configuration network")
    if request.ingress or request.internal or request.attachable or request.scope:
        raise PermissionDeniedError(
            "configuration network can only contain network specific fields. Network operator fields like "
            "[ ingress | internal | attachable | scope ] are not supported."
        )
    return Network(
        id=network_id,
        name=request.name,
        driver="null",
        created=created,
        enable_ipv4=request.enable_ipv4 is not False,
        enable_ipv6=bool(request.enable_ipv6),
        ipam_driver=request.ipam.driver or "default",
        ipam_options=request.ipam.options,
        options=request.options,
        labels=request.labels,
        ready=False,
        config_only=True,
        template=msgspec.to_builtins(request),
    )


def applied(request: NetworkCreateRequest, networks: Iterable[Network]) -> NetworkCreateRequest:
    """A request with what its `config_from`, if there is one, says.

    Raises NotFoundError and PermissionDeniedError in Docker's words.
    """
    name = request.config_from.get("Network", "")
    if not name:
        return request
    found = next((network for network in networks if network.config_only and network.name == name), None)
    if found is None:
        raise NotFoundError(f'configuration network "{name}" not found')
    own = request.ipam.driver not in ("", "default") or request.ipam.options or any(request.ipam.config)
    if own or request.enable_ipv4 is False or request.enable_ipv6 or request.labels:
        raise PermissionDeniedError(
            "user-specified configurations are not supported if the network depends on a configuration network"
        )
    if request.options:
        raise PermissionDeniedError(
            "network driver options are not supported if the network depends on a configuration network"
        )
    template = msgspec.convert(found.template, NetworkCreateRequest)
    return msgspec.structs.replace(
        request,
        enable_ipv4=template.enable_ipv4,
        enable_ipv6=template.enable_ipv6,
        ipam=template.ipam,
        options=template.options,
        labels=template.labels,
    )


def ipam_of(network: Network) -> IPAM:
    """What a configuration-only network says about addresses."""
    return msgspec.convert(network.template, NetworkCreateRequest).ipam


def check_unused(network: Network, networks: Iterable[Network]) -> None:
    """Raise PermissionDeniedError for a configuration that other networks were made from."""
    if network.config_only and any(other.config_from == network.name for other in networks):
        raise PermissionDeniedError(f'configuration network "{network.name}" is in use')
