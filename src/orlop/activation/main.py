# SPDX-License-Identifier: Apache-2.0
"""The supervisor's process: how `orlop daemon start` starts it, and what it does before it serves."""

import fcntl
import os
import sys

from orlop.activation import components, process
from orlop.activation.components import Component
from orlop.activation.layout import Layout
from orlop.errdefs import UnavailableError

_READY = b"ready"


def start(layout: Layout) -> None:
    """Start the supervisor of a layout in the background and wait until it takes requests.

    Raises UnavailableError with its own words.
    """
    argv = (sys.executable, "-P", "-m", "orlop.activation.main", *layout)
    start_as(argv, layout)


def start_as(argv: tuple[str, ...], layout: Layout) -> None:
    """`start`, by a given command, which has to write "ready" to descriptor 3."""
    prepare_directories(layout)
    read, write = os.pipe()
    process.spawn(argv, layout.log("daemon"), {}, write)
    os.close(write)
    with os.fdopen(read, "rb") as report:
        message = report.read()
    if message != _READY:
        text = message.decode(errors="replace") or f"it ended; its log is {layout.log('daemon')}"
        raise UnavailableError(f"cannot start the supervisor: {text}")


def prepare_directories(layout: Layout) -> None:
    """Make the directories of a layout. Raises OSError."""
    os.makedirs(layout.run_dir, mode=0o711, exist_ok=True)
    os.makedirs(layout.daemon_dir, mode=0o700, exist_ok=True)
    os.makedirs(layout.data_root, mode=0o700, exist_ok=True)
    os.makedirs(layout.log_dir, mode=0o750, exist_ok=True)


def serve(layout: Layout, table: tuple[Component, ...]) -> int:
    """Be the supervisor; "ready" or the reason why not is written to descriptor 3."""
    from orlop.activation.supervisor import Supervisor

    def report(message: bytes) -> None:
        os.write(process.LISTEN_FD, message)
        os.close(process.LISTEN_FD)

    os.set_inheritable(process.LISTEN_FD, False)
    # never closed: another one may begin when this process is gone
    lock = os.open(os.path.join(layout.daemon_dir, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report(b"another one is running or ending")
        return 1
    Supervisor(layout, table).serve(lambda: report(_READY))
    return 0


def main() -> int:
    """`python -m orlop.activation.main RUN_DIR DATA_ROOT LOG_DIR`."""
    layout = Layout(*sys.argv[1:4])
    return serve(layout, components.table(layout))


if __name__ == "__main__":
    sys.exit(main())
