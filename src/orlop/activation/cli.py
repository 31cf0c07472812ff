# SPDX-License-Identifier: Apache-2.0
"""`orlop daemon start|stop|restart|status [component]`."""

import contextlib
import fcntl
import getopt
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from orlop.activation import components, control, main, process, systemd
from orlop.activation.control import Row
from orlop.activation.layout import Layout, resolve
from orlop.errdefs import FailedPreconditionError, InvalidArgumentError, OrlopError

NOT_RUNNING = 3
"""The exit status of `status` where something does not run (LSB init scripts, systemctl)."""

_ALIASES = {"orlopd": "dockerd", "orlop-containerd": "containerd", "orlop-netd": "netd", "docker.socket": "socket"}
_INSTALLING = ("install", "uninstall")
_OTHERS = (*_INSTALLING, "clean")
_USAGE = """\
Usage:  orlop daemon COMMAND [COMPONENT]

Manage the daemons

Commands:
  start     Hold the API socket; with a component, start that daemon and what it needs
  stop      Stop the daemons, or one; containers run on
  restart   Restart the daemons that run, or one
  status    Show the daemons
  install   Hand the daemons over to systemd: make its units, enable them, hold the socket
  uninstall Stop the daemons and take the units away; containers run on
  clean     Remove what stopped daemons leave: bridges, firewall rules, the run directory

Components: socket, dockerd, containerd, netd

Options:
      --run-dir DIR     Sockets and volatile state (default /run/orlop)
      --data-root DIR   Persistent state (default /var/lib/orlop)
      --log-dir DIR     Logs (default /var/log/orlop)
      --dry-run         Only print what install, uninstall or clean would do
"""


def run(argv: list[str]) -> int:
    """Perform the command; returns the exit status. Messages go to standard output and standard error."""
    try:
        return _run(argv)
    except InvalidArgumentError as error:
        sys.stderr.write(f"orlop daemon: {error}\n\nRun 'orlop daemon --help' for more information\n")
        return 125
    except OrlopError as error:
        sys.stderr.write(f"orlop daemon: {error}\n")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"orlop daemon: {where}{(error.strerror or str(error)).lower()}\n")
    return 1


def _run(argv: list[str]) -> int:
    try:
        options, words = getopt.gnu_getopt(argv, "h", ["help", "run-dir=", "data-root=", "log-dir=", "dry-run"])
    except getopt.GetoptError as error:
        raise InvalidArgumentError(str(error)) from None
    given = dict(options)
    if not words or "-h" in given or "--help" in given:
        sys.stdout.write(_USAGE)
        return 0
    layout = resolve(
        given.get("--run-dir", ""), given.get("--data-root", ""), given.get("--log-dir", ""), os.environ
    )
    if words[0] in _INSTALLING:
        return _install(words, layout, dry_run="--dry-run" in given)
    if words[0] == "clean":
        return _clean(words, layout, dry_run="--dry-run" in given)
    if "--dry-run" in given:
        raise InvalidArgumentError(f"--dry-run: {words[0]} has no such option")
    operation, component = _parse(words)
    if layout.is_default and systemd.looks_after():
        rows = systemd.perform(operation, component, components.table(layout))
    else:
        rows = _perform(layout, operation, component)
    if operation != "status":
        return 0
    return _show([row for row in rows if component in (control.ALL, row["component"])])


def _install(words: list[str], layout: Layout, *, dry_run: bool) -> int:
    from orlop.activation import installation

    if len(words) > 1:
        raise InvalidArgumentError(f"unexpected argument {words[1]!r}")
    if not layout.is_default:
        raise InvalidArgumentError(f"{words[0]}: systemd's units are for the default directories alone")
    if words[0] == "install":
        steps = installation.install_plan(installation.command_path, group=installation.has_group())
    else:
        steps = installation.uninstall_plan()
    if dry_run:
        sys.stdout.write(installation.show(steps))
        return 0
    if not systemd.is_running():
        raise FailedPreconditionError("this machine does not run systemd: use `orlop daemon start`")
    if control.serves(layout.control_socket):
        raise FailedPreconditionError("the daemons run without systemd: `orlop daemon stop` first")
    installation.check(steps)
    installation.perform(steps, systemd.systemctl)
    return 0


def _clean(words: list[str], layout: Layout, *, dry_run: bool) -> int:
    from orlop.activation.clean import clean

    if len(words) > 1:
        raise InvalidArgumentError(f"unexpected argument {words[1]!r}")
    running = layout.is_default and systemd.looks_after()
    if running or control.serves(layout.control_socket) or _left_behind(layout):
        raise FailedPreconditionError(
            f"the daemons are there: `orlop daemon {'uninstall' if running else 'stop'}` first"
        )
    for line in clean(layout, dry_run=dry_run):
        sys.stdout.write(f"{'would remove' if dry_run else 'removed'} {line}\n")
    return 0


def _parse(words: list[str]) -> tuple[str, str]:
    operation, *rest = words
    if operation not in control.OPERATIONS:
        raise InvalidArgumentError(
            f"unknown command {operation!r}: one of {', '.join((*control.OPERATIONS, *_OTHERS))} is needed"
        )
    if len(rest) > 1:
        raise InvalidArgumentError(f"unexpected argument {rest[1]!r}")
    component = _ALIASES.get(rest[0], rest[0]) if rest else control.ALL
    known = [components.SOCKET, *(each.name for each in components.table(Layout()))]
    if component not in (control.ALL, *known):
        raise InvalidArgumentError(f"unknown component {component!r}: one of {', '.join(known)} is needed")
    return operation, component


def _perform(layout: Layout, operation: str, component: str) -> list[Row]:
    message: dict[str, Any] = {"op": operation, "component": component}
    with _one_at_a_time(layout, operation):
        if not control.serves(layout.control_socket):
            if operation not in ("start", "restart") and not _left_behind(layout):
                return _stopped(layout)
            main.start(layout)
        ends = operation == "stop" and component == control.ALL
        with control.ending(layout.control_socket) if ends else contextlib.nullcontext():
            timeout = control.ANSWER_SECONDS if operation == "status" else None
            rows: list[Row] = control.request(layout.control_socket, message, timeout)["rows"]
    return rows


@contextlib.contextmanager
def _one_at_a_time(layout: Layout, operation: str) -> Iterator[None]:
    """Commands that change something wait for each other, so that two do not start two supervisors."""
    if operation == "status":
        yield
        return
    main.prepare_directories(layout)
    with open(os.path.join(layout.daemon_dir, "command.lock"), "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _left_behind(layout: Layout) -> bool:
    """Whether daemons run that a supervisor started which is not there any more."""
    try:
        with open(os.path.join(layout.daemon_dir, "state.json"), encoding="utf-8") as file:
            saved = json.load(file)
    except (FileNotFoundError, ValueError):
        return False
    return any(process.start_ticks(row["pid"]) == row["ticks"] != 0 for row in saved.values())


def _stopped(layout: Layout) -> list[Row]:
    names = [components.SOCKET, *(each.name for each in components.table(layout))]
    return [Row(component=name, state="stopped", pid=0, since=0.0, listening="") for name in names]


def _show(rows: list[Row]) -> int:
    table = [("COMPONENT", "STATE", "PID", "SINCE", "LISTENING")]
    for row in rows:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["since"])) if row["since"] else "-"
        table.append((row["component"], row["state"], str(row["pid"] or "-"), since, row["listening"] or "-"))
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        sys.stdout.write("   ".join(cells).rstrip() + "\n")
    working = all(row["state"] in ("running", "listening", "stopped, socket listening") for row in rows)
    return 0 if working else NOT_RUNNING
