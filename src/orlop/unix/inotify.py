# SPDX-License-Identifier: Apache-2.0
"""inotify(7): a descriptor that becomes readable when a watched file changes."""

import ctypes
import os
import struct

from orlop.unix._libc import Path, cstring, libc, oserror

IN_MODIFY = 0x2
IN_CLOSE_WRITE = 0x8
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_IGNORED = 0x8000

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC

_init = libc.inotify_init1
_init.restype, _init.argtypes = ctypes.c_int, [ctypes.c_int]
_add = libc.inotify_add_watch
_add.restype, _add.argtypes = ctypes.c_int, [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


_remove = libc.inotify_rm_watch
_remove.restype, _remove.argtypes = ctypes.c_int, [ctypes.c_int, ctypes.c_int]
_EVENT = struct.Struct("=iIII")


def watch(path: Path, mask: int) -> int:
    """A new non-blocking inotify descriptor that watches one path for the events in `mask`."""
    fd = init()
    try:
        add(fd, path, mask)
    except OSError:
        os.close(fd)
        raise
    return fd


def init() -> int:
    """A new non-blocking inotify descriptor that watches nothing yet."""
    fd: int = _init(_NONBLOCK_CLOEXEC)
    if fd < 0:
        raise oserror()
    return fd


def add(fd: int, path: Path, mask: int) -> int:
    """Watch one path more; the number by which its events are known (the same one for the same path)."""
    number: int = _add(fd, cstring(path), mask)
    if number < 0:
        raise oserror(path)
    return number


def remove(fd: int, number: int) -> None:
    """Watch a path no more; it may have gone by itself."""
    _remove(fd, number)


def events(fd: int) -> list[tuple[int, int]]:
    """Number and mask of each event that is waiting."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return []
    found = []
    at = 0
    while at < len(data):
        number, mask, _, length = _EVENT.unpack_from(data, at)
        found.append((number, mask))
        at += _EVENT.size + length
    return found


def drain(fd: int) -> None:
    """Read away what is waiting, so that the descriptor is readable only for the next event."""
    try:
        os.read(fd, 65536)
    except BlockingIOError:
        return
