# SPDX-License-Identifier: Apache-2.0
"""Starts other programs: runtimes and loggers."""

import fcntl
import os
import signal
from collections.abc import Mapping

_FIRST_FREE = 32
_ALL_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def spawn(argv: list[str], env: Mapping[str, str], fds: Mapping[int, int]) -> int:
    """Execute `argv[0]` (looked up in PATH) with default signals; `fds` maps its descriptor numbers to ours.

    Every other descriptor of the shim is close-on-exec. Returns the pid. Raises OSError.
    """
    copies: list[int] = []
    actions: list[tuple[int, int, int]] = []
    try:
        for target, source in fds.items():
            moved = source
            if source < _FIRST_FREE:  # it may be the target of an earlier dup2
                moved = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
                copies.append(moved)
            actions.append((os.POSIX_SPAWN_DUP2, moved, target))
        return os.posix_spawnp(argv[0], argv, env, file_actions=actions, setsigmask=(), setsigdef=_ALL_SIGNALS)
    finally:
        for fd in copies:
            os.close(fd)
