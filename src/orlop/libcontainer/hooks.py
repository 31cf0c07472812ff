# SPDX-License-Identifier: Apache-2.0
"""Running the hooks of a spec: programs that get the container's state on standard input."""

import os
import select
import signal

from orlop.errdefs import InternalError
from orlop.libcontainer.errors import explain
from orlop.libcontainer.journal import warn
from orlop.oci.runtime import Hook
from orlop.unix.process import pidfd_open

_OUTPUT_LIMIT = 64 << 10


def run_hooks(kind: str, hooks: list[Hook], state: bytes) -> None:
    """Run `hooks` one after the other with `state` (JSON) on standard input.

    Raises InternalError naming the hook and quoting its output at the first that fails or outlives its timeout.
    """
    for index, hook in enumerate(hooks):
        try:
            _run(hook, state)
        except (OSError, InternalError) as error:
            raise InternalError(f"error running {kind} hook #{index}: {explain(error)}") from error


def run_all_hooks(kind: str, hooks: list[Hook], state: bytes) -> None:
    """Run every one of `hooks`; one that fails is warned about and does not keep the others from running."""
    for index, hook in enumerate(hooks):
        try:
            _run(hook, state)
        except (OSError, InternalError) as error:
            warn(f"error running {kind} hook #{index}: {explain(error)}")


def _run(hook: Hook, state: bytes) -> None:
    stdin_read, stdin_write = os.pipe()
    output_read, output_write = os.pipe()
    try:
        # posix_spawn: no copy of this process's memory, and the hook gets plain signals.
        pid = os.posix_spawn(
            hook.path,
            hook.args or [hook.path],
            dict(entry.partition("=")[::2] for entry in hook.env),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin_read, 0),
                (os.POSIX_SPAWN_DUP2, output_write, 1),
                (os.POSIX_SPAWN_DUP2, output_write, 2),
            ],
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD],
        )
    except BaseException:
        for fd in (stdin_read, stdin_write, output_read, output_write):
            os.close(fd)
        raise
    os.close(stdin_read)
    os.close(output_write)
    try:
        _feed(stdin_write, state)
        status, output = _wait(pid, output_read, hook.timeout)
    finally:
        os.close(output_read)
    if status != 0:
        what = f"exit status {status}" if status > 0 else f"signal: {_signal_name(-status)}"
        raise InternalError(f"{what}, output: {output.decode(errors='replace').strip()}")


def _feed(fd: int, state: bytes) -> None:
    # A state is smaller than a pipe's buffer (64 KiB), or the hook reads it: this does not wait for long.
    old = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        view = memoryview(state)
        while view:
            view = view[os.write(fd, view) :]
    except BrokenPipeError:
        return  # a hook need not read its input
    finally:
        signal.signal(signal.SIGPIPE, old)
        os.close(fd)


def _wait(pid: int, output: int, timeout: int | None) -> tuple[int, bytes]:
    pidfd = pidfd_open(pid)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(output, select.POLLIN)
    deadline = None if timeout is None else os.times().elapsed + timeout
    collected = bytearray()
    try:
        while True:
            left = None if deadline is None else max(0, int((deadline - os.times().elapsed) * 1000))
            ready = dict(poller.poll(left))
            if not ready:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise InternalError(f"hook ran past specified timeout of {timeout}.0s")
            if output in ready:
                chunk = os.read(output, 65536)
                if not chunk:
                    poller.unregister(output)
                collected += chunk[: _OUTPUT_LIMIT - len(collected)]
            elif pidfd in ready:
                # What a background child of the hook still writes is nobody's.
                _, status = os.waitpid(pid, 0)
                return os.waitstatus_to_exitcode(status), bytes(collected)
    finally:
        os.close(pidfd)


def _signal_name(number: int) -> str:
    # Not signal.Signals: this runs in the container's child too, where nothing may be imported.
    for name, value in vars(signal).items():
        if value == number and name.startswith("SIG") and not name.startswith("SIG_"):
            return name
    return str(number)
