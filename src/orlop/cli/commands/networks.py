# SPDX-License-Identifier: Apache-2.0
"""Networks: create, connect, disconnect, list, remove, prune."""

import sys

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.container_options import key_values
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.engine.client import Client, EngineError

_COLUMNS = [
    Column("ID", "NETWORK ID"),
    Column("Name", "NAME"),
    Column("Driver", "DRIVER"),
    Column("Scope", "SCOPE"),
    Column("CreatedAt", "CREATED AT"),
    Column("Internal", "INTERNAL"),
    Column("IPv4", "IPV4"),
    Column("IPv6", "IPV6"),
    Column("Labels", "LABELS"),
]


def _create(client: Client, args: Args) -> int:
    body = {
        "Name": args.positional[0],
        "Driver": args.text("driver"),
        "Scope": args.text("scope"),
        "EnableIPv4": args.flag("ipv4") if "ipv4" in args.given else None,
        "EnableIPv6": args.flag("ipv6") if "ipv6" in args.given else None,
        "IPAM": {
            "Driver": args.text("ipam-driver"),
            "Options": key_values(args.items("ipam-opt")),
            "Config": _subnets(args),
        },
        "Internal": args.flag("internal"),
        "Attachable": args.flag("attachable"),
        "Ingress": args.flag("ingress"),
        "ConfigOnly": args.flag("config-only"),
        "ConfigFrom": {"Network": args.text("config-from")} if args.text("config-from") else None,
        "Options": key_values(args.items("opt")),
        "Labels": key_values(args.items("label")),
    }
    print(client.post("/networks/create", None, body)["Id"])
    return 0


def _subnets(args: Args) -> list[dict[str, object]]:
    """IPAM.Config: each range, gateway and auxiliary address with the subnet that it is in."""
    from ipaddress import ip_address, ip_network  # only here: it takes milliseconds

    texts = _split(args.items("subnet"))
    ranges, gateways = _split(args.items("ip-range")), _split(args.items("gateway"))
    if len(texts) < len(ranges) or len(texts) < len(gateways):
        raise ExitError("every ip-range or gateway must have a corresponding subnet", 1)
    try:
        subnets = [ip_network(text, strict=False) for text in texts]
        found: list[dict[str, object]] = [{"Subnet": text} for text in texts]
        for index, subnet in enumerate(subnets):
            same = [other for other in subnets[:index] if other.version == subnet.version]
            if any(subnet.overlaps(other) for other in same):
                raise ExitError("multiple overlapping subnet configuration is not supported", 1)
        for key, what, values in (("IPRange", "range", ranges), ("Gateway", "gateway", gateways)):
            for value in values:
                address = ip_address(value.partition("/")[0])
                index = next((number for number, subnet in enumerate(subnets) if address in subnet), -1)
                if index < 0:
                    raise ExitError(f"no matching subnet for {what} {value}", 1)
                if key in found[index]:
                    raise ExitError(
                        f"cannot configure multiple {what}s ({value}, {found[index][key]}) on the same subnet "
                        f"({texts[index]})",
                        1,
                    )
                found[index][key] = value
        for name, value in key_values(args.items("aux-address")).items():
            index = next((number for number, subnet in enumerate(subnets) if ip_address(value) in subnet), -1)
            if index < 0:
                raise ExitError(f"no matching subnet for aux-address {value}", 1)
            known = found[index].setdefault("AuxiliaryAddresses", {})
            assert isinstance(known, dict)
            known[name] = value
    except ValueError as error:
        raise ExitError(f"invalid address: {error}", 1) from None
    return found


def _split(values: list[str]) -> list[str]:
    return [part for value in values for part in value.split(",")]


def _connect(client: Client, args: Args) -> int:
    network, container = args.positional
    addresses = {
        "IPv4Address": args.text("ip"),
        "IPv6Address": args.text("ip6"),
        "LinkLocalIPs": _split(args.items("link-local-ip")),
    }
    endpoint = {
        "IPAMConfig": {key: value for key, value in addresses.items() if value},
        "Links": args.items("link") or None,
        "Aliases": _split(args.items("alias")) or None,
        "DriverOpts": key_values(_split(args.items("driver-opt"))) or None,
        "GwPriority": args.number("gw-priority"),
    }
    client.post(f"/networks/{network}/connect", None, {"Container": container, "EndpointConfig": endpoint})
    return 0


def _disconnect(client: Client, args: Args) -> int:
    network, container = args.positional
    body = {"Container": container, "Force": args.flag("force")}
    client.post(f"/networks/{network}/disconnect", None, body)
    return 0


def _remove(client: Client, args: Args) -> int:
    status = 0
    for name in args.positional:
        try:
            client.delete(f"/networks/{name}")
        except EngineError as error:
            if args.flag("force") and error.status == 404:
                continue
            print(f"Error response from daemon: {error}", file=sys.stderr)
            status = 1
        else:
            print(name, flush=True)
    return status


