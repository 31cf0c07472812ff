# SPDX-License-Identifier: Apache-2.0
"""Descriptors that become readable when something happens: signalfd(2)."""

import ctypes
import os
import signal
import struct
from collections.abc import Iterable

from orlop.unix._libc import libc, oserror

SFD_CLOEXEC = os.O_CLOEXEC
SFD_NONBLOCK = os.O_NONBLOCK

_signalfd = libc.signalfd
_signalfd.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
_SIGINFO_SIZE = 128
_SIGSET_SIZE = 128


def signalfd(signals: Iterable[int]) -> int:
    """Block `signals` and return a non-blocking descriptor from which they are read (signalfd(2)).

    Children inherit the mask: `orlop.unix.process.reset_signals` undoes it before a program is executed.
    """
    numbers = list(signals)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    mask = sum(1 << (number - 1) for number in numbers).to_bytes(_SIGSET_SIZE, "little")
    fd: int = _signalfd(-1, mask, SFD_CLOEXEC | SFD_NONBLOCK)
    if fd < 0:
        raise oserror("signalfd")
    return fd


def read_signals(fd: int) -> list[int]:
    """The signals that have arrived on a signalfd; empty when there are none."""
    try:
        raw = os.read(fd, _SIGINFO_SIZE * 16)
    except BlockingIOError:
        return []
    return [struct.unpack_from("=I", raw, at)[0] for at in range(0, len(raw), _SIGINFO_SIZE)]
