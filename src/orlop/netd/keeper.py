# SPDX-License-Identifier: Apache-2.0
"""The keeper: a process that holds duplicates of every socket of the worker, and forks another worker if it dies.

    keeper (the lock, the notification, the exit status) ──fork──► worker (all the work)
       ◄── SOCK_SEQPACKET: {"keep": key, …} with descriptors, {"drop": [keys]}, {"ready": true} ──
       ── a pipe: a byte for every drop ──►

What a killed worker loses are the connections that it was carrying and the queries that it was passing on. Whoever
connects or asks meanwhile waits in the sockets' queues for the next worker, which is there in milliseconds: it is
forked from a process that has imported everything. A killed keeper loses nothing: the worker goes on, with nobody
behind it.
"""

import contextlib
import gc
import json
import os
import signal
import socket
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_MAX_MESSAGE = 1 << 17
_MAX_DESCRIPTORS = 8
_MAX_FAILURES = 5
_ENDING = (signal.SIGTERM, signal.SIGINT)


class Kept(NamedTuple):
    """What a worker has asked to keep: what it is, and the descriptors that belong to it."""

    message: dict[str, Any]
    fds: tuple[int, ...]


class Channel(NamedTuple):
    """The worker's ends of its connection to the keeper."""

    messages: socket.socket
    acknowledgements: int


Worker = Callable[[Channel, Sequence[Kept]], None]


class Keeper:
    """Runs workers until one ends by itself, or several in a row die before they serve.

    `on_ready` is called once, when the first one serves.
    """

    def __init__(self, work: Worker, on_ready: Callable[[], None]) -> None:
        self._work = work
        self._on_ready: Callable[[], None] | None = on_ready
        self._kept: dict[str, Kept] = {}
        self._worker = 0
        self._served = False
        self._ending = False

    def run(self) -> int:
        """The exit status: 0 after SIGTERM or SIGINT, to the keeper or the worker."""
        for number in _ENDING:
            signal.signal(number, self._pass_on)
        gc.freeze()  # what is imported stays shared with the workers
        failures = 0
        while True:
            self._served = False
            status = self._run_worker()
            if os.WIFEXITED(status):
                return os.WEXITSTATUS(status)
            if self._ending:  # before the worker could hear of it
                return 0
            failures = 0 if self._served else failures + 1  # one that has served was killed
            if failures > _MAX_FAILURES:
                return 1

    def _run_worker(self) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        acknowledged, acknowledge = os.pipe()
        # A signal that reached the child as long as it has our handler would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        self._worker = os.fork()
        if self._worker == 0:
            ours.close()
            os.close(acknowledge)
            self._be_worker(Channel(theirs, acknowledged))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        theirs.close()
        os.close(acknowledged)
        if self._ending:
            os.kill(self._worker, signal.SIGTERM)
        try:
            self._listen(ours, acknowledge)
        finally:
            ours.close()
            os.close(acknowledge)
        _, status = os.waitpid(self._worker, 0)
        self._worker = 0
        return status

    def _be_worker(self, channel: Channel) -> None:
        """Never returns."""
        status = 1
        try:
            for number in _ENDING:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            self._work(channel, list(self._kept.values()))
            status = 0
        except BaseException:  # noqa: BLE001 - the stack above belongs to the keeper
            import traceback

            traceback.print_exc()
            os.kill(os.getpid(), signal.SIGKILL)  # no exit status: another worker shall try
        finally:
            os._exit(status)

    def _listen(self, messages: socket.socket, acknowledge: int) -> None:
        """Keep and drop until the worker is gone."""
        while True:
            data, fds = _receive(messages)
            if not data:
                return
            message = json.loads(data)
            if "keep" in message:
                self._drop(message["keep"])
                self._kept[message.pop("keep")] = Kept(message, fds)
            elif "drop" in message:
                for key in message["drop"]:
                    self._drop(key)
                with contextlib.suppress(BrokenPipeError):
                    os.write(acknowledge, b"k")
            else:
                self._served = True
                if self._on_ready is not None:
                    self._on_ready()
                    self._on_ready = None

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        for fd in kept.fds if kept is not None else ():
            os.close(fd)

    def _pass_on(self, number: int, _: object) -> None:
        self._ending = True
        if self._worker:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker, number)


def _receive(messages: socket.socket) -> tuple[bytes, tuple[int, ...]]:
    fds = array("i")
    try:
        space = socket.CMSG_SPACE(_MAX_DESCRIPTORS * fds.itemsize)
        data, control, _, _ = messages.recvmsg(_MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return b"", ()
    for level, kind, value in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
    return data, tuple(fds)
