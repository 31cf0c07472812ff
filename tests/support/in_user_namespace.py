# SPDX-License-Identifier: Apache-2.0
"""Execute a command as root of a user namespace, with mounts of its own: `in_user_namespace.py COMMAND…`.

Ids are those outside, up to 65,535; what differs is what root may do.
"""

import os
import sys

from orlop.unix.process import unshare

_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x20000


def main(command: list[str]) -> None:
    """Only a process outside may write the mappings, so a child stays there."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(ready, 1)
        for file in ("uid_map", "gid_map"):
            with open(f"/proc/{os.getppid()}/{file}", "w", encoding="ascii") as out:
                out.write("0 0 65536\n")
        os._exit(0)
    unshare(_CLONE_NEWUSER | _CLONE_NEWNS)
    os.write(tell, b"x")
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit("in_user_namespace: the mappings cannot be written")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
