# SPDX-License-Identifier: Apache-2.0
"""What ps shows for this process: the words of its command line, written over those it was started with."""

import os

ROOM = "x" * 400
"""An argument to start with, so that there is room for longer words later."""


def set_title(words: list[str]) -> None:
    """Replace the command line that /proc/self/cmdline shows, cut to the room there is (proc(5): arg_start)."""
    fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    finally:
        os.close(fd)
    start, end = int(fields[45]), int(fields[46])
    title = b"".join(os.fsencode(word) + b"\0" for word in words)[: end - start - 1]
    fd = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, title.ljust(end - start, b"\0"), start)
    finally:
        os.close(fd)
