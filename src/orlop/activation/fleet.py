# SPDX-License-Identifier: Apache-2.0
"""The daemons together: what is wanted of each, in which order they start and end, and who was there before us."""

import contextlib
import json
import os
import selectors
import signal
import time
from collections.abc import Iterator
from typing import Any

from orlop.activation.api_socket import ApiSocket
from orlop.activation.components import Component
from orlop.activation.daemon import Daemon
from orlop.activation.layout import Layout
from orlop.activation.process import adopt, spawn


class Fleet:
    """Brings every daemon to where it is wanted, one `settle` after the other."""

    def __init__(
        self, layout: Layout, components: tuple[Component, ...], selector: selectors.BaseSelector, notify_path: str
    ) -> None:
        self._daemons = {component.name: Daemon(component) for component in components}
        self.activated = next(daemon for daemon in self if daemon.component.activated)
        self.api = ApiSocket(layout.api_socket, selector, lambda: self.ask_for(self.activated))
        self.ending = False
        self._layout = layout
        self._selector = selector
        self._notify_path = notify_path
        self._state_path = os.path.join(layout.daemon_dir, "state.json")
        self._saved = ""

    def __iter__(self) -> Iterator[Daemon]:
        return iter(self._daemons.values())

    def __getitem__(self, name: str) -> Daemon:
        return self._daemons[name]

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they stop; they start in the opposite one."""
        return tuple(self._daemons)

    @property
    def at_rest(self) -> bool:
        """Whether no daemon runs."""
        return all(daemon.process is None for daemon in self)

    # What is wanted

    def ask_for(self, daemon: Daemon) -> None:
        """Have a daemon run, with all that goes with it; what was given up is tried again."""
        for name in (*daemon.component.needs, *daemon.component.brings):
            self[name].want()
        daemon.want()

    def end(self) -> None:
        """Have all of them stopped, for good."""
        self.ending = True
        for daemon in self:
            daemon.unwant()

    def listen(self) -> None:
        """Open the API socket. Raises OSError."""
        if self.api.open():
            # a dockerd that serves a socket whose file is gone starts anew, with this one
            self.activated.begin_stop(time.monotonic())

    # The way there

    def settle(self) -> None:
        """Do whatever brings the daemons closer to what is wanted of them, and note who runs."""
        now = time.monotonic()
        for daemon in self:
            if not daemon.wanted:
                if not self.ending or not self._has_users(daemon):
                    daemon.begin_stop(now)
                daemon.insist(now)
            elif daemon.process is None and now >= daemon.retry_at and self._needs_met(daemon):
                self._start(daemon)
        # looked at exactly while no dockerd does
        self.api.watch(not self.activated.wanted and self.activated.process is None)
        self._save()

    def due(self) -> list[float]:
        """When something is to be done without an event."""
        return [daemon.due for daemon in self if daemon.due]

    def became_ready(self, pid: int) -> None:
        """The process `pid` says that it serves."""
        for daemon in self:
            if daemon.process is not None and daemon.process.pid == pid:
                daemon.became_ready()

    def extend_stop(self, pid: int, until: float) -> None:
        """The process `pid` says how long its end may take."""
        for daemon in self:
            if daemon.process is not None and daemon.process.pid == pid:
                daemon.extend_stop(until)

    def _needs_met(self, daemon: Daemon) -> bool:
        needs = [self[name] for name in daemon.component.needs]
        for needed in needs:
            if needed.failure and not needed.wanted:  # given up: then this one is, too
                daemon.wanted, daemon.failure = False, f"{needed.component.name} failed"
                if daemon is self.activated:
                    self.api.refuse_waiting()
                return False
            needed.want()
        return all(needed.ready for needed in needs)

    def _has_users(self, daemon: Daemon) -> bool:
        """Whether a daemon still runs that works with this one: it ends first."""
        name = daemon.component.name
        others = [other for other in self if other.process is not None]
        return any(name in (*other.component.needs, *other.component.brings) for other in others)

    def _start(self, daemon: Daemon) -> None:
        component = daemon.component
        environ = {"NOTIFY_SOCKET": self._notify_path, **dict(component.environ)}
        try:
            if component.activated:
                self.listen()
            listener = self.api.fileno() if component.activated else -1
            process = spawn(component.argv, self._layout.log(component.name), environ, listener)
        except OSError as error:
            daemon.refused(error)
            return
        daemon.started(process)
        self._watch(daemon)

    def _watch(self, daemon: Daemon) -> None:
        assert daemon.process is not None
        self._selector.register(daemon.process.pidfd, selectors.EVENT_READ, lambda: self._exited(daemon))

    def _exited(self, daemon: Daemon) -> None:
        assert daemon.process is not None
        self._selector.unregister(daemon.process.pidfd)
        wanted = daemon.wanted
        daemon.exited(time.monotonic())
        if daemon is self.activated and wanted and not daemon.wanted and daemon.failure:
            self.api.refuse_waiting()

    # Across the supervisor's own death

    def adopt(self) -> None:
        """Take over what an earlier supervisor left behind."""
        try:
            with open(self._state_path, encoding="utf-8") as file:
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
                self.api.take_over(process, row["since"])

    def _save(self) -> None:
        rows = {
            daemon.component.name: {
                "pid": daemon.process.pid,
                "ticks": daemon.process.start_ticks,
                "since": daemon.since,
                "ready": daemon.ready,
            }
            for daemon in self
            if daemon.process is not None
        }
        text = json.dumps(rows)
        if text != self._saved:
            temporary = f"{self._state_path}.new"
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(temporary, self._state_path)
            self._saved = text


def end_holder(daemon: Daemon) -> None:
    """Ask a daemon that somebody else started, and that works in this one's place, to end."""
    if pid := daemon.holder():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
