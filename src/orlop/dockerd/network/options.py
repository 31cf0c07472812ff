# SPDX-License-Identifier: Apache-2.0
"""Driver options under Docker's names: read as values, and checked for slips of the pen (pure functions)."""

import difflib
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from orlop.errdefs import InvalidArgumentError

DEFAULT_MTU = 1500
_PREFIX = "com.docker.network."
NAME = f"{_PREFIX}bridge.name"
ICC = f"{_PREFIX}bridge.enable_icc"
MASQUERADE = f"{_PREFIX}bridge.enable_ip_masquerade"
HOST_IP = f"{_PREFIX}bridge.host_binding_ipv4"
TRUSTED = f"{_PREFIX}bridge.trusted_host_interfaces"
GATEWAY_MODE = {4: f"{_PREFIX}bridge.gateway_mode_ipv4", 6: f"{_PREFIX}bridge.gateway_mode_ipv6"}
INHIBIT = f"{_PREFIX}bridge.inhibit_ipv4"
SOURCE_GUARD = "source_guard"
DEFAULT_BRIDGE = f"{_PREFIX}bridge.default_bridge"
MTU = f"{_PREFIX}driver.mtu"
INTERFACE_PREFIX = f"{_PREFIX}container_iface_prefix"
SOURCE = {4: f"{_PREFIX}host_ipv4", 6: f"{_PREFIX}host_ipv6"}
ENABLE = {4: f"{_PREFIX}enable_ipv4", 6: f"{_PREFIX}enable_ipv6"}

IFNAME = f"{_PREFIX}endpoint.ifname"
SYSCTLS = f"{_PREFIX}endpoint.sysctls"

COMMON = frozenset({MTU, INTERFACE_PREFIX, *ENABLE.values()})
"""What all drivers read, or Docker sets itself."""
BRIDGE = COMMON | {
    NAME, ICC, MASQUERADE, HOST_IP, TRUSTED, INHIBIT, DEFAULT_BRIDGE, *GATEWAY_MODE.values(), *SOURCE.values(),
    SOURCE_GUARD,
}  # fmt: skip
ENDPOINT = frozenset({IFNAME, SYSCTLS, f"{_PREFIX}advertise_addr_nmsgs", f"{_PREFIX}advertise_addr_ms"})

_GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False, "": True}
_NEAR = 0.8
_INTERFACE_SETTINGS = ("ipv4.conf", "ipv4.neigh", "ipv6.conf", "ipv6.neigh", "mpls.conf")


class BridgeOptions(NamedTuple):
    """What the options of a bridge say: whether containers reach each other, how they look from outside, where
    ports are bound, whether containers are held to their own addresses. The modes of the gateway are nat,
    nat-unprotected, routed or isolated."""

    bridge: str = ""
    icc: bool = True
    masquerade: bool = True
    host_ip: str = ""
    mtu: int = DEFAULT_MTU
    interface_prefix: str = "eth"
    mode4: str = "nat"
    mode6: str = "nat"
    inhibit_ipv4: bool = False
    trusted: tuple[str, ...] = ()
    source4: str = ""
    source6: str = ""
    source_guard: bool = False


def parse(options: Mapping[str, str]) -> BridgeOptions:
    """Read a bridge network's options. Raises InvalidArgumentError naming the option."""
    return BridgeOptions(
        bridge=interface_name(options, NAME),
        icc=boolean(options, ICC),
        masquerade=boolean(options, MASQUERADE),
        host_ip=_address(options, HOST_IP, (4, 6)),
        mtu=mtu(options) or DEFAULT_MTU,
        interface_prefix=interface_prefix(options),
        mode4=choice(options, GATEWAY_MODE[4], _GATEWAY_MODES, "gateway mode"),
        mode6=choice(options, GATEWAY_MODE[6], _GATEWAY_MODES, "gateway mode"),
        inhibit_ipv4=boolean(options, INHIBIT, default=False),
        trusted=tuple(name for name in options.get(TRUSTED, "").split(":") if _checked_name(TRUSTED, name)),
        source4=_address(options, SOURCE[4], (4,)),
        source6=_address(options, SOURCE[6], (6,)),
        source_guard=boolean(options, SOURCE_GUARD, default=False),
    )


