# SPDX-License-Identifier: Apache-2.0
"""One shim process: its place in the system, its services, its signals and its end."""

import os
import select
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from orlop.api import shim_v2_pb2, shim_v3_pb2
from orlop.rpc.ttrpc.server import Server
from orlop.shim import log
from orlop.shim.bootstrap import Start
from orlop.shim.events import Publisher
from orlop.shim.loop import Loop
from orlop.shim.reaper import Reaper
from orlop.shim.rest import Rest
from orlop.shim.runtime.helper import EarlyHelper, early_helper
from orlop.shim.runtime.select import RuntimeFor, runtime_for
from orlop.shim.service import TaskService
from orlop.unix.events import read_signals, signalfd
from orlop.unix.process import (
    PR_SCHED_CORE,
    PR_SCHED_CORE_CREATE,
    PR_SCHED_CORE_SCOPE_THREAD_GROUP,
    PR_SET_CHILD_SUBREAPER,
    prctl,
    set_name,
)

if TYPE_CHECKING:
    from orlop.unix.template import Template

_FLUSH = 3.0
"""Seconds that the last events and replies get to leave before the process ends."""

SERVICES = (shim_v2_pb2.DESCRIPTOR.services_by_name["Task"], shim_v3_pb2.DESCRIPTOR.services_by_name["Task"])


def settle_in(bundle: str, log_fd: int = -1) -> None:
    """Become a daemon: quiet standard streams, orphans' new parent, first to go when memory is short.

    SIGPIPE is ignored as in every Python process.

    Standard error becomes the bundle's `log` fifo, which containerd reads: `log_fd`, or what is there by name.
    """
    os.chdir(bundle)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    if log_fd < 0:
        log_fd = _open_log(null)
    os.dup2(log_fd, 2)
    os.set_blocking(2, False)
    for fd in (log_fd, null):
        if fd > 2:
            os.close(fd)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.environ.get("SCHED_CORE"):
        _own_core()
    _raise_oom_score()


def _open_log(fallback: int) -> int:
    try:  # for reading too: then the next containerd can go on reading, and there is never an EPIPE
        return os.open("log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return os.dup(fallback)


def _own_core() -> None:
    """Share no core with others: the container's processes inherit the domain."""
    try:
        prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, PR_SCHED_CORE_SCOPE_THREAD_GROUP)
    except OSError as error:
        log.warning(f"SCHED_CORE: no core scheduling: {error.strerror}")


def _raise_oom_score() -> None:
    # Bare calls: text files of the io module would cost a quarter of a megabyte in each shim.
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        try:
            score = int(os.read(fd, 16))
            os.pwrite(fd, b"%d" % min(score + 1, 1000), 0)
        finally:
            os.close(fd)
    except OSError as error:
        log.warning(f"oom_score_adj stays as it is: {error.strerror}")


def serve(listener: socket.socket, start: Start, path: str, template: "Template | None" = None) -> NoReturn:
    """Serve the Task API on `listener`, bound to `path`, until Shutdown or SIGTERM; then end the process.

    With the template of the zygote the memory that the shim has only borrowed is given back whenever it comes to
    rest.
    """
    log.configure(start.debug, start.id, start.namespace)
    set_name("containerd-shim")
    early = None if template is None else early_helper(os.getcwd())
    shim = Shim(listener, start, path, template, early=early)
    if start.debug:
        from orlop.shim.debug import listen

        shim.end_debug = listen(shim.loop, start)
    shim.run()
    os._exit(0)


class Shim:
    """Everything a shim process holds."""

    def __init__(
        self,
        listener: socket.socket,
        start: Start,
        path: str,
        template: "Template | None" = None,
        runtimes: RuntimeFor = runtime_for,
        early: EarlyHelper | None = None,
    ) -> None:
        self._path = path
        self.loop = Loop(log.exception)
        self._rest = Rest(self.loop, template)
        self._reaper = Reaper()
        self._signals = signalfd((signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
        self._publisher = Publisher(self.loop, start.ttrpc_address, start.namespace)
        self._service = TaskService(
            self.loop,
            self._reaper,
            self._publisher,
            start.namespace,
            self._shut_down,
            on_answered=self._rest.later,
            runtimes=runtimes,
            early=early,
        )
        self._early = early
        self._server = Server(self.loop, log.exception)
        for service in SERVICES:
            self._server.add_service(service, self._service.handler)
        self.loop.add(self._signals, select.EPOLLIN, self._signalled)
        self._server.listen(listener)
        self._ending = False
        self.end_debug: Callable[[], None] | None = None
        """Takes the debug socket away, if there is one."""
        self._rest.later()

    def run(self) -> None:
        """Serve until the end."""
        self.loop.run()
        if self.end_debug is not None:
            self.end_debug()
        try:
            # Before the connections close: containerd takes that for the end, and may start a namesake at once.
            os.unlink(self._path)
        except FileNotFoundError:
            pass  # `delete` was faster
        self._server.close()
        self._publisher.close()
        if self._early is not None:
            self._early.close()

    def close(self) -> None:
        """Release what the end of the process would."""
        self.loop.close()
        os.close(self._signals)

    def _signalled(self, _events: int) -> None:
        self._rest.later()
        for number in read_signals(self._signals):
            if number == signal.SIGCHLD:
                self._reaper.reap()
            elif number == signal.SIGUSR1:
                self._report()
            else:
                log.info(f"ends on {signal.Signals(number).name}")
                self._shut_down()

    def _report(self) -> None:
        for container in self._service.containers.values():
            processes = [container.init, *container.execs.values()]
            states = " ".join(f"{each.exec_id or 'init'}:{each.pid}:{each.status}" for each in processes)
            log.info(f"container {container.id} processes {states}")
        log.info(f"events {'delivered' if self._publisher.idle else 'waiting'}")

    def _shut_down(self) -> None:
        if not self._ending:
            self._ending = True
            self.loop.call_later(_FLUSH, self.loop.stop)
            self._when_flushed()

    def _when_flushed(self) -> None:
        if self._publisher.idle and self._server.idle:
            self.loop.call_soon(self.loop.stop)
        else:
            # Rare, short, and at the end of the process: not worth a notification.
            self.loop.call_later(0.005, self._when_flushed)
