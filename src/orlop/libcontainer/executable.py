# SPDX-License-Identifier: Apache-2.0
"""Finding a process's program in the container, with the error texts that Docker turns into 126 and 127."""

import errno
import os
import stat

from orlop.errdefs import InvalidArgumentError, NotFoundError, PermissionDeniedError
from orlop.libcontainer.errors import explain
from orlop.unix import fs


def find_executable(name: str, path: str | None) -> str:
    """The path of program `name` as execvp(3) would find it along `path`, as seen from here.

    Raises NotFoundError (`exec: "foo": executable file not found in $PATH`) or PermissionDeniedError.
    """
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if "/" in name:
        try:
            if _is_executable(name):
                return name
        except OSError as error:
            raise NotFoundError(f"exec: {quoted}: stat {explain(error)}") from None
        reason = "is a directory" if os.path.isdir(name) else "permission denied"
        raise PermissionDeniedError(f"exec: {quoted}: {reason}")
    for directory in (path or "").split(":"):
        candidate = f"{directory or '.'}/{name}"
        try:
            if _is_executable(candidate):
                if not candidate.startswith("/"):
                    raise InvalidArgumentError(
                        f"exec: {quoted}: cannot run executable found relative to current directory"
                    )
                return candidate
        except OSError:
            continue
    raise NotFoundError(f"exec: {quoted}: executable file not found in $PATH")


def _is_executable(path: str) -> bool:
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        return False
    if not status.st_mode & 0o111:
        return False
    try:
        fs.faccessat2(path, os.X_OK)
    except OSError as error:
        # A seccomp profile older than the call, or an older kernel: the mode has to do, and the exec decides.
        return error.errno in (errno.EPERM, errno.ENOSYS)
    return True
