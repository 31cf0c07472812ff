# SPDX-License-Identifier: Apache-2.0
"""One conversation with one criu process: a request, notifications that are answered, the verdict."""

import _socket
import array
import os
import signal
from collections.abc import Callable

from orlop.errdefs import FailedPreconditionError, InternalError
from orlop.libcontainer.criu import wire
from orlop.libcontainer.errors import explain
from orlop.libcontainer.options import Stdio

_LONGEST = 64 << 10
_LINES_QUOTED = 6

# What a notification is handed to: its name, the process it is about, the descriptor that came with it or -1.
Notify = Callable[[str, int, int], None]


class Session:
    """A `criu swrk` with its socket; what it restores is a child of the caller's."""

    def __init__(self, stdio: Stdio | None = None, inherit: tuple[int, ...] = ()) -> None:
        """Start criu with `stdio` as its streams and `inherit` as its descriptors from 4 on.

        Raises FailedPreconditionError where there is no criu.
        """
        self._socket, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        streams = stdio or Stdio(0, 1, 2)
        # Moved up first, so that putting one in its place overwrites none that is still to be moved.
        moved = [_high(fd) for fd in (streams.stdin, streams.stdout, streams.stderr, theirs.fileno(), *inherit)]
        theirs.close()
        try:
            self.pid = os.posix_spawnp(
                "criu",
                ["criu", "swrk", "3"],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(moved)],
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGCHLD],
            )
        except OSError as error:
            self._socket.close()
            raise FailedPreconditionError(f"checkpoint and restore need CRIU: {explain(error)}") from error
        finally:
            for fd in moved:
                os.close(fd)

    def run(self, request: bytes, kind: int, notify: Notify) -> wire.Response:
        """Send a request and attend to criu until it answers. Raises InternalError when it fails."""
        self._socket.send(request)
        while True:
            try:
                message, ancillary, _, _ = self._socket.recvmsg(_LONGEST, 64, _socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                message, ancillary = b"", []  # it has not even read the request
            if not message:
                raise InternalError("criu ended without an answer")
            fd = _descriptor(ancillary)
            try:
                response = wire.Response(message)
                if not response.success:
                    reason = response.message or (os.strerror(response.errno) if response.errno else "see its log")
                    raise InternalError(f"criu failed: {reason.strip()}")
                if response.kind == kind:
                    return response
                if response.kind != wire.NOTIFY:
                    raise InternalError(f"criu: an answer of type {response.kind} to a request of type {kind}")
                notify(response.script, response.pid, fd)
            finally:
                if fd >= 0:
                    os.close(fd)
            self._socket.send(wire.request(wire.NOTIFY, notify_success=True))

    def close(self) -> None:
        """Hang up, which makes criu undo what it has not finished, and collect it."""
        self._socket.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            return  # the caller collects its children by itself


def require(feature: str) -> None:
    """Raise FailedPreconditionError unless criu and this kernel have the feature."""
    session = Session()
    try:
        found = session.run(
            wire.request(wire.FEATURE_CHECK, features=(feature,)), wire.FEATURE_CHECK, lambda *_: None
        ).features
    finally:
        session.close()
    if feature not in found:
        raise FailedPreconditionError(f"criu lacks {feature} on this kernel")


def quoting(error: BaseException, directory: str, name: str) -> InternalError:
    """The error with those that criu's log has, which say more."""
    quoted = _quote_errors(directory, name)
    return InternalError(f"criu failed: {quoted}" if quoted else explain(error))


def _quote_errors(directory: str, name: str) -> str:
    try:
        with open(f"{directory}/{name}", encoding="utf-8", errors="replace") as file:
            errors = [line.strip() for line in file if "Error" in line]
    except OSError:
        return ""
    return "; ".join(errors[-_LINES_QUOTED:]) + f" ({directory}/{name})" if errors else ""


def _high(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)


def _descriptor(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return int(array.array("i", data[:4])[0])
    return -1
