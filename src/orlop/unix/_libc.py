# SPDX-License-Identifier: Apache-2.0
"""The one handle to the C library, and the raw system call with its error reporting."""

import ctypes
import os
import sys

Path = str | bytes
Word = int | bytes | None | ctypes.Array[ctypes.c_char]

libc = ctypes.CDLL(None, use_errno=True)

_syscall = libc.syscall
_syscall.restype = ctypes.c_long
# c_void_p takes integers of the full word (negative ones too), bytes, arrays and None: every kind of argument but
# structures, whose address stands for them.
_syscall.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 6
_PADDING = tuple((0,) * (6 - given) for given in range(7))

# Numbers of the calls, per architecture (asm/unistd_64.h, asm-generic/unistd.h); from 424 on they are common.
_COMMON = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "faccessat2": 439,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "statmount": 457,
    "listmount": 458,
}
_X86_64 = {
    "capget": 125,
    "capset": 126,
    "setgroups": 116,
    "personality": 135,
    "pivot_root": 155,
    "prctl": 157,
    "mount": 165,
    "umount2": 166,
    "sethostname": 170,
    "setdomainname": 171,
    "set_mempolicy": 238,
    "add_key": 248,
    "keyctl": 250,
    "ioprio_set": 251,
    "unshare": 272,
    "prlimit64": 302,
    "setns": 308,
    "sched_setattr": 314,
    "seccomp": 317,
    "memfd_create": 319,
    "bpf": 321,
    "execveat": 322,
}
_AARCH64 = {
    "ioprio_set": 30,
    "umount2": 39,
    "mount": 40,
    "pivot_root": 41,
    "capget": 90,
    "capset": 91,
    "personality": 92,
    "unshare": 97,
    "setgroups": 159,
    "sethostname": 161,
    "setdomainname": 162,
    "prctl": 167,
    "add_key": 217,
    "keyctl": 219,
    "set_mempolicy": 237,
    "prlimit64": 261,
    "setns": 268,
    "sched_setattr": 274,
    "seccomp": 277,
    "memfd_create": 279,
    "bpf": 280,
    "execveat": 281,
}
MACHINE = os.uname().machine
NR: dict[str, int] = _COMMON | (_AARCH64 if MACHINE == "aarch64" else _X86_64)


def oserror(name: Path | None = None, number: int = 0) -> OSError:
    """The OSError for the errno of the last call (or for `number`), about `name`."""
    number = number or ctypes.get_errno()
    text = os.strerror(number)
    return OSError(number, text) if name is None else OSError(number, text, name)


def syscall(number: int, *args: Word, about: Path | None = None) -> int:
    """Make system call `number`; of a structure give the address. Raises OSError about `about`."""
    result: int = _syscall(number, *args, *_PADDING[len(args)])
    if result == -1:
        raise oserror(about)
    return result


def cstring(path: Path) -> bytes:
    """The bytes of a path for the kernel. Raises ValueError for an embedded null byte."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError(f"embedded null byte in {path!r}")
    return raw


if MACHINE not in ("x86_64", "aarch64") or sys.maxsize < 2**32:
    raise ImportError(f"orlop runs on 64-bit x86 and arm, not on {MACHINE}")
