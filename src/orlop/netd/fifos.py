# SPDX-License-Identifier: Apache-2.0
"""Reading ends of FIFOs, kept open so that what was written into them outlives its writer while dockerd is away.

Nothing is read here, and nobody is kept waiting: a FIFO's buffer goes with its last descriptor, whichever it is.
"""

import contextlib
import os
import stat
from collections.abc import Iterable

from orlop.errdefs import InvalidArgumentError


class Fifos:
    """Open FIFOs by owner."""

    def __init__(self) -> None:
        self._kept: dict[str, list[int]] = {}

    def take(self, owner: str, fds: Iterable[int]) -> None:
        """Keep FIFOs that are open already."""
        self._kept[owner] = list(fds)

    def keep(self, owner: str, paths: list[str]) -> list[int]:
        """Keep all of `paths` open for `owner`, in place of what it has; or none. Returns the descriptors.

        Raises OSError, and InvalidArgumentError for what is no FIFO.
        """
        with contextlib.ExitStack() as opened:
            fds = [_open(path, opened) for path in paths]
            self.drop(owner)
            self._kept[owner] = fds
            opened.pop_all()
        return fds

    def drop(self, owner: str) -> None:
        """Close what is kept for `owner`, if anything."""
        for fd in self._kept.pop(owner, ()):
            os.close(fd)

    def owners(self) -> list[str]:
        """Who has FIFOs here."""
        return list(self._kept)

    def close(self) -> None:
        """Close all."""
        for owner in self.owners():
            self.drop(owner)

    def forget_removed(self) -> list[str]:
        """Close FIFOs that have no name any more, and return their owners.

        A dockerd that died between removing a FIFO and saying so does not come back to it.
        """
        gone = [owner for owner, fds in self._kept.items() if not any(os.fstat(fd).st_nlink for fd in fds)]
        for owner in gone:
            self.drop(owner)
        return gone


def _open(path: str, opened: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        raise InvalidArgumentError(f"invalid paths: {path} is no fifo")
    return fd
