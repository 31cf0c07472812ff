# SPDX-License-Identifier: Apache-2.0
"""The one thing a runtime reads from a container's /etc/passwd: the home directory for $HOME."""

import os
import stat

_LARGEST = 1 << 20


def home_of(uid: int) -> str:
    """The home directory of user `uid` according to /etc/passwd as seen from here, or `/`.

    Read by hand: the C library's lookups load modules from the container. A name that looks like a number is not
    one: only the third field counts.
    """
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return "/"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "/"
        text = os.read(fd, _LARGEST).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)
    return home_in(text, uid)


def home_in(text: str, uid: int) -> str:
    """The same, of the text of a passwd(5)."""
    for line in text.split("\n"):
        fields = line.split(":")
        if len(fields) >= 6 and fields[2] == str(uid):
            return fields[5] or "/"
    return "/"
