# SPDX-License-Identifier: Apache-2.0
"""What a sandbox request means, checked (pure functions)."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from orlop.dockerd.network import drivers, files, ipam, options
from orlop.dockerd.network.ipam import Address
from orlop.dockerd.network.networks import Networks
from orlop.dockerd.network.types import Network, Sandbox, SandboxRequest
from orlop.engine.types import EndpointIPAMConfig, EndpointSettings
from orlop.errdefs import InvalidArgumentError, PermissionDeniedError


def network_name(mode: str) -> str:
    """The network that a NetworkMode stands for."""
    return "bridge" if mode in ("", "default") else mode


def wished(request: SandboxRequest, networks: Networks) -> list[tuple[Network, EndpointSettings]]:
    """The networks that a container wants to be in, that of its mode first, with its wishes for each.

    Raises NotFoundError (no such network), InvalidArgumentError.
    """
    primary = networks.find(network_name(request.mode))
    others = {name: networks.find(network_name(name)) for name in request.endpoints if name != request.mode}
    found = {}
    # A user may have taken the container out of the network that it was made for.
    if not others or request.mode in request.endpoints or primary.id in {each.id for each in others.values()}:
        found[primary.id] = primary, wishes(request, primary)
    for name, network in others.items():
        settings = request.endpoints[name]
        if network.id not in found:
            found[network.id] = network, check(settings, network, "")
    check_together([network for network, _ in found.values()])
    return list(found.values())


def check_together(networks: Sequence[Network]) -> None:
    """Raise InvalidArgumentError for networks that no container can be in at the same time."""
    if len(networks) < 2:
        return
    kinds = [drivers.of(network) for network in networks]
    if not kinds[0].own_namespace:
        raise InvalidArgumentError(
            "container sharing network namespace with another container or host cannot be connected to any other "
            "network"
        )
    if not all(kind.own_namespace for kind in kinds):
        raise InvalidArgumentError(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if not all(kind.has_interfaces for kind in kinds):
        raise InvalidArgumentError(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )


def wishes(request: SandboxRequest, network: Network) -> EndpointSettings:
    """The container's wishes for its endpoint in `network`; `mac_address` is empty unless it asks for one.

    Raises InvalidArgumentError.
    """
    names = (network.name, network.id, "default") if network.name == "bridge" else (network.name, network.id)
    names = (*names, request.mode)  # perhaps the beginning of an id
    settings = next((request.endpoints[name] for name in names if name in request.endpoints), EndpointSettings())
    return check(settings, network, request.mac_address)


def check(settings: EndpointSettings, network: Network, mac_address: str) -> EndpointSettings:
    """The wishes for an endpoint as they count: without what an earlier run was given.

    Raises InvalidArgumentError.
    """
    if network.config_only:
        raise PermissionDeniedError("cannot create endpoint on configuration-only network")
    wish = settings.ipam_config
    if not network.served:
        if wish is not None and (wish.ipv4_address or wish.ipv6_address):
            raise InvalidArgumentError("user specified IP address is supported on user defined networks only")
        if settings.aliases:
            raise InvalidArgumentError("network-scoped aliases are only supported for user-defined networks")
    if wish is not None:
        _check_address(wish, network)
    options.endpoint(settings.driver_opts or {})
    mac = "" if is_derived(settings) else settings.mac_address
    mac = (mac or mac_address).lower().replace("-", ":")
    if mac and not _is_mac(mac):
        raise InvalidArgumentError(f"invalid MAC address: {mac!r}")
    driver = drivers.of(network)
    if mac and driver.has_interfaces and not driver.takes_mac:
        raise InvalidArgumentError(f"{network.driver} interfaces do not support custom mac address assignment")
    return EndpointSettings(
        ipam_config=wish,
        links=settings.links,
        aliases=settings.aliases,
        driver_opts=settings.driver_opts,
        gw_priority=settings.gw_priority,
        mac_address=mac,
    )


def is_derived(settings: EndpointSettings) -> bool:
    """Whether the MAC address was not asked for, but follows from the address that an earlier run was given."""
    try:
        return settings.mac_address == ipam.mac_of(ip_address(settings.ip_address or settings.global_ipv6_address))
    except ValueError:
        return False  # it was given none


def endpoint_names(request: SandboxRequest, settings: EndpointSettings) -> list[str]:
    """What others in a user's network call the container: its name comes first, then Docker's order."""
    names = [request.name, *(settings.aliases or []), request.container_id[:12], request.hostname]
    return [name for name in dict.fromkeys(names) if name]


def endpoint_aliases(request: SandboxRequest, settings: EndpointSettings, *, primary: bool) -> dict[str, str]:
    """What the container calls others in a user's network: its links, as alias and name."""
    links = [*(settings.links or []), *(request.links if primary else [])]
    found = {}
    for link in links:
        name, _, alias = link.partition(":")
        found[(alias or name).removeprefix("/")] = name.removeprefix("/")
    return found


def extra_hosts(request: SandboxRequest, gateway: str, *, links: bool = True) -> list[tuple[str, str]]:
    """The lines that --add-host and --link add to the hosts file, as (names, address).

    "host-gateway" stands for `gateway`; `links` off: DNS serves them. Raises InvalidArgumentError (the entry).
    """
    found = files.parse_extra_hosts(request.extra_hosts, gateway)
    return [*found, *(request.link_hosts if links else [])]


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


def _check_address(wish: EndpointIPAMConfig, network: Network) -> None:
    errors = []
    subnets = [ip_network(pool.subnet) for pool in network.pools]
    for version, text in ((4, wish.ipv4_address), (6, wish.ipv6_address)):
        address = _parsed(text)
        if text and (address is None or address.version != version):
            errors.append(f"invalid IPv{version} address: {text}")
        elif address is not None and not any(address in subnet for subnet in subnets):
            errors.append(f"no configured subnet contains IP address {address}")
    for text in wish.link_local_ips:
        address = _parsed(text)
        if address is None or not address.is_link_local:
            errors.append(f"invalid link-local IP address: {text}")
    if errors:
        text = errors[0] if len(errors) == 1 else "* " + "\n* ".join(errors)
        raise InvalidArgumentError(f"invalid endpoint settings:\n{text}")


def _parsed(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_mac(text: str) -> bool:
    parts = text.split(":")
    try:
        raw = bytes.fromhex("".join(parts))
    except ValueError:
        return False
    return len(parts) == len(raw) == 6 and all(len(part) == 2 for part in parts) and not raw[0] & 1 and any(raw)
