# SPDX-License-Identifier: Apache-2.0
"""Docker's `local` log, as a sink."""

import os

from orlop.rpc import logentry
from orlop.shim.io.logfile import LogFile


class _Frames:
    """The format as the file sees it."""

    crossing = staticmethod(logentry.crossing)

    @staticmethod
    def mend(fd: int, size: int) -> int:
        good = logentry.whole(fd, size)
        if good != size:
            os.ftruncate(fd, good)
        return good


class LocalLog(LogFile):
    """The `local` log of one process, as a sink."""

    def __init__(
        self, path: str, *, max_size: int = 0, max_file: int = 1, compress: bool = False, attrs: str = ""
    ) -> None:
        """`attrs` is the hexadecimal form of each entry's encoded attributes."""
        encoded = bytes.fromhex(attrs)
        encoders = {stream: logentry.Encoder(stream, encoded) for stream in (1, 2)}
        super().__init__(path, encoders, _Frames, max_size=max_size, max_file=max_file, compress=compress)
