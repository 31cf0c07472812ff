# SPDX-License-Identifier: Apache-2.0
"""What a sandbox request means, checked (pure functions)."""

import contextlib
from ipaddress import IPv4Address

from orlop.dockerd.network import files, ipam
from orlop.dockerd.network.types import Network, Sandbox, SandboxRequest
from orlop.engine.types import EndpointSettings
from orlop.errdefs import InvalidArgumentError


def network_name(mode: str) -> str:
    """The network that a NetworkMode stands for."""
    return "bridge" if mode in ("", "default") else mode


def wishes(request: SandboxRequest, network: Network) -> EndpointSettings:
    """The container's wishes for its endpoint in `network`; `mac_address` is empty unless it asks for one.

    Raises InvalidArgumentError.
    """
    names = (network.name, network.id, "default") if network.name == "bridge" else (network.name, network.id)
    settings = next((request.endpoints[name] for name in names if name in request.endpoints), EndpointSettings())
    wish = settings.ipam_config
    if wish is not None and (wish.ipv4_address or wish.ipv6_address):
        raise InvalidArgumentError("user specified IP address is supported on user defined networks only")
    mac = settings.mac_address
    with contextlib.suppress(ValueError):
        # settings that were filled in by an earlier connect: not a wish but the MAC of the address it had
        if settings.ip_address and mac == ipam.mac_of(IPv4Address(settings.ip_address)):
            mac = ""
    mac = (mac or request.mac_address).lower().replace("-", ":")
    if mac and not _is_mac(mac):
        raise InvalidArgumentError(f"invalid MAC address: {mac!r}")
    return EndpointSettings(
        ipam_config=wish,
        links=settings.links,
        aliases=settings.aliases,
        driver_opts=settings.driver_opts,
        gw_priority=settings.gw_priority,
        mac_address=mac,
    )


def extra_hosts(request: SandboxRequest, gateway: str) -> list[tuple[str, str]]:
    """The lines that --add-host and --link add to the hosts file, as (names, address).

    "host-gateway" stands for `gateway`. Raises InvalidArgumentError naming the entry.
    """
    found = files.parse_extra_hosts(request.extra_hosts, gateway)
    for link in request.links:
        name, _, alias = link.partition(":")
        name = name.removeprefix("/")
        address = request.link_addresses.get(name, "")
        if not address:
            raise InvalidArgumentError(f"cannot link to {name}: it has no address")
        found.append((" ".join(dict.fromkeys((alias or name, name))), address))
    return found


def joined(request: SandboxRequest) -> Sandbox:
    """The sandbox of a container in another one's namespace. Raises InvalidArgumentError if that does not run."""
    if not request.netns_path:
        raise InvalidArgumentError(
            f"cannot join the network of container {request.mode.partition(':')[2]}: it is not running"
        )
    return Sandbox(
        sandbox_id="",
        sandbox_key="",
        netns_path=request.netns_path,
        endpoints={},
        ports={},
        resolv_conf="",
        hosts="",
    )


def _is_mac(text: str) -> bool:
    parts = text.split(":")
    try:
        raw = bytes.fromhex("".join(parts))
    except ValueError:
        return False
    return len(parts) == len(raw) == 6 and all(len(part) == 2 for part in parts) and not raw[0] & 1 and any(raw)