def check_names(given: Collection[str], known: Collection[str], owner: str) -> None:
    """Options that nobody knows are kept and mean nothing, as in Docker, but a slip of the pen is told.

    Raises InvalidArgumentError with the nearest name.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, _NEAR)
            if near:
                raise InvalidArgumentError(f'unknown option "{name}" of {owner}: did you mean "{near[0]}"?')


def choice(options: Mapping[str, str], name: str, values: Collection[str], what: str) -> str:
    """One of `values`, of which the first is the default. Raises InvalidArgumentError."""
    first = next(iter(values))
    value = options.get(name, "") or first
    if value not in values:
        raise InvalidArgumentError(
            f"failed to parse {name} value: {value!r} (unknown {what}: one of {', '.join(values)} is expected)"
        )
    return value


def interface_name(options: Mapping[str, str], name: str) -> str:
    """The name of an interface, or nothing. Raises InvalidArgumentError."""
    return _checked_name(name, options.get(name, ""))


def interface_prefix(options: Mapping[str, str]) -> str:
    """What the names of interfaces in containers begin with. Raises InvalidArgumentError."""
    prefix = options.get(INTERFACE_PREFIX, "eth")
    if not 0 < len(prefix) < 12 or not prefix.isascii() or not prefix.isalnum():
        raise InvalidArgumentError(f"invalid {INTERFACE_PREFIX}: {prefix!r} begins no interface name")
    return prefix


def boolean(options: Mapping[str, str], name: str, *, default: bool = True) -> bool:
    """True or false; an empty value means true. Raises InvalidArgumentError."""
    if name not in options:
        return default
    text = options[name]
    if text.lower() not in _BOOLEANS:
        raise InvalidArgumentError(f"failed to parse {name} value: {text!r} is not true or false")
    return _BOOLEANS[text.lower()]


def mtu(options: Mapping[str, str]) -> int:
    """The size of packets in bytes; 0 where the options say nothing. Raises InvalidArgumentError."""
    text = options.get(MTU, "")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or not 68 <= int(text) <= 65535:
        raise InvalidArgumentError(f"failed to parse {MTU} value: {text!r} is not a number from 68 to 65535")
    return int(text)


def endpoint(options: Mapping[str, str]) -> tuple[str, list[tuple[str, str]]]:
    """What an endpoint's options say: the name of its interface ("" leaves it to us), and its settings of the
    kernel, each a path below /proc/sys/net with IFNAME in it, and a value.

    Raises InvalidArgumentError naming the option.
    """
    check_names(options, ENDPOINT, "an endpoint")
    name = interface_name(options, IFNAME)
    if name == "lo" or name.startswith(("lo:", "lo.")):
        raise InvalidArgumentError(f"invalid {IFNAME}: {name!r} is the loopback interface")
    return name, [_sysctl(each) for each in options.get(SYSCTLS, "").split(",") if each]


def _sysctl(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    parts = key.strip().split(".")
    if not separator or not value:
        raise InvalidArgumentError(f"invalid {SYSCTLS}: {text!r}: expected net.X.Y.IFNAME.Z=VALUE")
    known = parts[0] == "net" and ".".join(parts[1:3]) in _INTERFACE_SETTINGS
    # Docker's command line may have written the option in lower case.
    if len(parts) != 5 or not known or parts[3].upper() != "IFNAME" or not _is_word(parts[4]):
        raise InvalidArgumentError(
            f"invalid {SYSCTLS}: {text!r}: only settings of the interface itself are possible, such as "
            "net.ipv4.conf.IFNAME.log_martians=1"
        )
    return "/".join((*parts[1:3], "IFNAME", parts[4])), value.strip()


def _is_word(text: str) -> bool:
    return text.isascii() and text.replace("_", "").isalnum()


def _checked_name(option: str, name: str) -> str:
    wrong = any(sign.isspace() or not sign.isprintable() or sign in '/":' for sign in name)
    if len(name) > 15 or wrong or name in (".", ".."):
        raise InvalidArgumentError(f"invalid {option}: {name!r} is no interface name")
    return name


def _address(options: Mapping[str, str], name: str, versions: tuple[int, ...]) -> str:
    text = options.get(name, "")
    if not text:
        return ""
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidArgumentError(f"invalid {name}: {text!r} is not an ip address") from None
    if address.version not in versions:
        raise InvalidArgumentError(f"invalid {name}: {text!r} is not an ipv{versions[0]} address")
    return str(address)
