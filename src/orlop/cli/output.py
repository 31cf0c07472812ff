# SPDX-License-Identifier: Apache-2.0
"""Archives that a command writes: to a file, whole or not at all, or to standard output."""

import os
import sys
from collections.abc import Iterable

from orlop.cli.errors import ExitError


def check_path(path: str, what: str = "") -> None:
    """Raise ExitError where a file cannot be written at `path`; `what` begins the message."""
    prefix = f"{what}: invalid output path" if what else "invalid output path"
    directory = os.path.dirname(os.path.normpath(path))
    if directory and not os.path.isdir(directory):
        raise ExitError(f"{prefix}: stat {directory}: no such file or directory")
    try:
        mode = os.stat(path).st_mode & 0o170000
    except OSError:
        return
    if mode in (0o020000, 0o060000):
        raise ExitError(f'{prefix}: "{path}" must be a directory or a regular file: got a device')


def check_stdout() -> None:
    """Raise ExitError if standard output is a terminal, which an archive would confuse."""
    if sys.stdout.isatty():
        raise ExitError("cowardly refusing to save to a terminal. Use the -o flag or redirect")


def write_archive(chunks: Iterable[bytes], path: str) -> None:
    """Write to the file `path` (empty: standard output). The file appears when it is whole. Raises ExitError."""
    if not path:
        sys.stdout.flush()
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(1, view) :]
        return
    draft = f"{path}.tmp-{os.getpid()}"
    try:
        with open(draft, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
        os.replace(draft, path)
    except OSError as error:
        raise ExitError(f"open {path}: {(error.strerror or '').lower()}") from None
    finally:
        if os.path.exists(draft):
            os.unlink(draft)
