# SPDX-License-Identifier: Apache-2.0
"""orlopd that dies at the n-th thing it does to the world after SIGUSR2: a program, run in place of orlopd.

What it does is seen from outside of its code: files made and removed (audit events), statements of its database,
calls of containerd, of orlop-netd and of the kernel's thread, mounts. DIE_AT is n (0: never), EFFECTS a file that
gets a line for each.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from typing import Any

_AUDITED = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"})
_MAKING = os.O_CREAT | os.O_TRUNC
_MOUNTING = ("mount", "umount2", "move_mount")

die_at = int(os.environ["DIE_AT"])
effects = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
armed = False
count = 0


def effect(what: str) -> None:
    """Something is about to be done."""
    global count
    if not armed:
        return
    count += 1
    os.write(effects, f"{what}\n".encode())
    if count == die_at:
        os.kill(os.getpid(), signal.SIGKILL)


def arm(_number: int, _frame: object) -> None:
    global armed
    armed = True
    os.write(effects, b"armed\n")


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _AUDITED or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _MAKING):
        effect(f"{event} {arguments[0]!r}")


def watch_database() -> None:
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(
            lambda text: None if text.startswith("SELECT") else effect(f"sql {text[:40]}")
        )
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]


def watch_system_calls() -> None:
    """Before anybody else has imported the function."""
    from orlop.unix import _libc

    call, numbers = _libc.syscall, {_libc.NR[name]: name for name in _MOUNTING}

    def watched(number: int, *arguments: Any, **options: Any) -> int:
        if number in numbers:
            effect(numbers[number])
        return call(number, *arguments, **options)

    _libc.syscall = watched


def watch_calls() -> None:
    """Before and after: what is told and what is known of the answer are two things."""
    from orlop.containerd.client.base import Service
    from orlop.dockerd.network.kernel import KernelThread
    from orlop.netd.client import NetdClient

    def around(owner: type, name: str, tell: Any) -> None:
        original = getattr(owner, name)

        async def watched(self: Any, *arguments: Any, **options: Any) -> Any:
            what = tell(*arguments)
            effect(what)
            answer = await original(self, *arguments, **options)
            effect(f"{what} done")
            return answer

        setattr(owner, name, watched)

    around(Service, "_call", lambda method, request, *_: f"containerd {type(request).__name__}")
    around(KernelThread, "call", lambda function, *_: f"kernel {getattr(function, '__name__', function)}")
    around(NetdClient, "_request", lambda message, *_: f"netd {message['op']}")


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, arm)
    watch_database()
    watch_system_calls()
    watch_calls()
    from orlop.dockerd.main import main

    sys.addaudithook(audit)
    sys.exit(main(sys.argv[1:]))
