# SPDX-License-Identifier: Apache-2.0
"""`port`: where a container's ports are published."""

from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args
from orlop.engine.client import Client


def run(client: Client, args: Args) -> int:
    name, *rest = args.positional
    ports = client.get(f"/containers/{name}/json")["NetworkSettings"]["Ports"] or {}
    if rest:
        wanted = rest[0] if "/" in rest[0] else f"{rest[0]}/tcp"
        bindings = ports.get(wanted)
        if not bindings:
            raise ExitError(f"no public port '{rest[0]}' published for {name}")
        for binding in bindings:
            print(_address(binding))
        return 0
    lines = [f"{port} -> {_address(binding)}" for port, bindings in ports.items() for binding in bindings or []]
    for line in sorted(lines):
        print(line)
    return 0


def _address(binding: dict[str, str]) -> str:
    address = binding.get("HostIp", "")
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"


PORT = Command(
    "port CONTAINER [PRIVATE_PORT[/PROTO]]",
    "List port mappings or a specific mapping for the container",
    run,
    min_args=1,
    max_args=2,
)
