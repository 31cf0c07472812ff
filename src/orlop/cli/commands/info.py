# SPDX-License-Identifier: Apache-2.0
"""`info`: the daemon at a glance."""

from typing import Any

from orlop import __version__
from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.flags import Args, Flag
from orlop.cli.units import binary_size
from orlop.engine.client import Client

# Label → key of GET /info, in docker's order. Values that are empty or absent are left out.
_ROWS: tuple[tuple[str, str], ...] = (
    ("Containers", "Containers"),
    (" Running", "ContainersRunning"),
    (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"),
    ("Images", "Images"),
    ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"),
    ("Logging Driver", "LoggingDriver"),
    ("Cgroup Driver", "CgroupDriver"),
    ("Cgroup Version", "CgroupVersion"),
)
_SYSTEM_ROWS: tuple[tuple[str, str], ...] = (
    ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Total Memory", "MemTotal"),
    ("Name", "Name"),
    ("ID", "ID"),
    ("Docker Root Dir", "DockerRootDir"),
    ("Debug Mode", "Debug"),
    ("Experimental", "ExperimentalBuild"),
    ("Live Restore Enabled", "LiveRestoreEnabled"),
)


def run(client: Client, args: Args) -> int:
    details: dict[str, Any] = client.get("/info")
    if form := args.text("format"):
        print(listing.fill("{{json .}}" if form == "json" else form, details))
        return 0
    print(f"Client:\n Version:    {__version__}\n Context:    default\n Debug Mode: false\n\nServer:")
    _print(details, _ROWS)
    plugins = details.get("Plugins") or {}
    print(" Plugins:")
    for label in ("Volume", "Network", "Log"):
        print(f"  {label}: {' '.join(plugins.get(label) or [])}")
    print(f" Runtimes: {' '.join(sorted(details.get('Runtimes') or {}))}")
    print(f" Default Runtime: {details.get('DefaultRuntime', '')}")
    print(" Security Options:")
    for option in details.get("SecurityOptions") or []:
        name, *rest = option.split(",")
        print(f"  {name.removeprefix('name=')}")
        for pair in rest:
            key, _, value = pair.partition("=")
            print(f"   {key.title()}: {value}")
    _print(details, _SYSTEM_ROWS)
    for warning in details.get("Warnings") or []:
        print(warning)
    return 0


def _print(details: dict[str, Any], rows: tuple[tuple[str, str], ...]) -> None:
    for label, key in rows:
        value = details.get(key)
        if value in (None, ""):
            continue
        if key == "MemTotal":
            value = binary_size(value)
        if isinstance(value, bool):
            value = "true" if value else "false"
        print(f" {label}: {value}")


INFO = Command(
    "info [OPTIONS]",
    "Display system-wide information",
    run,
    flags=[Flag("format", "f", "string", "Format output using a custom template: 'json' or a Go template")],
)
