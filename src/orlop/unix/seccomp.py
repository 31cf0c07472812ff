# SPDX-License-Identifier: Apache-2.0
"""seccomp(2): loads a filter into the calling thread."""

import ctypes

from orlop.unix._libc import NR, syscall

_SET_MODE_FILTER = 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def load_filter(program: bytes, flags: int) -> int:
    """Load an array of struct sock_filter; returns the notification descriptor with NEW_LISTENER, else 0.

    Needs CAP_SYS_ADMIN in the user namespace, or no_new_privs. Raises OSError.
    """
    code = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(code))
    return syscall(NR["seccomp"], _SET_MODE_FILTER, flags, ctypes.addressof(header))
