# SPDX-License-Identifier: Apache-2.0
"""Make the executable of a command: `python -IS -c '… capture.main(…)'`, in a process of its own."""

import ctypes
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable

from orlop.unix._libc import MACHINE, libc, oserror, syscall
from orlop.unix.machine_code import MAP_ANONYMOUS, MAP_PRIVATE, PAGE, PROT_READ, PROT_WRITE, map_memory
from orlop.unix.process import personality, reset_signals
from orlop.unix.unexec import elf, memory, wake
from orlop.unix.unexec.code import WOKEN, Code

_ADDR_NO_RANDOMIZE, _ADDR_COMPAT_LAYOUT = 0x0040000, 0x0200000  # personality(2)
_ARCH_GET_FS, _NR_ARCH_PRCTL = 0x1003, 158
_PR_GET_TID_ADDRESS = 40
_STACK_SIZE = 8 << 20
# Libraries that keep random numbers or keys in memory of their own.
_SECRETIVE = ("_ssl", "_hashlib", "cryptography", "grpc")
# What an x86-64 of today has and the first ones had not (glibc: manual, "Tunables").
_FEATURES = (
    "AVX512F", "AVX512VL", "AVX512BW", "AVX2", "AVX", "AVX_Fast_Unaligned_Load", "Fast_Unaligned_Copy", "ERMS",
    "FSRM", "XSAVEC", "XSAVE", "SSSE3", "SSE4_1", "SSE4_2", "MOVBE", "BMI1", "BMI2", "RTM", "LZCNT", "POPCNT",
)  # fmt: skip
ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "LD_BIND_NOW": "1",  # binding at the first call would save registers as this processor does
    "GLIBC_TUNABLES": ":".join((
        "glibc.malloc.arena_max=1",
        "glibc.malloc.trim_threshold=65536",
        "glibc.pthread.rseq=0",
        "glibc.cpu.hwcaps=" + ",".join(f"-{name}" for name in _FEATURES),
    )),
}  # fmt: skip
"""The environment of the interpreter that is captured."""


def possible() -> bool:
    """Whether such files can be made for this interpreter at all."""
    library = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    return MACHINE == "x86_64" and sys.implementation.name == "cpython" and bool(library)


def plain_layout(command: list[str]) -> None:
    """Execute the command with the layout of memory and the environment that are captured. Raises OSError."""
    personality(_ADDR_NO_RANDOMIZE | _ADDR_COMPAT_LAYOUT)
    os.execve(command[0], command, ENVIRONMENT)


def main(path: str, script: str, entry: str) -> None:
    """Write to `path` what goes on as the function that `entry` (`module:function`) names, and end this process.

    A module's `prepare`, if it has one, is called before. `script` is executed when the file is out of date.
    """
    module_name, _, function = entry.partition(":")
    module = importlib.import_module(module_name)
    prepare = getattr(module, "prepare", None)
    if prepare is not None:
        prepare()
    secretive = [name for name in _SECRETIVE if name in sys.modules]
    if secretive:
        sys.exit(f"{path}: {', '.join(secretive)} must not be loaded when the command is captured")
    run = getattr(module, function)
    reset_signals()  # whatever the caller has had ignored
    sys.exit(_in_a_thread_of_its_own(lambda: _write(path, script, run)))


def _in_a_thread_of_its_own(work: Callable[[], None]) -> int:
    """Do it in a child process whose only stack is not the one that the kernel places; its exit code.

    The child of a thread that forks has this thread only, and it is the main one for Python and for the C library.
    """
    statuses = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work()
                status = 0
            except (OSError, ValueError) as error:
                sys.stderr.write(f"{error}\n")
            finally:
                sys.stderr.flush()
                os._exit(status)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    threading.stack_size(_STACK_SIZE)
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    return statuses[0]


def _write(path: str, script: str, run: Callable[[], object]) -> None:
    code = Code(wake.inputs(), script)
    arguments = memory.arguments()
    size = arguments.end - arguments.start
    copy = map_memory(0, -(-size // PAGE) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)
    ctypes.memmove(copy, arguments.start, size)
    corrections = memory.Corrections(arguments, copy)
    tid_address, thread_pointer = _thread()
    gc.collect()
    gc.freeze()
    result = code.capture(tid_address, thread_pointer)
    if result == WOKEN:
        wake.wake(code.stack, run)
    try:
        with open(f"/proc/{result}/mem", "rb", buffering=0) as file:

            def read(region: elf.Region) -> bytes:
                length = region.end - region.start
                contents = os.pread(file.fileno(), length, region.start)
                if len(contents) != length:
                    raise ValueError(f"{region.name}: only {len(contents)} of {length} bytes could be read")
                return corrections(region, contents)

            elf.write(path, memory.regions(result), read, code.entry)
    finally:
        os.kill(result, signal.SIGKILL)
        os.waitpid(result, 0)


def _thread() -> tuple[int, int]:
    """Where the C library notes this thread's id, and the thread pointer. Raises OSError."""
    tid, pointer = ctypes.c_ulong(), ctypes.c_ulong()
    if libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(tid), 0, 0, 0):
        raise oserror()
    syscall(_NR_ARCH_PRCTL, _ARCH_GET_FS, ctypes.addressof(pointer))
    return tid.value, pointer.value
