# SPDX-License-Identifier: Apache-2.0
"""Files with a file system in them, made by mkfs(8) for mounts that ask for one."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from orlop.errdefs import FailedPreconditionError, InvalidArgumentError
from orlop.unix import fs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.containerd.plugins.mount_plan import Image

_TIMEOUT = 300.0  # seconds that mkfs may take
_BENEATH = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS


def make_image(wanted: Image, roots: Sequence[str]) -> None:
    """Make the file, unless it is there; it has its name when it is whole.

    Raises InvalidArgumentError for one that is below none of `roots`, FailedPreconditionError where mkfs is
    missing or fails.
    """
    path = os.path.normpath(wanted.path)
    root = next((each for each in roots if path.startswith(f"{each}/")), None)
    if root is None:
        raise InvalidArgumentError(f"make file system {wanted.path}: expected a file below {' or '.join(roots)}")
    above, name = os.path.split(os.path.relpath(path, root))
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    top = os.open(root, flags)
    try:
        directory = fs.openat2(top, above or ".", flags, _BENEATH)
    except OSError as error:
        raise InvalidArgumentError(f"make file system {wanted.path}: {error.strerror}") from None
    finally:
        os.close(top)
    try:
        if name not in os.listdir(f"/proc/self/fd/{directory}"):
            _make(wanted, directory, name)
    finally:
        os.close(directory)


def _make(wanted: Image, directory: int, name: str) -> None:
    staging = f".{name}.new"
    file = os.open(
        staging, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory
    )
    try:
        os.ftruncate(file, wanted.size)
        _run(wanted, file)
        os.rename(staging, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(staging, dir_fd=directory)
        raise
    finally:
        os.close(file)


def _run(wanted: Image, file: int) -> None:
    program = f"mkfs.{wanted.type}"
    uuid = (["-m", f"uuid={wanted.uuid}"] if wanted.type == "xfs" else ["-U", wanted.uuid]) if wanted.uuid else []
    try:
        done = subprocess.run(
            [program, "-q", *uuid, f"/proc/self/fd/{file}"],
            pass_fds=(file,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise FailedPreconditionError(f"make file system {wanted.path}: {program} is not installed") from None
    except subprocess.TimeoutExpired:
        raise FailedPreconditionError(f"make file system {wanted.path}: {program} took too long") from None
    if done.returncode:
        raise FailedPreconditionError(f"make file system {wanted.path}: {program}: {done.stderr.strip()}")
