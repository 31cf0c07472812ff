# SPDX-License-Identifier: Apache-2.0
"""The parent's side of making a process: what only it can do, and its half of the conversation (see `sync`)."""

import _socket
import array
import os
import signal
from collections.abc import Callable

from orlop.errdefs import InternalError, InvalidArgumentError, OrlopError
from orlop.libcontainer import sync, trampoline
from orlop.libcontainer.errors import explain, unpack
from orlop.libcontainer.journal import warn
from orlop.libcontainer.program import exec_failure, set_rlimits
from orlop.oci.runtime import IDMapping, Process


def write_id_maps(pid: int, uids: list[IDMapping], gids: list[IDMapping]) -> None:
    """Give the user namespace of `pid` its mappings. Raises InvalidArgumentError."""
    for file, mappings in (("uid_map", uids), ("gid_map", gids)):
        lines = "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)
        try:
            _write(f"/proc/{pid}/{file}", lines)
        except OSError as error:
            raise InvalidArgumentError(f"linux.{file[:3]}Mappings: {explain(error)}") from error


def set_oom_score(pid: int, score: int | None) -> None:
    """Set oom_score_adj; one that may not be lowered here is reported and left."""
    if score is None:
        return
    try:
        _write(f"/proc/{pid}/oom_score_adj", str(score))
    except ProcessLookupError:
        return  # it has ended already, and `converse` will hear why
    except PermissionError:
        # Lowering takes CAP_SYS_RESOURCE, which many machines do not have.
        warn(f"process.oomScoreAdj {score} is below what the runtime may set")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def converse(
    channel: sync.Channel,
    pid: int,
    process: Process,
    *,
    hand_on_seccomp: Callable[[int], None],
    run_hooks: Callable[[], None] | None = None,
    late_rlimits: bool = False,
) -> sync.Conversation[int | None]:
    """Listen to the child until it is ready; returns the terminal's master if it has handed one over.

    Raises what the child reports. On any error the caller ends the child with `reap`.
    """
    console: int | None = None
    try:
        while True:
            yield channel.fd
            kind, argument, fd = channel.receive()
            if kind == sync.READY:
                if late_rlimits:
                    for warning in set_rlimits(pid, process.rlimits):
                        warn(warning)
                return console
            if kind == sync.WARNING:
                warn(argument.decode(errors="replace"))
            elif kind == sync.HOOKS:
                if run_hooks is not None:
                    run_hooks()
                channel.go()
            elif kind == sync.CONSOLE:
                console = fd
            elif kind == sync.SECCOMP:
                # At once: the child may be stopped by its own filter until the agent lets it go on.
                try:
                    hand_on_seccomp(fd)
                finally:
                    os.close(fd)
            elif kind == sync.ERROR:
                raise unpack(argument, _prefix(argument))
            else:
                raise InternalError("container init ended without a word (killed, or out of memory)")
    except BaseException:
        if console is not None:
            os.close(console)
        raise


def await_exec(channel: sync.Channel, executable: str) -> sync.Conversation[None]:
    """Wait until the child's program runs. Raises what the child, or the trampoline, reports instead."""
    yield channel.fd
    answer = channel.receive_raw()
    if answer:
        raise exec_error(answer.removeprefix(sync.ERROR), executable)


def exec_error(answer: bytes, executable: str) -> OrlopError:
    """The error in what came instead of the end of the conversation."""
    number = trampoline.failure(answer)
    return exec_failure(executable, number) if number else unpack(answer)


def _prefix(argument: bytes) -> str:
    # The words that Docker and Kubernetes look for come first: exec: "foo": executable file not found in $PATH
    return "" if argument.partition(b"\n")[2].startswith(b"exec: ") else "error during container init: "


def reap(pid: int, pidfd: int) -> None:
    """Kill the child of a failed attempt and collect it."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        # The caller collects its children by itself (SIGCHLD ignored, or a reaping loop).
        return


def send_descriptor(path: str, message: bytes, fd: int) -> None:
    """Hand a descriptor with a message to whoever listens at the Unix socket `path`.

    Raises InvalidArgumentError.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
        rights = array.array("i", [fd]).tobytes()
        sock.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    except OSError as error:
        raise InvalidArgumentError(f"cannot send a descriptor to {path}: {explain(error)}") from error
    finally:
        sock.close()


def write_pid_file(path: str, pid: int) -> None:
    """Write the process id, atomically: a reader sees none or all of it."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, str(pid).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)
