# SPDX-License-Identifier: Apache-2.0
"""The conversation between the parent and the process it forked for a container.

    parent                          child
      |---- GO ------------------------>|   id maps are written, the child is in its control group
      |<--- WARNING text ---------------|   any number, at any time
      |<--- HOOKS ----------------------|   only with prestart or createRuntime hooks: the mounts are made
      |---- GO ------------------------>|   the hooks have run
      |<--- CONSOLE + descriptor -------|   only with a terminal
      |<--- SECCOMP + descriptor -------|   only with a seccomp listener
      |<--- READY ----------------------|   everything has been set up
      |---- GO (exec, if it holds) ---->|   limits are set; a container waits at its start socket instead
      |<--- ERROR kind, text -----------|   instead of any of the above; the child ends
      |<=== end of file ================|   the program runs

One message a packet of a SOCK_SEQPACKET pair: one byte of type, then its argument.

The parent's half is a generator, so that it can go on in a loop beside other things: it yields the descriptor that
has to be readable before it is resumed, and returns what the conversation was about.
"""

import _socket
import array
import os
from collections.abc import Generator
from typing import TypeVar

GO = b"G"
WARNING = b"W"
HOOKS = b"H"
CONSOLE = b"C"
SECCOMP = b"S"
READY = b"R"
ERROR = b"E"

_LONGEST = 1 << 17

T = TypeVar("T")
Conversation = Generator[int, None, T]


def at_once(conversation: Conversation[T]) -> T:
    """Hold a conversation to its end, waiting wherever it has to be waited."""
    while True:
        try:
            next(conversation)
        except StopIteration as end:
            result: T = end.value
            return result


class Channel:
    """One end of the conversation."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self.fd = sock.fileno()

    def send(self, kind: bytes, argument: bytes = b"", fd: int = -1) -> None:
        """Send one message, with a descriptor if `fd` is one."""
        if fd >= 0:
            rights = array.array("i", [fd]).tobytes()
            self._sock.sendmsg([kind + argument], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        else:
            self._sock.send(kind + argument)

    def receive(self) -> tuple[bytes, bytes, int]:
        """The next message: type, argument, descriptor or -1. Type b"" is the end of the conversation."""
        try:
            message, ancillary, _, _ = self._sock.recvmsg(_LONGEST, 64, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # Said once when the other end closed before it had read everything; what it sent is still here.
            message, ancillary, _, _ = self._sock.recvmsg(_LONGEST, 64, _socket.MSG_CMSG_CLOEXEC)
        fd = -1
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fd = array.array("i", data[:4])[0]
        return message[:1], message[1:], fd

    def receive_raw(self) -> bytes:
        """The next packet whole, or b"" at the end of the conversation."""
        return self._sock.recv(_LONGEST)

    def go(self) -> None:
        """Send GO. That the child has ended is not told here but by what it sent before."""
        try:
            self._sock.send(GO)
        except (BrokenPipeError, ConnectionResetError):
            return

    def wait_go(self) -> None:
        """Wait for the parent's GO; without a parent there is nothing left to do."""
        if self._sock.recv(1) != GO:
            os._exit(1)

    def close(self) -> None:
        """Close this end."""
        self._sock.close()


def pair() -> tuple[Channel, Channel]:
    """Both ends, close-on-exec."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)
