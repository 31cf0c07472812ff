# SPDX-License-Identifier: Apache-2.0
"""What a request for a network means, checked: its record, but for a subnet that is yet to be chosen (pure)."""

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_network

import msgspec

from orlop.dockerd.network import configurations, drivers, ipam, options
from orlop.dockerd.network.ipam import Subnet
from orlop.dockerd.network.types import NO_ADDRESSES, PREDEFINED, Network, Pool
from orlop.engine.types import IPAMConfig, NetworkCreateRequest
from orlop.errdefs import (
    InvalidArgumentError,
    NotFoundError,
    NotImplementedByUsError,
    PermissionDeniedError,
)

_SWARM = "This node is not a swarm manager"


def plan(
    request: NetworkCreateRequest,
    network_id: str,
    created: str,
    is_plugin: Callable[[str], bool] = lambda _: False,
) -> Network:
    """The network's record; the subnets of the families that it has are empty where the request leaves them to us.

    Raises InvalidArgumentError naming the field, PermissionDeniedError, NotFoundError and NotImplementedByUsError
    in Docker's words.
    """
    _check_kind(request, is_plugin)
    if request.config_only:
        return configurations.plan(request, network_id, created)
    name = request.driver or "bridge"
    driver = drivers.get(name)
    if driver.options:
        options.check_names(request.options, driver.options, f"network driver {name}")
    several = driver.several_subnets and request.ipam.driver in ("", "default")
    four, six, more = _ipam(request, name, several=several)
    network = Network(
        id=network_id,
        name=request.name,
        driver=name,
        created=created,
        enable_ipv4=request.enable_ipv4 is not False,
        enable_ipv6=bool(request.enable_ipv6),
        subnet=four.subnet,
        gateway=four.gateway,
        ip_range=four.ip_range,
        subnet6=six.subnet,
        gateway6=six.gateway,
        ip_range6=six.ip_range,
        more_pools=[Pool(each.subnet, each.gateway, each.ip_range) for each in more],
        aux_addresses={name: text for each in (four, six, *more) for name, text in each.aux_addresses.items()},
        ipam_driver=request.ipam.driver or "default",
        ipam_options=request.ipam.options,
        internal=request.internal,
        attachable=request.attachable,
        options=request.options,
        labels=request.labels,
        ready=False,
        config_from=request.config_from.get("Network", ""),
    )
    driver.plan(network, request)
    return network


def settle(
    network: Network, others: Iterable[Network], taken: Iterable[Subnet], pools: Mapping[int, ipam.Pools]
) -> None:
    """Give a network its subnets and gateways where it has none; `taken` is what routes and interfaces use.

    Raises PermissionDeniedError if what it asks for belongs to another network of ours, InvalidArgumentError when
    the pools are used up.
    """
    if network.config_only or network.ipam_driver == NO_ADDRESSES:
        return
    known, occupied = list(others), list(taken)
    ours = [ip_network(pool.subnet) for other in known for pool in other.pools]
    if network.enable_ipv4 and not network.subnet:
        network.subnet = str(ipam.next_subnet([*ours, *occupied], pools[4]))
    if network.enable_ipv6 and not network.subnet6:
        free = ipam.next_subnet([*ours, *occupied], pools[6]) if pools[6] else ipam.unique_subnet(network.id)
        network.subnet6 = str(free)
    for pool in network.pools:
        if any(ipam.overlaps(ip_network(pool.subnet), other) for other in ours):
            raise PermissionDeniedError("invalid pool request: Pool overlaps with other one on this address space")
        ours.append(ip_network(pool.subnet))
    driver = drivers.of(network)
    driver.settle(network, known)
    network.gateway = network.gateway or _gateway(network, 4, network.subnet, network.ip_range)
    network.gateway6 = network.gateway6 or _gateway(network, 6, network.subnet6, network.ip_range6)
    network.more_pools = [
        msgspec.structs.replace(
            pool, gateway=pool.gateway or _gateway(network, pool.version, pool.subnet, pool.ip_range)
        )
        for pool in network.more_pools
    ]


def _gateway(network: Network, version: int, subnet: str, ip_range: str) -> str:
    if not subnet or not drivers.of(network).chooses_gateway(network, version):
        return ""
    within = ip_network(ip_range) if ip_range else None
    return str(ipam.next_address(ip_network(subnet), within, set(network.aux_addresses.values())))


def _check_kind(request: NetworkCreateRequest, is_plugin: Callable[[str], bool]) -> None:
    if not request.name.strip():
        raise InvalidArgumentError("invalid name: name is empty")
    if request.name in (*PREDEFINED, "default"):
        raise PermissionDeniedError(f"operation is not permitted on predefined {request.name} network ")
    if any(not sign.isprintable() or sign in '/"' for sign in request.name):
        raise InvalidArgumentError(f"invalid name: {request.name!r} has signs that no name may have")
    driver = request.driver or "bridge"
    if request.ingress or request.scope not in ("", "local"):
        raise NotImplementedByUsError(f"{_SWARM}: networks of a swarm are not supported")
    if not drivers.is_built_in(driver) and not is_plugin(driver):
        raise NotFoundError(f'plugin "{driver}" not found')
    if not drivers.get(driver).creatable:
        raise PermissionDeniedError(f'only one instance of "{driver}" network is allowed')
    if request.enable_ipv4 is False and not request.enable_ipv6:
        raise InvalidArgumentError("IPv4 or IPv6 must be enabled")
    if request.ipam.driver == NO_ADDRESSES:
        _check_no_addresses(request, driver)
    elif request.ipam.driver not in ("", "default") and not is_plugin(request.ipam.driver):
        raise NotFoundError(f'plugin "{request.ipam.driver}" not found')


