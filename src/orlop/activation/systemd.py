# SPDX-License-Identifier: Apache-2.0
"""The same commands where systemd looks after the daemons: our units, driven by systemctl."""

import os
import time
from collections.abc import Iterable

from orlop.activation import control
from orlop.activation.components import SOCKET, SOCKET_UNIT, Component
from orlop.activation.control import Row
from orlop.errdefs import InternalError

# Where the unit may be (systemd.unit(5)).
_DIRECTORIES = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
)
_PROPERTIES = "Id,ActiveState,SubState,MainPID,ActiveEnterTimestamp"


def is_running() -> bool:
    """Whether this machine was booted with systemd (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def looks_after() -> bool:
    """Whether systemd runs and has our units: without them the daemons have our own supervisor."""
    return is_running() and any(os.path.exists(f"{directory}/{SOCKET_UNIT}") for directory in _DIRECTORIES)


def plan(operation: str, component: str, table: Iterable[Component]) -> list[list[str]]:
    """The systemctl calls that do `operation` ("start", "stop", "restart"); pure.

    "start" of everything starts the socket alone, which brings the rest when somebody connects.
    """
    units = {each.name: each.unit for each in table}
    if component == SOCKET:
        chosen = [SOCKET_UNIT]
    elif component != control.ALL:
        chosen = [units[component]]
    elif operation == "start":
        chosen = [SOCKET_UNIT]
    elif operation == "stop":
        chosen = [SOCKET_UNIT, *units.values()]
    else:
        return [["systemctl", "try-restart", *reversed(units.values())]]
    return [["systemctl", operation, *chosen]]


def perform(operation: str, component: str, table: Iterable[Component]) -> list[Row]:
    """Do it, and return the status. Raises InternalError with systemctl's words."""
    components = list(table)
    if operation != "status":
        for argv in plan(operation, component, components):
            systemctl(argv)
    units = [SOCKET_UNIT, *(each.unit for each in components)]
    return rows(
        systemctl(["systemctl", "show", f"--property={_PROPERTIES}", "--timestamp=unix", *units]), components
    )


def rows(shown: str, table: Iterable[Component]) -> list[Row]:
    """The output of `systemctl show --timestamp=unix` as status rows; pure."""
    units = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.split("\n\n")]
    by_id = {unit.get("Id", ""): unit for unit in units}
    listening = by_id.get(SOCKET_UNIT, {}).get("ActiveState") == "active"
    found = [_row(SOCKET, by_id.get(SOCKET_UNIT, {}), "/run/orlop/docker.sock")]
    for component in table:
        row = _row(component.name, by_id.get(component.unit, {}), component.listening)
        if component.activated and listening and row["state"] == "stopped":
            row["state"] = "stopped, socket listening"
        found.append(row)
    return found


_STATES = {"active": "running", "inactive": "stopped", "activating": "starting", "deactivating": "stopping"}


def _row(name: str, unit: dict[str, str], listening: str) -> Row:
    active = unit.get("ActiveState", "inactive")
    state = _STATES.get(active, active)
    if name == SOCKET and active == "active":
        state = "listening"
    since = unit.get("ActiveEnterTimestamp", "").removeprefix("@")
    return Row(
        component=name,
        state=state,
        pid=int(unit.get("MainPID") or 0),
        since=float(since) if since.isdigit() else 0.0,
        listening=listening if active == "active" else "",
    )


def systemctl(argv: list[str]) -> str:
    """Run a command of systemd and return what it prints. Raises InternalError with its words."""
    import subprocess

    environ = {**os.environ, "LC_ALL": "C", "TZ": time.tzname[0]}
    done = subprocess.run(argv, capture_output=True, text=True, env=environ, check=False)
    if done.returncode != 0:
        raise InternalError(f"{' '.join(argv[:2])}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout
