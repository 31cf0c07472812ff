# SPDX-License-Identifier: Apache-2.0
"""`-p` and `--expose` texts: [HOST_IP:][HOST_PORT[-END]:]PORT[-END][/PROTOCOL]."""

from typing import Any

from orlop.cli.errors import ExitError

_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_ports(
    published: list[str], exposed: list[str]
) -> tuple[dict[str, Any], dict[str, list[dict[str, str]]]]:
    """(ExposedPorts, PortBindings) of the API. Raises ExitError (125)."""
    ports: dict[str, Any] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in published:
        for port, binding in _parse_publish(text):
            ports[port] = {}
            bindings.setdefault(port, []).append(binding)
    for text in exposed:
        range_text, _, protocol = text.partition("/")
        low, high = _port_range(range_text, text)
        for number in range(low, high + 1):
            ports.setdefault(f"{number}/{(protocol or 'tcp').lower()}", {})
    return ports, bindings


def _parse_publish(text: str) -> list[tuple[str, dict[str, str]]]:
    if "=" in text:
        text = _long_form(text)
    rest, _, protocol = text.partition("/")
    protocol = (protocol or "tcp").lower()
    if protocol not in _PROTOCOLS:
        raise ExitError(f"invalid proto: {protocol}", 125)
    host_and_port, _, container = rest.rpartition(":")
    if host_and_port.endswith("]"):
        address, host = host_and_port, ""
    else:
        address, _, host = host_and_port.rpartition(":")
    if not container:
        raise ExitError(f"no port specified: {text}<empty>", 125)
    low, high = _port_range(container, text)
    if host:
        host_low, host_high = _port_range(host, text, host=True)
        if low == high and host_high > host_low:
            return [(f"{low}/{protocol}", {"HostIp": address.strip("[]"), "HostPort": host})]
        if host_high - host_low != high - low:
            raise ExitError(f"invalid ranges specified for container and host Ports: {container} and {host}", 125)
        host_ports = [str(number) for number in range(host_low, host_high + 1)]
    else:
        host_ports = [""] * (high - low + 1)
    return [
        (f"{low + index}/{protocol}", {"HostIp": address.strip("[]"), "HostPort": host_port})
        for index, host_port in enumerate(host_ports)
    ]


def _long_form(text: str) -> str:
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    published = f"{fields['published']}:" if fields.get("published") else ""
    return f"{published}{fields.get('target', '')}/{fields.get('protocol', 'tcp')}"


def _port_range(text: str, whole: str, *, host: bool = False) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        low = int(first)
        high = int(last) if dash else low
        if not 0 <= low <= 65535 or not low <= high <= 65535:
            raise ValueError
    except ValueError:
        kind = "hostPort" if host else "containerPort"
        raise ExitError(f"invalid {kind}: {text}" if whole else "no port specified", 125) from None
    return low, high
