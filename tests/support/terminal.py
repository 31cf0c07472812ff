# SPDX-License-Identifier: Apache-2.0
"""A pseudo-terminal with a program in it, driven as a person would: type, wait for text, resize."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence

from support.containerd import wait_until
from support.pace import PACE


class Terminal:
    """`with Terminal(["docker", "run", "-it", …]) as terminal:`; the program ends with the block."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, rows: int = 24, columns: int = 80
    ) -> None:
        self._master, slave = os.openpty()
        self.resize(rows, columns, notify=False)
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - tests have no threads
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def resize(self, rows: int, columns: int, *, notify: bool = True) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if notify:
            os.killpg(self._process.pid, signal.SIGWINCH)

    def resize_until(self, rows: int, columns: int, arrived: Callable[[], bool]) -> None:
        """Resize until `arrived()`: a command tells a container the first size before it listens for the next."""

        def once() -> bool:
            self.resize(rows - 1, columns)
            self.resize(rows, columns)
            return arrived()

        wait_until(once, 30 * PACE)

    def expect(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        """Read until `pattern` has appeared; what comes up to its end is taken. Fails with what was there."""
        deadline = time.monotonic() + timeout * PACE
        while not (match := re.search(pattern, self.text)):
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{pattern!r} did not appear in {self.text!r}")
        self.text = self.text[match.end() :]
        return match

    def wait(self, timeout: float = 30) -> int:
        """The program's exit status; its last output is in `text`."""
        deadline = time.monotonic() + timeout * PACE
        while self._read(deadline - time.monotonic()):
            pass
        return self._process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, seconds))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the last process with the terminal open has gone
            return False
        self.text += data.decode(errors="replace")
        return bool(data)
