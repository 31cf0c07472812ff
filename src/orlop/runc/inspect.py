# SPDX-License-Identifier: Apache-2.0
"""list, ps and events: what a person looks at."""

import builtins
import os
import sys

import msgspec

from orlop.errdefs import FailedPreconditionError, InternalError, InvalidArgumentError, OrlopError
from orlop.libcontainer import Container
from orlop.libcontainer.errors import explain
from orlop.runc import state_text
from orlop.runc.main import Call

_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


def list(call: Call) -> int:
    """Print the containers as a table, as JSON, or only their ids."""
    form = call.flags.text("format") or "table"
    if form not in ("table", "json"):
        raise InvalidArgumentError("invalid format option")
    containers = Container.list(call.root)
    if call.flags.flag("quiet"):
        sys.stdout.writelines(f"{container.id}\n" for container in containers)
        return 0
    states = [state_text.fields(container, _user(str(container.facts.owner))) for container in containers]
    if form == "json":
        sys.stdout.write((msgspec.json.encode(states).decode() if states else "null") + "\n")
        return 0
    table: builtins.list[tuple[str, ...]] = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
    table += [tuple(str(state[name]) for name in _COLUMNS) for state in states]
    _print_table(table)
    return 0


def _print_table(rows: builtins.list[tuple[str, ...]]) -> None:
    # As Go's tabwriter with a smallest cell of 12 and a gap of 3.
    widths = [max(12, *(len(row[column]) + 3 for row in rows)) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        sys.stdout.write(cells + row[-1] + "\n")


def _user(uid: str) -> str:
    import pwd

    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        return f"#{uid}"


def ps(call: Call) -> int:
    """Print the processes: ps(1)'s table, or their ids as JSON."""
    form = call.flags.text("format") or "table"
    if form not in ("table", "json"):
        raise InvalidArgumentError("invalid format option")
    container = Container.load(call.root, call.arguments[0])
    pids = container.pids()
    if form == "json":
        sys.stdout.write(msgspec.json.encode(pids).decode() + "\n")
        return 0
    import subprocess

    words = call.arguments[1:] or ["-ef"]
    if words and words[0] == "--":
        words = words[1:]
    done = subprocess.run(["ps", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise InvalidArgumentError(f"ps: exit status {done.returncode}")
    title, *lines = done.stdout.splitlines()
    fields = title.split()
    if "PID" not in fields:
        raise InvalidArgumentError("couldn't find PID field in ps output")
    column = fields.index("PID")
    sys.stdout.write(title + "\n")
    wanted = {str(pid) for pid in pids}
    sys.stdout.writelines(f"{line}\n" for line in lines if line.split()[column] in wanted)
    return 0


def events(call: Call) -> int:
    """Print statistics, once with --stats, else at every interval until the container ends, with OOM events."""
    container = Container.load(call.root, call.arguments[0])
    interval = _seconds(call.flags.text("interval") or "5s")
    if container.status() == "stopped":
        raise FailedPreconditionError(f"container with id {container.id} is not running")
    from orlop.runc.stats import event

    if call.flags.flag("stats"):
        _emit(event(container, "stats"))
        return 0
    import select

    from orlop.cgroups import drain_oom, load_manager
    from orlop.unix.process import pidfd_open

    manager = load_manager(container.record.cgroup_paths)
    ended, oom = pidfd_open(container.init_pid), manager.oom_fd()
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(oom, select.POLLIN | select.POLLPRI)
    kills = manager.oom_kills()
    while ended not in (ready := dict(poller.poll(interval * 1000))):
        try:
            if oom in ready:
                drain_oom(oom)
                before, kills = kills, manager.oom_kills()
                if kills > before:
                    _emit({"type": "oom", "id": container.id})
            if not ready:
                _emit(event(container, "stats"))
        except (OrlopError, OSError):
            if not select.select([ended], [], [], 0)[0]:
                raise
            break  # it has ended meanwhile, and its control groups are gone
    os.close(ended)
    os.close(oom)
    return 0


def _emit(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    try:
        sys.stdout.flush()
    except OSError as error:
        raise InternalError(f"cannot write to standard output: {explain(error)}") from error


def _seconds(text: str) -> float:
    """A Go duration of one unit."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    digits = text.rstrip("msh")
    try:
        value = float(digits) * units[text[len(digits) :]]
    except (ValueError, KeyError):
        raise InvalidArgumentError(f'interval is "{text}", expected a duration as 5s') from None
    if value <= 0:
        raise InvalidArgumentError("duration interval must be greater than 0")
    return value