def _prune(client: Client, args: Args) -> int:
    if not args.flag("force"):
        print("WARNING! This will remove all custom networks not used by at least one container.")
        print("Are you sure you want to continue? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
    filters = listing.parse_filters(args.items("filter"))
    removed = client.post("/networks/prune", {"filters": filters}).get("NetworksDeleted") or []
    if removed:
        print("Deleted Networks:\n" + "\n".join(removed) + "\n")
    return 0


def _list(client: Client, args: Args) -> int:
    networks = client.get("/networks", {"filters": listing.parse_filters(args.items("filter"))})
    full = args.flag("no-trunc")
    rows = [
        {
            "ID": network["Id"] if full else network["Id"][:12],
            "Name": network["Name"],
            "Driver": network["Driver"],
            "Scope": network["Scope"],
            "CreatedAt": _time(network["Created"]),
            "Internal": _word(network.get("Internal")),
            "IPv4": _word(network.get("EnableIPv4")),
            "IPv6": _word(network.get("EnableIPv6")),
            "Labels": ",".join(f"{key}={value}" for key, value in sorted((network.get("Labels") or {}).items())),
        }
        for network in sorted(networks, key=lambda network: network["Name"])
    ]
    quiet = "ID" if args.flag("quiet") else ""
    shown = ["ID", "Name", "Driver", "Scope"]
    print(listing.render_rows(rows, args.text("format"), shown, _COLUMNS, quiet_field=quiet), end="")
    return 0


def _word(value: object) -> str:
    return "true" if value else "false"


def _time(stamp: str) -> str:
    """A time of the API as Go prints it."""
    whole, dot, rest = stamp.partition(".")
    zone = rest.lstrip("0123456789") if dot else stamp[19:]
    digits = rest[: len(rest) - len(zone)].rstrip("0") if dot else ""
    offset, name = ("+0000", "UTC") if zone == "Z" else (zone.replace(":", ""), zone.replace(":", ""))
    return f"{whole[:19].replace('T', ' ')}{'.' + digits if digits else ''} {offset} {name}"


LIST = Command(
    "ls [OPTIONS]",
    "List networks",
    _list,
    flags=[
        Flag("filter", "f", "list", 'Provide filter values (e.g. "driver=bridge")', shown_kind="filter"),
        Flag("format", "", "string", listing.HELP),
        Flag("no-trunc", "", "bool", "Do not truncate the output"),
        Flag("quiet", "q", "bool", "Only display network IDs"),
    ],
)
CREATE = Command(
    "create [OPTIONS] NETWORK",
    "Create a network",
    _create,
    flags=[
        Flag("attachable", "", "bool", "Enable manual container attachment"),
        Flag("aux-address", "", "map", "Auxiliary IPv4 or IPv6 addresses used by Network driver (default map[])"),
        Flag("config-from", "", "string", "The network from which to copy the configuration"),
        Flag("config-only", "", "bool", "Create a configuration only network"),
        Flag("driver", "d", "string", 'Driver to manage the Network (default "bridge")', default="bridge"),
        Flag("gateway", "", "list", "IPv4 or IPv6 Gateway for the master subnet", shown_kind="strings"),
        Flag("ingress", "", "bool", "Create swarm routing-mesh network"),
        Flag("internal", "", "bool", "Restrict external access to the network"),
        Flag("ip-range", "", "list", "Allocate container ip from a sub-range", shown_kind="strings"),
        Flag("ipam-driver", "", "string", 'IP Address Management Driver (default "default")', default="default"),
        Flag("ipam-opt", "", "map", "Set IPAM driver specific options (default map[])"),
        Flag("ipv4", "", "bool", "Enable or disable IPv4 address assignment (default true)", default=True),
        Flag("ipv6", "", "bool", "Enable or disable IPv6 address assignment"),
        Flag("label", "", "list", "Set metadata on a network"),
        Flag("opt", "o", "map", "Set driver specific options (default map[])"),
        Flag("scope", "", "string", "Control the network's scope"),
        Flag(
            "subnet",
            "",
            "list",
            "Subnet in CIDR format that represents a network segment",
            shown_kind="strings",
        ),
    ],
    min_args=1,
    max_args=1,
)
CONNECT = Command(
    "connect [OPTIONS] NETWORK CONTAINER",
    "Connect a container to a network",
    _connect,
    flags=[
        Flag("alias", "", "list", "Add network-scoped alias for the container", shown_kind="strings"),
        Flag("driver-opt", "", "list", "driver options for the network", shown_kind="strings"),
        Flag(
            "gw-priority",
            "",
            "int",
            "Highest gw-priority provides the default gateway. Accepts positive and negative values.",
        ),
        Flag("ip", "", "string", 'IPv4 address (e.g., "172.30.100.104")'),
        Flag("ip6", "", "string", 'IPv6 address (e.g., "2001:db8::33")'),
        Flag("link", "", "list", "Add link to another container"),
        Flag("link-local-ip", "", "list", "Add a link-local address for the container", shown_kind="strings"),
    ],
    min_args=2,
    max_args=2,
)
DISCONNECT = Command(
    "disconnect [OPTIONS] NETWORK CONTAINER",
    "Disconnect a container from a network",
    _disconnect,
    flags=[Flag("force", "f", "bool", "Force the container to disconnect from a network")],
    min_args=2,
    max_args=2,
)
REMOVE = Command(
    "rm NETWORK [NETWORK...]",
    "Remove one or more networks",
    _remove,
    flags=[Flag("force", "f", "bool", "Do not error if the network does not exist")],
    min_args=1,
    max_args=None,
)
PRUNE = Command(
    "prune [OPTIONS]",
    "Remove all unused networks",
    _prune,
    flags=[
        Flag("filter", "", "list", 'Provide filter values (e.g. "until=<timestamp>")', shown_kind="filter"),
        Flag("force", "f", "bool", "Do not prompt for confirmation"),
    ],
)
