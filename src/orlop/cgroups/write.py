# SPDX-License-Identifier: Apache-2.0
"""The executor of plans: writes values into the files of control groups, through directory descriptors."""

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from orlop.errdefs import FailedPreconditionError, InvalidArgumentError, OrlopError, PermissionDeniedError

if TYPE_CHECKING:
    from orlop.cgroups.plan import Write

_REFUSED = (errno.EINVAL, errno.EBUSY)


def execute(plan: "list[Write]", directory: Callable[[str], int], where: Callable[[str], str]) -> None:
    """Carry out a plan.

    `directory` gives the descriptor of a controller's directory, `where` its path (for errors). Raises
    InvalidArgumentError for a value that the kernel refuses, FailedPreconditionError for a file that it lacks.
    """
    refused: list[Write] = []
    for step in plan:
        try:
            _write(step, directory)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise explain(error, step, where) from None
            refused.append(step)
    for step in refused:
        try:
            _write(step, directory)
        except OSError as error:
            raise explain(error, step, where) from None


def write_file(directory: int, name: str, *values: str) -> None:
    """Open a file once and write each value with a write(2) of its own. Raises OSError."""
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
    try:
        for value in values:
            os.write(fd, value.encode())
    finally:
        os.close(fd)


def read_file(directory: int, name: str) -> str:
    """The content of a file of a control group. Raises OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
    try:
        content = os.read(fd, 65536)
        while more := os.read(fd, 65536):
            content += more
    finally:
        os.close(fd)
    return content.decode()


def _write(step: "Write", directory: Callable[[str], int]) -> None:
    controller, file, value = step
    fd = directory(controller)
    if "|" in file:
        first, _, second = file.partition("|")
        value_first, _, value_second = value.partition("|")
        try:
            write_file(fd, first, value_first)
        except FileNotFoundError:
            write_file(fd, second, value_second or value_first)
        return
    optional = file.startswith("?")
    try:
        write_file(fd, file.removeprefix("?"), value)
    except FileNotFoundError:
        if not optional:
            raise


def explain(error: OSError, step: "Write", where: Callable[[str], str]) -> OrlopError:
    """The error for the user of a write that failed."""
    controller, file, value = step
    name = file.removeprefix("?").rpartition("|")[2]
    path = f"{where(controller)}/{name}"
    if error.errno == errno.ENOENT:
        return FailedPreconditionError(f"cannot set {name} to {value!r}: the kernel has no {path}")
    reason = os.strerror(error.errno or 0).lower()
    if error.errno == errno.EBUSY and "memory" in name:
        reason = f"more memory is in use than the limit allows ({reason})"
    if error.errno in (errno.EINVAL, errno.EBUSY, errno.ERANGE, errno.ENODEV):
        return InvalidArgumentError(f"cannot set {path} to {value!r}: {reason}")
    return PermissionDeniedError(f"cannot set {path} to {value!r}: {reason}")
