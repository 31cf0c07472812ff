# SPDX-License-Identifier: Apache-2.0
"""What `orlop daemon` asks of the supervisor, as steps; and the rows of its answer."""

import errno
import os
from typing import Any

from orlop.activation import control
from orlop.activation.components import SOCKET
from orlop.activation.control import Row
from orlop.activation.daemon import Daemon
from orlop.activation.fleet import Fleet, end_holder
from orlop.activation.jobs import Step
from orlop.activation.layout import Layout

_START_FAILURES = 2


def plan(message: dict[str, Any], fleet: Fleet, layout: Layout) -> list[Step]:
    """A request as steps. Raises ValueError."""
    operation, name = message.get("op"), message.get("component", control.ALL)
    if operation not in control.OPERATIONS:
        raise ValueError(f"{operation!r} is not one of {', '.join(control.OPERATIONS)}")
    if name not in (control.ALL, SOCKET, *fleet.names):
        raise ValueError(f"{name!r} is not one of {', '.join((control.ALL, SOCKET, *fleet.names))}")
    if operation == "status":
        return []
    if fleet.ending:
        raise ValueError("the daemons are being stopped")
    if operation == "start":
        return [_starting(name, fleet, layout)]
    if operation == "stop":
        return [_stopping(name, fleet)]
    if name == control.ALL:
        # what runs stops, in the table's order, and starts again in the opposite order; the socket stays
        running = [each for each in fleet.names if fleet[each].process is not None]
        return [
            *(_stopping(each, fleet) for each in running),
            *(_starting(each, fleet, layout) for each in running[::-1]),
        ]
    return [_stopping(name, fleet), _starting(name, fleet, layout)]


def _starting(name: str, fleet: Fleet, layout: Layout) -> Step:
    if name in (control.ALL, SOCKET):
        return Step(fleet.listen, lambda: True)
    daemon = fleet[name]

    def begin() -> None:
        if daemon.component.activated:
            fleet.listen()
        fleet.ask_for(daemon)

    def done() -> bool:
        if daemon.failure and (daemon.failures >= _START_FAILURES or not daemon.wanted):
            raise OSError(errno.ECHILD, f"{name} does not start: {daemon.failure}; its log is {layout.log(name)}")
        return daemon.ready or daemon.holder() != 0

    return Step(begin, done)


def _stopping(name: str, fleet: Fleet) -> Step:
    if name == control.ALL:
        return Step(
            lambda: _stop_all(fleet), lambda: all(not each.process and not each.holder() for each in fleet)
        )
    if name == SOCKET:

        def close() -> None:
            fleet.activated.unwant()
            fleet.api.close()

        return Step(close, lambda: fleet.activated.process is None)
    daemon = fleet[name]

    def begin() -> None:
        daemon.unwant()
        end_holder(daemon)

    return Step(begin, lambda: daemon.process is None and daemon.holder() == 0)


def _stop_all(fleet: Fleet) -> None:
    fleet.end()
    fleet.api.close()
    for daemon in fleet:
        end_holder(daemon)


def rows(fleet: Fleet) -> list[Row]:
    """The state of the socket and of each daemon."""
    listening = fleet.api.listening
    socket_row = Row(
        component=SOCKET,
        state="listening" if listening else "stopped",
        pid=os.getpid() if listening else 0,
        since=fleet.api.since if listening else 0.0,
        listening=fleet.api.path if listening else "",
    )
    return [socket_row, *(_daemon_row(daemon, listening) for daemon in fleet)]


def _daemon_row(daemon: Daemon, listening: bool) -> Row:
    pid = daemon.process.pid if daemon.process is not None else 0
    holder = 0 if daemon.ready else daemon.holder()
    state = "running" if holder else daemon.state
    if daemon.component.activated and listening and pid == 0 and state == "stopped":
        state = "stopped, socket listening"
    return Row(
        component=daemon.component.name,
        state=state,
        pid=holder or pid,
        since=daemon.since,
        listening=daemon.component.listening if daemon.ready or holder else "",
    )
