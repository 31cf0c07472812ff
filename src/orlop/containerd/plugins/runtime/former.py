# SPDX-License-Identifier: Apache-2.0
"""The zygote of a former daemon: noted while it lives, and ended before its successor looks for shims.

A zygote ends when its daemon dies, but may be forking then: a shim that comes after the new daemon has looked at
the bundles would belong to nobody. Once the zygote is gone there are no more, and each that there is listens.
"""

from __future__ import annotations

import logging
import os
import select
import signal

log = logging.getLogger("containerd.zygote")

_FILE = "zygote"
_PATIENCE_MS = 10_000


def note_zygote(state: str, pid: int) -> None:
    """Note the zygote of the daemon whose volatile directory is `state`."""
    path = os.path.join(state, _FILE)
    temporary = path + ".new"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(f"{pid} {_start_time(pid)}")
    os.rename(temporary, path)


def end_former_zygote(state: str) -> None:
    """End the zygote that a former daemon noted, if it is still there, and wait until it has ended."""
    try:
        with open(os.path.join(state, _FILE), encoding="ascii") as file:
            pid, started = map(int, file.read().split())
        pidfd = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return
    try:
        if _start_time(pid) != started:
            return  # another process has its number now
        log.warning("the zygote (pid %d) of a former containerd is still there: ending it", pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(_PATIENCE_MS):
            log.error("the zygote (pid %d) of a former containerd does not end", pid)
    except ProcessLookupError:
        pass  # it has just ended by itself
    finally:
        os.close(pidfd)


def _start_time(pid: int) -> int:
    """When a process began, in clock ticks since boot (proc(5)); 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0
