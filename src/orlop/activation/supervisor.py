# SPDX-License-Identifier: Apache-2.0
"""The supervisor: one selector loop that holds the API socket and keeps the daemons running.

    connection on docker.sock ─► start containerd ─READY=1─► start orlopd with the socket as descriptor 3
    a daemon ends ─────────────► start it again, at once the first time, then more and more slowly
    a line on control.sock ────► change what is wanted, answer when it is so

The supervisor may be killed like every other daemon: what it started goes on, and the next one adopts it.
"""

import contextlib
import errno
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from orlop.activation import control, sockets
from orlop.activation.components import SOCKET, Component
from orlop.activation.control import Row
from orlop.activation.daemon import Daemon
from orlop.activation.jobs import Job, Step
from orlop.activation.layout import Layout
from orlop.activation.process import LISTEN_FD, adopt, spawn

_START_FAILURES = 2
_MAX_REQUEST = 4096


class Supervisor:
    """Brings every daemon to where it is wanted. `serve` is its whole life."""

    def __init__(self, layout: Layout, components: tuple[Component, ...]) -> None:
        self._layout = layout
        self._daemons = {component.name: Daemon(component) for component in components}
        self._activated = next(daemon for daemon in self._daemons.values() if daemon.component.activated)
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._listening_since = 0.0
        self._watched = False
        self._jobs: list[Job] = []
        self._ending = False
        self._saved = ""

    def serve(self, ready: Callable[[], None]) -> None:
        """Adopt what runs, call `ready` when requests are taken, and go on until everything was told to stop."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._selector.close)
            self._open_sockets(stack)
            self._wake_on_signals(stack)
            self._adopt()
            ready()
            while not self._finished():
                self._settle()
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._settle()
                self._answer()
            self._close_listener()

    # Setting up

    def _open_sockets(self, stack: contextlib.ExitStack) -> None:
        self._control = stack.enter_context(sockets.listen_control(self._layout.control_socket))
        stack.callback(_unlink, self._layout.control_socket)
        self._notify_path = os.path.join(self._layout.daemon_dir, "notify.sock")
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
            self._begin_end()

        self._selector.register(read, selectors.EVENT_READ, woken)

    def _adopt(self) -> None:
        """Take over what an earlier supervisor left behind."""
        try:
            with open(self._state_path(), encoding="utf-8") as file:
                saved: dict[str, Any] = json.load(file)
        except (FileNotFoundError, ValueError):
            return
        for name, row in saved.items():
            daemon = self._daemons.get(name)
            process = adopt(row["pid"], row["ticks"]) if daemon is not None else None
            if daemon is None or process is None:
                continue
            daemon.wanted = True
            daemon.started(process, since=row["since"], ready=row["ready"])
            self._watch(daemon)
            if daemon.component.activated:
                self._listener = sockets.steal_listener(process.pidfd, LISTEN_FD, self._layout.api_socket)
                self._listening_since = row["since"]

    # Events

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
            steps = self._plan(control.decode(line))
        except (ValueError, TypeError) as error:
            _reply(connection, {"error": f"invalid request: {error}"})
            return
        self._jobs.append(Job(connection, steps))

    def _notified(self) -> None:
        pid, lines = sockets.read_notification(self._notify)
        for daemon in self._daemons.values():
            if daemon.process is not None and daemon.process.pid == pid and b"READY=1" in lines:
                daemon.became_ready()

    def _connected(self) -> None:
        """Somebody waits on the API socket, and no dockerd does."""
        self._ask_for(self._activated)

    def _exited(self, daemon: Daemon) -> None:
        assert daemon.process is not None
        self._selector.unregister(daemon.process.pidfd)
        wanted = daemon.wanted
        daemon.exited(time.monotonic())
        if daemon is self._activated and wanted and not daemon.wanted and daemon.failure and self._listener:
            sockets.refuse_waiting(self._listener)

    # The aim

    def _settle(self) -> None:
        """Do whatever brings the daemons closer to what is wanted of them."""
        now = time.monotonic()
        for daemon in self._daemons.values():
            if not daemon.wanted:
                if not self._ending or not self._has_users(daemon):
                    daemon.begin_stop(now)
                daemon.insist(now)
            elif daemon.process is None and now >= daemon.retry_at and self._needs_met(daemon):
                self._start(daemon)
        self._watch_listener()
        self._save()

    def _ask_for(self, daemon: Daemon) -> None:
        """Have a daemon run, with all that goes with it; what was given up is tried again."""
        for name in (*daemon.component.needs, *daemon.component.brings):
            self._daemons[name].want()
        daemon.want()

    def _needs_met(self, daemon: Daemon) -> bool:
        needs = [self._daemons[name] for name in daemon.component.needs]
        for needed in needs:
            if needed.failure and not needed.wanted:  # given up: then this one is, too
                daemon.wanted, daemon.failure = False, f"{needed.component.name} failed"
                if daemon is self._activated and self._listener:
                    sockets.refuse_waiting(self._listener)
                return False
            needed.want()
        return all(needed.ready for needed in needs)

    def _has_users(self, daemon: Daemon) -> bool:
        """Whether a daemon still runs that works with this one: it ends first."""
        name = daemon.component.name
        others = [other for other in self._daemons.values() if other.process is not None]
        return any(name in (*other.component.needs, *other.component.brings) for other in others)

    def _start(self, daemon: Daemon) -> None:
        component = daemon.component
        environ = {"NOTIFY_SOCKET": self._notify_path, **dict(component.environ)}
        try:
            if component.activated:
                self._open_listener()
            listener = self._listener.fileno() if component.activated and self._listener else -1
            process = spawn(component.argv, self._layout.log(component.name), environ, listener)
        except OSError as error:
            daemon.refused(error)
            return
        daemon.started(process)
        self._watch(daemon)

    def _watch(self, daemon: Daemon) -> None:
        assert daemon.process is not None
        self._selector.register(daemon.process.pidfd, selectors.EVENT_READ, lambda: self._exited(daemon))

    def _open_listener(self) -> None:
        if self._listener is None:
            self._listener = sockets.listen_api(self._layout.api_socket)
            self._listening_since = time.time()
            # a dockerd that serves a socket whose file is gone starts anew, with this one
            self._activated.begin_stop(time.monotonic())

    def _close_listener(self) -> None:
        if self._listener is not None:
            if self._watched:
                self._selector.unregister(self._listener)
                self._watched = False
            self._listener.close()
            self._listener = None
            _unlink(self._layout.api_socket)

    def _watch_listener(self) -> None:
        """Look at the API socket exactly while no dockerd does."""
        idle = self._listener is not None and not self._activated.wanted and self._activated.process is None
        if idle != self._watched and self._listener is not None:
            if idle:
                self._selector.register(self._listener, selectors.EVENT_READ, self._connected)
            else:
                self._selector.unregister(self._listener)
            self._watched = idle

    def _begin_end(self) -> None:
        self._ending = True
        for daemon in self._daemons.values():
            daemon.unwant()

    def _finished(self) -> bool:
        return self._ending and not self._jobs and all(each.process is None for each in self._daemons.values())

    def _timeout(self) -> float | None:
        due = [daemon.due for daemon in self._daemons.values() if daemon.due]
        due += [job.deadline for job in self._jobs]
        return max(0.0, min(due) - time.monotonic()) if due else None

    # Requests

    def _plan(self, message: dict[str, Any]) -> list[Step]:
        """A request as steps. Raises ValueError."""
        operation, name = message.get("op"), message.get("component", control.ALL)
        if operation not in control.OPERATIONS:
            raise ValueError(f"{operation!r} is not one of {', '.join(control.OPERATIONS)}")
        if name not in (control.ALL, SOCKET, *self._daemons):
            raise ValueError(f"{name!r} is not one of {', '.join((control.ALL, SOCKET, *self._daemons))}")
        if operation == "status":
            return []
        if self._ending:
            raise ValueError("the daemons are being stopped")
        if operation == "start":
            return [self._starting(name)]
        if operation == "stop":
            return [self._stopping(name)]
        if name == control.ALL:
            # what runs stops, in the table's order, and starts again in the opposite order; the socket stays
            running = [each for each, daemon in self._daemons.items() if daemon.process is not None]
            return [self._stopping(each) for each in running] + [self._starting(each) for each in running[::-1]]
        return [self._stopping(name), self._starting(name)]

    def _starting(self, name: str) -> Step:
        if name in (control.ALL, SOCKET):
            return Step(self._open_listener, lambda: True)
        daemon = self._daemons[name]

        def begin() -> None:
            if daemon.component.activated:
                self._open_listener()
            self._ask_for(daemon)

        def done() -> bool:
            if daemon.failure and (daemon.failures >= _START_FAILURES or not daemon.wanted):
                raise OSError(
                    errno.ECHILD,
                    f"{name} does not start: {daemon.failure}; its log is {self._layout.log(name)}",
                )
            return daemon.ready or daemon.holder() != 0

        return Step(begin, done)

    def _stopping(self, name: str) -> Step:
        if name == control.ALL:
            daemons = self._daemons.values()
            return Step(self._stop_all, lambda: all(not each.process and not each.holder() for each in daemons))
        if name == SOCKET:

            def close() -> None:
                self._activated.unwant()
                self._close_listener()

            return Step(close, lambda: self._activated.process is None)
        daemon = self._daemons[name]

        def begin() -> None:
            daemon.unwant()
            _end_holder(daemon)

        return Step(begin, lambda: daemon.process is None and daemon.holder() == 0)

    def _stop_all(self) -> None:
        self._begin_end()
        self._close_listener()
        for daemon in self._daemons.values():
            _end_holder(daemon)

    def _answer(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs):
            if job.advance(now):
                self._jobs.remove(job)
                _reply(job.connection, {"error": job.error} if job.error else {"ok": True, "rows": self._rows()})

    def _rows(self) -> list[Row]:
        listening = self._listener is not None
        rows = [
            Row(
                component=SOCKET,
                state="listening" if listening else "stopped",
                pid=os.getpid() if listening else 0,
                since=self._listening_since if listening else 0.0,
                listening=self._layout.api_socket if listening else "",
            )
        ]
        for name, daemon in self._daemons.items():
            pid = daemon.process.pid if daemon.process is not None else 0
            holder = 0 if daemon.ready else daemon.holder()
            state = "running" if holder else daemon.state
            if daemon.component.activated and listening and pid == 0 and state == "stopped":
                state = "stopped, socket listening"
            serves = daemon.ready or holder
            rows.append(
                Row(
                    component=name,
                    state=state,
                    pid=holder or pid,
                    since=daemon.since,
                    listening=daemon.component.listening if serves else "",
                )
            )
        return rows

    # What the next supervisor has to know

    def _state_path(self) -> str:
        return os.path.join(self._layout.daemon_dir, "state.json")

    def _save(self) -> None:
        text = json.dumps(
            {
                name: {
                    "pid": daemon.process.pid,
                    "ticks": daemon.process.start_ticks,
                    "since": daemon.since,
                    "ready": daemon.ready,
                }
                for name, daemon in self._daemons.items()
                if daemon.process is not None
            }
        )
        if text != self._saved:
            temporary = f"{self._state_path()}.new"
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(temporary, self._state_path())
            self._saved = text


def _end_holder(daemon: Daemon) -> None:
    """Ask a daemon that somebody else started, and that works in this one's place, to end."""
    if pid := daemon.holder():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _reply(connection: socket.socket, message: dict[str, Any]) -> None:
    with connection, contextlib.suppress(OSError):  # the client did not wait for the answer
        connection.sendall(control.encode(message))


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