def _check_no_addresses(request: NetworkCreateRequest, driver: str) -> None:
    if any(config != IPAMConfig() for config in request.ipam.config):
        raise InvalidArgumentError("null ipam driver does not handle specific address pool requests")
    if drivers.is_built_in(driver) and not request.config_only:
        version = 6 if request.enable_ipv4 is False else 4
        raise InvalidArgumentError(f"ipv{version} pool is empty: driver {driver} needs addresses")


def _ipam(
    request: NetworkCreateRequest, driver: str, *, several: bool
) -> tuple[IPAMConfig, IPAMConfig, list[IPAMConfig]]:
    """The settings for IPv4 and for IPv6, and those of further subnets.

    An empty subnet is to be chosen, if the network has the family.
    """
    errors: list[str] = []
    found: dict[int, IPAMConfig] = {}
    more: list[IPAMConfig] = []
    for config in request.ipam.config:
        if config == IPAMConfig():
            continue
        subnet = _subnet(config, errors)
        if subnet is None or (subnet.version == 6 and not request.enable_ipv6):
            continue  # as Docker: what belongs to IPv6 is passed over where that is off
        if subnet.version == 4 and request.enable_ipv4 is False:
            continue
        if subnet.version in found and not several:
            raise PermissionDeniedError(f"{driver} driver doesn't support multiple subnets")
        checked = _checked(config, subnet, errors)
        if found.setdefault(subnet.version, checked) is not checked:
            more.append(checked)
    if errors:
        text = errors[0] if len(errors) == 1 else "".join(f"\n* {error}" for error in errors)[1:]
        raise InvalidArgumentError(f"invalid network config:\n{text}")
    return found.get(4, IPAMConfig()), found.get(6, IPAMConfig()), more


def _checked(config: IPAMConfig, subnet: Subnet, errors: list[str]) -> IPAMConfig:
    """The settings of one subnet, addresses in their usual form."""
    _check_range(config.ip_range, subnet, errors)
    gateway = _address(f"gateway {config.gateway}", config.gateway, subnet, errors)
    aux = {
        name: _address(f"auxiliary address {name}", address, subnet, errors)
        for name, address in config.aux_addresses.items()
    }
    _check_taken(gateway, aux, subnet, errors)
    ip_range = config.ip_range and str(ip_network(config.ip_range, strict=False)) if not errors else ""
    return IPAMConfig(subnet=str(subnet), ip_range=ip_range, gateway=gateway, aux_addresses=aux)


def _check_taken(gateway: str, aux: Mapping[str, str], subnet: Subnet, errors: list[str]) -> None:
    """Each address once, and none of those that nobody gets."""
    taken = {str(each) for each in ipam.reserved(subnet)}
    wishes = [(f"gateway ({gateway})", gateway)]
    wishes += [(f"secondary ip address ({name}:{address})", address) for name, address in aux.items()]
    for what, address in wishes:
        if address and address in taken:
            errors.append(f"failed to allocate {what}: Address already in use")
        taken.add(address)


def _subnet(config: IPAMConfig, errors: list[str]) -> Subnet | None:
    if not config.subnet:
        errors.append("every ip-range or gateway must have a corresponding subnet")
        return None
    try:
        network = ip_network(config.subnet, strict=False)
    except ValueError:
        errors.append(f"invalid subnet {config.subnet}: invalid CIDR block notation")
        return None
    address = config.subnet.partition("/")[0]
    if ip_address(address) != network.network_address:
        errors.append(f"invalid subnet {config.subnet}: it should be {network}")
    if network.max_prefixlen - network.prefixlen < 1:
        errors.append(f"invalid subnet {config.subnet}: it has no room for containers")
    return network


def _check_range(text: str, subnet: Subnet, errors: list[str]) -> None:
    if not text:
        return
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        errors.append(f"invalid ip-range {text}: invalid CIDR block notation")
        return
    if network.version != subnet.version:
        errors.append(f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block")
        return
    if network.prefixlen < subnet.prefixlen:
        errors.append(f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}")
    if ip_address(text.partition("/")[0]) != network.network_address:
        errors.append(f"invalid ip-range {text}: it should be {network}")
    if network.network_address not in subnet and subnet.network_address not in network:
        errors.append(f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range")


def _address(what: str, text: str, subnet: Subnet, errors: list[str]) -> str:
    if not text:
        return ""
    try:
        address = ip_address(text)
    except ValueError:
        errors.append(f"invalid {what}: invalid address")
        return ""
    if address.version != subnet.version:
        errors.append(f"invalid {what}: parent subnet is an IPv{subnet.version} block")
    elif address not in subnet:
        errors.append(f"invalid {what}: parent subnet {subnet} doesn't contain this address")
    return str(address)
