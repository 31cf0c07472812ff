# SPDX-License-Identifier: Apache-2.0
"""The zygote's client: keeps one warm process that forks a shim for each request.

The zygote (`python -m orlop.shim.zygote`) has one end of a SOCK_SEQPACKET pair as descriptor 3. A request is one
packet of JSON with the descriptor of the bundle's log fifo; answers are packets of JSON in the order of the
requests. It ends when its end of the pair closes. See "The zygote" in docs/architecture.md.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from orlop.errdefs import InternalError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("containerd.zygote")

_FD = 3
_MAX_ANSWER = 65536
_ANSWER_TIMEOUT = 30.0  # seconds
_MIN_LIFE = 1.0  # seconds; a zygote that lives shorter is broken and not started again at once
_RETRY_AFTER = 30.0  # seconds


def spawn() -> tuple[socket.socket, int]:
    """Start a zygote: the daemon's end of the pair, not yet answered on, and the pid.

    It starts without the event loop, so that it warms up while the daemon loads its own modules.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        ours.setblocking(False)
        # posix_spawn runs none of the handlers that gRPC has for fork. -P: a module in the current directory
        # must not be taken for ours.
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "orlop.shim.zygote"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), _FD),
            ],
            setpgroup=0,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, pid


class Zygote:
    """Requests to the zygote, which is started again when it dies."""

    def __init__(
        self, started: tuple[socket.socket, int] | None = None, note: Callable[[int], None] | None = None
    ) -> None:
        """`started` is what `spawn` gave; `note` is told the pid of each zygote before its first request.

        Create it in the thread of the running event loop.
        """
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._socket: socket.socket | None = None
        self._pid = 0
        self._pidfd = -1
        self._born = 0.0
        self._not_before = 0.0
        if started is not None:
            self._adopt(*started)

    @property
    def pid(self) -> int:
        """The zygote's process id, 0 when there is none."""
        return self._pid

    async def start_shim(self, request: dict[str, Any], log_fd: int) -> tuple[str, int]:
        """Fork a shim: the address of its socket and its pid.

        Raises UnavailableError when there is no zygote (run the shim's binary then), InternalError that the fork
        or the shim's start failed.
        """
        sock = self._ensure()
        packet = json.dumps(request, separators=(",", ":")).encode()
        try:
            socket.send_fds(sock, [packet], [log_fd])
        except BlockingIOError:
            raise UnavailableError("the zygote is too busy") from None
        except OSError as error:
            self._lost(sock)
            raise UnavailableError(f"the zygote is gone: {error.strerror}") from None
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting.append(future)
        try:
            # A caller that gives up must not shift the others' answers.
            answer = await asyncio.wait_for(asyncio.shield(future), _ANSWER_TIMEOUT)
        except TimeoutError:
            log.error("the zygote (pid %d) does not answer: killing it", self._pid)
            if self._socket is sock:
                os.kill(self._pid, signal.SIGKILL)
                self._lost(sock)
            raise UnavailableError("the zygote does not answer") from None
        if "error" in answer:
            raise InternalError(f"start the shim: {answer['error']}")
        return answer["address"], answer["pid"]

    def _ensure(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        if self._loop.time() < self._not_before:
            raise UnavailableError("the zygote does not stay alive")
        try:
            self._adopt(*spawn())
        except OSError as error:
            self._not_before = self._loop.time() + _RETRY_AFTER
            raise UnavailableError(f"start the zygote: {error.strerror}") from None
        assert self._socket is not None
        return self._socket

    def _adopt(self, sock: socket.socket, pid: int) -> None:
        self._socket, self._pid, self._born = sock, pid, self._loop.time()
        self._pidfd = os.pidfd_open(pid)
        if self._note is not None:
            self._note(pid)
        self._loop.add_reader(sock, self._receive, sock)
        self._loop.add_reader(self._pidfd, self._reap, self._pidfd, pid)

    def _receive(self, sock: socket.socket) -> None:
        try:
            packet = sock.recv(_MAX_ANSWER)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet = b""
        if not packet:
            self._lost(sock)
            return
        try:
            answer = json.loads(packet)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not self._waiting:
            log.error("the zygote sent what was not asked for: %r", packet[:200])
            self._lost(sock)
            return
        future = self._waiting.popleft()
        if not future.done():
            future.set_result(answer)

    def _lost(self, sock: socket.socket) -> None:
        """The connection is gone: requests under way fail, the next one starts a new zygote."""
        if self._socket is not sock:
            return
        if self._loop.time() - self._born < _MIN_LIFE:
            self._not_before = self._loop.time() + _RETRY_AFTER
        log.warning("the zygote (pid %d) is gone", self._pid)
        self._socket, self._pid = None, 0
        self._loop.remove_reader(sock)
        sock.close()
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(UnavailableError("the zygote died"))

    def _reap(self, pidfd: int, pid: int) -> None:
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        if self._pidfd == pidfd:
            self._pidfd = -1
        os.waitpid(pid, 0)  # returns at once: it has ended, or has been killed
        if self._pid == pid and self._socket is not None:
            self._lost(self._socket)

    async def close(self) -> None:
        """Let the zygote end and reap it; shims go on."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._pidfd >= 0:
            pidfd, pid = self._pidfd, self._pid
            self._loop.remove_reader(pidfd)
            ended = asyncio.Event()
            self._loop.add_reader(pidfd, ended.set)  # may fire more than once before it is removed
            try:
                await asyncio.wait_for(ended.wait(), 5)
            except TimeoutError:
                os.kill(pid, 9)
                log.error("the zygote (pid %d) did not end: killed", pid)
            finally:
                self._reap(pidfd, pid)
