# SPDX-License-Identifier: Apache-2.0
"""Publishes task events to containerd: in order, one at a time, kept while containerd is away."""

import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from orlop.api.events_ttrpc_pb2 import DESCRIPTOR, ForwardRequest
from orlop.errdefs import OrlopError
from orlop.rpc.ttrpc import frame, methods
from orlop.rpc.ttrpc.client import socket_path
from orlop.shim import log
from orlop.shim.loop import Loop, Timer

if TYPE_CHECKING:
    from google.protobuf.message import Message

TOPICS = {
    "TaskCreate": "/tasks/create",
    "TaskStart": "/tasks/start",
    "TaskOOM": "/tasks/oom",
    "TaskExit": "/tasks/exit",
    "TaskDelete": "/tasks/delete",
    "TaskExecAdded": "/tasks/exec-added",
    "TaskExecStarted": "/tasks/exec-started",
    "TaskPaused": "/tasks/paused",
    "TaskResumed": "/tasks/resumed",
    "TaskCheckpointed": "/tasks/checkpointed",
}
_EVENTS = DESCRIPTOR.services_by_name["Events"]
_FORWARD = methods.method_of(_EVENTS, "Forward")
_QUEUE = 2048
_TRIES = 5
_ANSWER_WITHIN = 5.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


class Publisher:
    """The client of containerd's Events service, on the shim's loop.

    An event is sent when the one before it has been answered, because containerd handles calls side by side. While
    containerd cannot be reached the queue waits and the connection is tried again: after a growing pause, and at
    once after `poke`.
    """

    def __init__(self, loop: Loop, address: str, namespace: str) -> None:
        self._loop = loop
        self._address = address
        self._namespace = namespace
        self._queue: deque[ForwardRequest] = deque()
        self._sock: socket.socket | None = None
        self._decoder = frame.Decoder()
        self._stream = -1
        self._out = b""
        self._in_flight = False
        self._tries = 0
        self._pause = _FIRST_PAUSE
        self._timer: Timer | None = None
        self._told = False

    @property
    def idle(self) -> bool:
        """Whether everything has been delivered."""
        return not self._queue

    def publish(self, event: "Message") -> None:
        """Queue an event; it is on its way when this returns, if containerd is there and nothing waits."""
        envelope = ForwardRequest()
        envelope.envelope.timestamp.FromNanoseconds(time.time_ns())
        envelope.envelope.namespace = self._namespace
        envelope.envelope.topic = TOPICS[event.DESCRIPTOR.name]
        envelope.envelope.event.type_url = event.DESCRIPTOR.full_name
        envelope.envelope.event.value = event.SerializeToString()
        if len(self._queue) >= _QUEUE:
            self._drop_one()
        self._queue.append(envelope)
        self._advance()

    def poke(self) -> None:
        """Containerd has shown itself: do not wait for the next try."""
        self._pause = _FIRST_PAUSE
        if self._queue and self._sock is None:
            self._cancel()
            self._advance()

    def close(self) -> None:
        """Give up what has not been delivered."""
        self._cancel()
        self._disconnect()
        self._queue.clear()

    def _drop_one(self) -> None:
        # The first is on its way. Exits and deletions decide what becomes of a container: they go last.
        for index in range(1, len(self._queue)):
            if self._queue[index].envelope.topic not in ("/tasks/exit", "/tasks/delete"):
                break
        else:
            index = 1
        log.error(f"event {self._queue[index].envelope.topic} is dropped: containerd has been away for too long")
        del self._queue[index]

    def _advance(self) -> None:
        if self._in_flight or not self._queue or self._timer is not None:
            return
        if self._sock is None and not self._connect():
            self._retry()
            return
        self._stream += 2
        self._out = methods.encode_request(
            self._stream,
            _EVENTS,
            "Forward",
            self._queue[0],
            timeout=_ANSWER_WITHIN,
            metadata={methods.NAMESPACE_KEY: self._namespace},
        )
        self._in_flight = True
        self._timer = self._loop.call_later(_ANSWER_WITHIN, self._lost)
        self._send()

    def _connect(self) -> bool:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(socket_path(self._address))
        except OSError as error:
            sock.close()
            if not self._told:
                log.warning(f"containerd is away ({error.strerror}): events wait")
                self._told = True
            return False
        self._sock = sock
        self._decoder = frame.Decoder()
        self._stream = -1
        self._loop.add(sock.fileno(), select.EPOLLIN, self._ready)
        return True

    def _send(self) -> None:
        assert self._sock is not None
        try:
            self._out = self._out[self._sock.send(self._out) :]
        except BlockingIOError:
            pass  # the rest goes when the socket is writable
        except OSError:
            self._lost()
            return
        self._loop.modify(self._sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if self._out else 0))

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._send()
        if self._sock is None or not events & ~select.EPOLLOUT:
            return
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        for answer in self._decoder.feed(data):
            if answer.stream == self._stream and self._in_flight:
                self._answered(answer)

    def _answered(self, answer: frame.Frame) -> None:
        self._in_flight = False
        self._cancel()
        try:
            methods.decode_response(answer, _FORWARD)
        except OrlopError as error:
            self._tries += 1
            if self._tries < _TRIES:
                self._retry()
                return
            log.error(f"event {self._queue[0].envelope.topic} is dropped: containerd answered: {error}")
        self._tries = 0
        self._pause = _FIRST_PAUSE
        self._told = False
        self._queue.popleft()
        self._advance()

    def _lost(self) -> None:
        """The connection broke, or containerd does not answer."""
        self._cancel()
        self._disconnect()
        if self._queue:
            self._retry()

    def _disconnect(self) -> None:
        self._in_flight = False
        if self._sock is not None:
            self._loop.remove(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _retry(self) -> None:
        self._timer = self._loop.call_later(self._pause, self._again)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _again(self) -> None:
        self._timer = None
        self._advance()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
