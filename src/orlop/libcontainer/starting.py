# SPDX-License-Identifier: Apache-2.0
"""Letting a created container's init go on, also for callers that wait for its answer in a loop of their own."""

import _socket
import os
import select

from orlop.errdefs import FailedPreconditionError
from orlop.libcontainer.facts import START_SOCKET

_LONGEST = 1 << 17


def ask(directory: str) -> _socket.socket:
    """Tell the init of the container whose state is in `directory` to start; `answer` when the socket is readable.

    Never waits. Raises FailedPreconditionError when no init waits there.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A socket's path is limited to 107 bytes; the directory's is not.
            sock.connect(f"/proc/self/fd/{fd}/{START_SOCKET}")
            sock.send(b"start")
            os.unlink(START_SOCKET, dir_fd=fd)
        finally:
            os.close(fd)
    except OSError:
        sock.close()
        raise FailedPreconditionError("cannot start a container that has stopped") from None
    return sock


def await_program(directory: str, executable: str) -> None:
    """Have the container's program run, and return when it does. Raises what `ask` and `answer` do."""
    sock = ask(directory)
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    poller.poll()
    answer(sock, executable)


def answer(sock: _socket.socket, executable: str) -> None:
    """Take the answer: the program runs. Raises what keeps it from running. Closes the socket."""
    try:
        said = sock.recv(_LONGEST)
    except ConnectionResetError:
        raise FailedPreconditionError("cannot start a container that has stopped") from None
    finally:
        sock.close()
    if said:
        from orlop.libcontainer import parent

        raise parent.exec_error(said, executable)
