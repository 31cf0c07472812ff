# SPDX-License-Identifier: Apache-2.0
"""Loop devices: files as block devices (loop(4)), for mounts with the option `loop`."""

import errno
import fcntl
import os
import struct

from orlop.unix.mount import detached_mount

_CONTROL = "/dev/loop-control"
_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A  # Linux 5.8
_READ_ONLY, _AUTOCLEAR = 1, 4
# struct loop_config: descriptor, block size; of its loop_info64 flags and name; the rest is zero.
_CONFIG = struct.Struct("=II 40x 12xI 64s 96x 16x 64x")
_TRIES = 64  # each time somebody else takes the device that was free


def loop_mount(fstype: str, source: str, options: list[str]) -> int:
    """A detached mount of the file system in the file `source`. Raises OSError."""
    device, name = attach(source, read_only="ro" in options)
    try:
        return detached_mount(fstype, name, options)
    finally:
        os.close(device)


def attach(path: str, *, read_only: bool = False) -> tuple[int, str]:
    """A loop device of the file at `path`, open, and its name. It goes when the last one closes or unmounts it.

    The caller closes the descriptor once the device is mounted. Raises OSError.
    """
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    file = os.open(path, flags)
    try:
        config = _CONFIG.pack(file, 0, _AUTOCLEAR | (_READ_ONLY if read_only else 0), os.fsencode(path)[:63])
        for _ in range(_TRIES):
            control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
            try:
                name = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
            finally:
                os.close(control)
            device = os.open(name, flags)
            try:
                fcntl.ioctl(device, _CONFIGURE, config)
                return device, name
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
        raise OSError(errno.EBUSY, "no free loop device", path)
    finally:
        os.close(file)
