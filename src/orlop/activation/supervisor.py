# SPDX-License-Identifier: Apache-2.0
"""The supervisor: one selector loop that holds the API socket and keeps the daemons running.

    connection on docker.sock ─► start containerd ─READY=1─► start orlopd with the socket as descriptor 3
    a daemon ends ─────────────► start it again, at once the first time, then more and more slowly
    a line on control.sock ────► change what is wanted, answer when it is so

The supervisor may be killed like every other daemon: what it started goes on, and the next one adopts it.
"""

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from orlop.activation import control, requests, sockets
from orlop.activation.components import Component
from orlop.activation.fleet import Fleet
from orlop.activation.jobs import SECONDS, Job
from orlop.activation.layout import Layout

_MAX_REQUEST = 4096
_LONGEST_WAIT = 86400.0  # seconds; selectors take no month


class Supervisor:
    """The loop around a fleet of daemons: events in, answers out. `serve` is its whole life."""

    def __init__(self, layout: Layout, components: tuple[Component, ...]) -> None:
        self._layout = layout
        self._selector = selectors.DefaultSelector()
        self._notify_path = os.path.join(layout.daemon_dir, "notify.sock")
        self._fleet = Fleet(layout, components, self._selector, self._notify_path)
        self._jobs: list[Job] = []

    def serve(self, ready: Callable[[], None]) -> None:
        """Adopt what runs, call `ready` when requests are taken, and go on until everything was told to stop."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._selector.close)
            self._open_sockets(stack)
            self._wake_on_signals(stack)
            self._fleet.adopt()
            ready()
            while not self._finished():
                self._fleet.settle()
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._fleet.settle()
                self._answer()
            self._fleet.api.close()

    def _open_sockets(self, stack: contextlib.ExitStack) -> None:
        self._control = stack.enter_context(sockets.listen_control(self._layout.control_socket))
        stack.callback(_unlink, self._layout.control_socket)
        self._notify = stack.enter_context(sockets.notify_socket(self._notify_path))
        stack.callback(_unlink, self._notify_path)
        self._selector.register(self._control, selectors.EVENT_READ, self._accept_control)
        self._selector.register(self._notify, selectors.EVENT_READ, self._notified)

    def _wake_on_signals(self, stack: contextlib.ExitStack) -> None:
        read, write = socket.socketpair()
        stack.enter_context(read)
        stack.enter_context(write)
        read.setblocking(False)
        write.setblocking(False)
        signal.set_wakeup_fd(write.fileno())
        stack.callback(signal.set_wakeup_fd, -1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

        def woken() -> None:
            read.recv(64)
            self._fleet.end()

        self._selector.register(read, selectors.EVENT_READ, woken)

    def _accept_control(self) -> None:
        try:
            connection, _ = self._control.accept()
        except OSError:
            return  # it went away, or descriptors ran out
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._requested(connection))

    def _requested(self, connection: socket.socket) -> None:
        try:
            line = connection.recv(_MAX_REQUEST)
        except OSError:
            line = b""
        self._selector.unregister(connection)
        if not line:
            connection.close()
            return
        try:
            steps = requests.plan(control.decode(line), self._fleet, self._layout)
        except (ValueError, TypeError) as error:
            _reply(connection, {"error": f"invalid request: {error}"})
            return
        self._jobs.append(
            Job(connection, steps, SECONDS + sum(each.component.stop_seconds for each in self._fleet))
        )

    def _notified(self) -> None:
        pid, lines = sockets.read_notification(self._notify)
        if b"READY=1" in lines:
            self._fleet.became_ready(pid)
        if seconds := sockets.extension(lines):
            until = time.monotonic() + seconds
            self._fleet.extend_stop(pid, until)
            for job in self._jobs:
                job.extend(until)

    def _answer(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs):
            if job.advance(now):
                self._jobs.remove(job)
                done = {"error": job.error} if job.error else {"ok": True, "rows": requests.rows(self._fleet)}
                _reply(job.connection, done)

    def _finished(self) -> bool:
        return self._fleet.ending and not self._jobs and self._fleet.at_rest

    def _timeout(self) -> float | None:
        due = self._fleet.due() + [job.deadline for job in self._jobs]
        return min(max(0.0, min(due) - time.monotonic()), _LONGEST_WAIT) if due else None


def _reply(connection: socket.socket, message: dict[str, Any]) -> None:
    with connection, contextlib.suppress(OSError):  # the client did not wait for the answer
        connection.sendall(control.encode(message))


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
