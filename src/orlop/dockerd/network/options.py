# SPDX-License-Identifier: Apache-2.0
"""The driver options of a bridge network under Docker's names, as a value (pure functions)."""

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from orlop.errdefs import InvalidArgumentError, NotImplementedByUsError

DEFAULT_MTU = 1500
_PREFIX = "com.docker.network."
NAME = f"{_PREFIX}bridge.name"
ICC = f"{_PREFIX}bridge.enable_icc"
MASQUERADE = f"{_PREFIX}bridge.enable_ip_masquerade"
HOST_IP = f"{_PREFIX}bridge.host_binding_ipv4"
MTU = f"{_PREFIX}driver.mtu"
INTERFACE_PREFIX = f"{_PREFIX}container_iface_prefix"
_GATEWAY_MODE = f"{_PREFIX}bridge.gateway_mode_ipv4"
_INHIBIT = f"{_PREFIX}bridge.inhibit_ipv4"
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False, "": True}


class BridgeOptions(NamedTuple):
    """What the options say: whether containers reach each other, are masqueraded, where ports are bound."""

    bridge: str = ""
    icc: bool = True
    masquerade: bool = True
    host_ip: str = ""
    mtu: int = DEFAULT_MTU
    interface_prefix: str = "eth"


def parse(options: Mapping[str, str]) -> BridgeOptions:
    """Read a network's options; ones that nobody knows are kept and mean nothing, as in Docker.

    Raises InvalidArgumentError naming the option, NotImplementedByUsError for what would change who reaches whom.
    """
    if options.get(_GATEWAY_MODE, "nat") not in ("nat", ""):
        raise NotImplementedByUsError(f"{_GATEWAY_MODE}={options[_GATEWAY_MODE]} is not supported")
    if _INHIBIT in options and _boolean(options, _INHIBIT):
        raise NotImplementedByUsError(f"{_INHIBIT} is not supported")
    bridge = options.get(NAME, "")
    if len(bridge) > 15 or "/" in bridge or any(sign.isspace() or sign == '"' for sign in bridge):
        raise InvalidArgumentError(f"invalid {NAME}: {bridge!r} is no interface name")
    host_ip = options.get(HOST_IP, "")
    if host_ip:
        try:
            IPv4Address(host_ip)
        except ValueError:
            raise InvalidArgumentError(f"invalid {HOST_IP}: {host_ip!r} is not an ipv4 address") from None
    prefix = options.get(INTERFACE_PREFIX, "eth")
    if not 0 < len(prefix) < 12 or not prefix.isascii() or not prefix.isalnum():
        raise InvalidArgumentError(f"invalid {INTERFACE_PREFIX}: {prefix!r} begins no interface name")
    return BridgeOptions(
        bridge=bridge,
        icc=_boolean(options, ICC),
        masquerade=_boolean(options, MASQUERADE),
        host_ip=host_ip,
        mtu=_mtu(options.get(MTU, "")),
        interface_prefix=prefix,
    )


def _boolean(options: Mapping[str, str], name: str) -> bool:
    text = options.get(name, "true")
    if text.lower() not in _BOOLEANS:
        raise InvalidArgumentError(f"failed to parse {name} value: {text!r} is not true or false")
    return _BOOLEANS[text.lower()]


def _mtu(text: str) -> int:
    if not text:
        return DEFAULT_MTU
    if not (text.isascii() and text.isdigit()) or not 68 <= int(text) <= 65535:
        raise InvalidArgumentError(f"failed to parse {MTU} value: {text!r} is not a number from 68 to 65535")
    return int(text)
