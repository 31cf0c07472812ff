# SPDX-License-Identifier: Apache-2.0
"""Errors of the disk as errors of the API: one clear line, and "full" told from the rest."""

import contextlib
import errno
import os
from collections.abc import Iterator

from orlop.errdefs import InternalError, ResourceExhaustedError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn an OSError inside the `with` into ResourceExhaustedError or InternalError that begins with `what`."""
    try:
        yield
    except OSError as error:
        message = f"{what}: {os.strerror(error.errno or errno.EIO)}"
        if error.errno in FULL:
            raise ResourceExhaustedError(message) from error
        raise InternalError(message) from error
