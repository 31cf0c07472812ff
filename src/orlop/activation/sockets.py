# SPDX-License-Identifier: Apache-2.0
"""The sockets that the supervisor makes: the API's, its own, and the one for daemons to say they are ready."""

import contextlib
import errno
import grp
import os
import socket
import struct

API_GROUP = "docker"
_UCRED = struct.Struct("=iII")
_BACKLOG = 4096


def listen_api(path: str) -> socket.socket:
    """The Engine API's listening socket: for root and the group `docker`, or for root alone where there is none.

    Whoever may connect is root on this machine. Raises OSError, EADDRINUSE if somebody serves `path`.
    """
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.setblocking(False)
        # EAGAIN: its queue is full
        if client.connect_ex(path) in (0, errno.EAGAIN):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
    listener = _listen(path)
    try:
        with contextlib.suppress(KeyError):
            os.chown(path, -1, grp.getgrnam(API_GROUP).gr_gid)
            os.chmod(path, 0o660)
    except BaseException:
        listener.close()
        raise
    return listener


def listen_control(path: str) -> socket.socket:
    """The supervisor's own listening socket, for its user only. Raises OSError."""
    listener = _listen(path)
    listener.setblocking(False)
    return listener


def notify_socket(path: str) -> socket.socket:
    """The socket to which daemons send READY=1, with their credentials. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        notify.setblocking(False)
        notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        _bind(notify, path)
    except BaseException:
        notify.close()
        raise
    return notify


def read_notification(notify: socket.socket) -> tuple[int, list[bytes]]:
    """The sender's process id and the lines of a datagram. Raises BlockingIOError if there is none."""
    data, control, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(_UCRED.size))
    for level, kind, value in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return _UCRED.unpack_from(value)[0], data.split(b"\n")
    return 0, []


def extension(lines: list[bytes]) -> float:
    """The seconds that EXTEND_TIMEOUT_USEC= in a notification asks for (sd_notify(3)), 0 for none."""
    for line in lines:
        name, _, value = line.partition(b"=")
        if name == b"EXTEND_TIMEOUT_USEC" and value.isdigit():
            return int(value) / 1e6
    return 0.0


def steal_listener(pidfd: int, fd: int, path: str) -> socket.socket | None:
    """The API socket out of a running dockerd, if it has it at `fd`: a supervisor that crashed gave it."""
    from orlop.unix.process import pidfd_getfd

    try:
        taken = socket.socket(fileno=pidfd_getfd(pidfd, fd))
    except OSError:
        return None
    try:
        if taken.family == socket.AF_UNIX and taken.getsockname() == path and os.path.exists(path):
            return taken
    except OSError:
        pass  # not a socket of that kind: it is closed below
    taken.close()
    return None


def refuse_waiting(listener: socket.socket) -> None:
    """Close the connections that wait to be accepted: their clients see an error instead of waiting for ever."""
    blocking = listener.getblocking()
    listener.setblocking(False)
    try:
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            connection.close()
    finally:
        listener.setblocking(blocking)


def _listen(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        _bind(listener, path)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind(unbound: socket.socket, path: str) -> None:
    umask = os.umask(0o177)
    try:
        unbound.bind(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.umask(umask)
