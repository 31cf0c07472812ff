# SPDX-License-Identifier: Apache-2.0
"""What `--network` of run and create, and the flags beside it, say: the mode and an endpoint for each network."""

import re

from orlop.cli.errors import ExitError
from orlop.cli.flags import Args

Body = dict[str, object]

_LONG = re.compile(r"\w+=\w+(,\w+=\w+)*")
_FIELDS = ("alias", "ip", "ip6", "mac-address", "link-local-ip", "driver-opt", "gw-priority")


def network_mode(args: Args) -> str:
    """The first --network, `default` without one."""
    values = args.items("network") or args.items("net")
    return _parse(values[0])[0] if values else "default"


def networking(args: Args) -> Body:
    """NetworkingConfig. Raises ExitError in docker's words."""
    values = args.items("network") or args.items("net")
    if not values:
        endpoint = _with_flags(args, "default", {})
        return {"EndpointsConfig": {"default": _endpoint(endpoint)} if endpoint else {}}
    networks = [_parse(value) for value in values]
    if len({_is_user_defined(name) for name, _ in networks}) > 1:
        raise ExitError(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes", 125
        )
    found: Body = {}
    for index, (name, own) in enumerate(networks):
        fields = own if index else _with_flags(args, name, own)
        if fields.get("alias") and not _is_user_defined(name):
            raise ExitError("network-scoped aliases are only supported for user-defined networks", 125)
        if name in found:
            raise ExitError(f'network "{name}" is specified multiple times', 125)
        if fields or len(networks) > 1:
            found[name] = _endpoint(fields)
    return {"EndpointsConfig": found}


def _is_user_defined(name: str) -> bool:
    return name not in ("default", "bridge", "host", "none") and not name.startswith("container:")


def _parse(text: str) -> tuple[str, dict[str, list[str]]]:
    """One value: a name, or `name=front,alias=web,…`."""
    if not _LONG.search(text):
        return text, {}
    name = ""
    fields: dict[str, list[str]] = {}
    for field in text.split(","):
        key, equals, value = (part.strip() for part in field.lower().partition("="))
        if not equals or not key:
            raise ExitError(f'invalid argument "{text}" for "--network" flag: invalid field {field}', 125)
        if key == "name":
            name = value
        elif key in _FIELDS:
            fields.setdefault(key, []).append(value)
        else:
            raise ExitError(f'invalid argument "{text}" for "--network" flag: invalid field key {key}', 125)
    if not name:
        raise ExitError(f'invalid argument "{text}" for "--network" flag: network name/id is not specified', 125)
    return name, fields


def _with_flags(args: Args, name: str, fields: dict[str, list[str]]) -> dict[str, list[str]]:
    """The first network's fields with what the older flags say about it."""
    flags = {
        "alias": (args.items("network-alias") or args.items("net-alias"), "--network-alias", "alias"),
        "ip": ([args.text("ip")] if args.text("ip") else [], "--ip", "IPv4 address"),
        "ip6": ([args.text("ip6")] if args.text("ip6") else [], "--ip6", "IPv6 address"),
        "link-local-ip": (args.items("link-local-ip"), "--link-local-ip", "link-local IP addresses"),
        "mac-address": (
            [args.text("mac-address")] if args.text("mac-address") else [],
            "--mac-address",
            "MAC address",
        ),
    }
    merged = dict(fields)
    for key, (values, flag, what) in flags.items():
        if not values:
            continue
        if key in fields:
            raise ExitError(f"conflicting options: cannot specify both {flag} and per-network {what}", 125)
        merged[key] = values
    if _is_user_defined(name) and args.items("link"):
        merged["link"] = args.items("link")
    return merged


def _endpoint(fields: dict[str, list[str]]) -> Body:
    endpoint: Body = {}
    ipam: Body = {}
    if "ip" in fields:
        ipam["IPv4Address"] = fields["ip"][-1]
    if "ip6" in fields:
        ipam["IPv6Address"] = fields["ip6"][-1]
    if "link-local-ip" in fields:
        ipam["LinkLocalIPs"] = fields["link-local-ip"]
    if ipam:
        endpoint["IPAMConfig"] = ipam
    if "alias" in fields:
        endpoint["Aliases"] = fields["alias"]
    if "link" in fields:
        endpoint["Links"] = fields["link"]
    if "mac-address" in fields:
        endpoint["MacAddress"] = fields["mac-address"][-1]
    if "driver-opt" in fields:
        endpoint["DriverOpts"] = dict(option.partition("=")[::2] for option in fields["driver-opt"])
    if "gw-priority" in fields:
        text = fields["gw-priority"][-1]
        try:
            endpoint["GwPriority"] = int(text)
        except ValueError:
            raise ExitError(f"invalid gw-priority ({text}): invalid syntax", 125) from None
    return endpoint
