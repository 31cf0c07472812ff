# SPDX-License-Identifier: Apache-2.0
"""A program of 238 bytes in sealed memory that stands between this interpreter and the user's program.

While a process executes the user's program, the kernel may take /proc/self/exe for what has been running until
then: `#!/proc/self/exe` in a container would run the host's interpreter on the container's libraries, with a
descriptor from which its file can be opened for writing (CVE-2019-5736). With the trampoline in between, what has
been running is a sealed memory file. It costs one more execve, some 0.1 ms.

Its arguments are the decimal number of a report descriptor, the path of the program, and the program's arguments;
it keeps the environment. It marks the descriptor close-on-exec and executes the program; if that fails it writes
the negated error number, 8 bytes, to the descriptor. So the reader sees the end of file when the program runs.
Called any other way, as by such a script, it exits with 126.
"""

import fcntl
import os
import struct

from orlop.oci.runtime import Seccomp
from orlop.unix._libc import MACHINE
from orlop.unix.fs import (
    F_ADD_SEALS,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_EXEC,
    memfd_create,
)

# mov rbx,[rsp]; lea rbp,[rsp+8]; mov rsi,[rbp]; xor r12d,r12d; mov edi,126    argc, argv
# 1: movzx eax,byte [rsi]; test al,al; jz 2f; sub al,48; cmp al,9; ja 3f
#    lea r12d,[r12+r12*4]; lea r12d,[rax+r12*2]; inc rsi; jmp 1b               r12d = number in argv[0]
# 2: mov edi,r12d; mov eax,72; mov esi,2; mov edx,1; syscall                   fcntl(r12d, F_SETFD, FD_CLOEXEC)
#    mov rdi,[rbp+8]; lea rsi,[rbp+16]; lea rdx,[rbp+rbx*8+8]
#    mov eax,59; syscall                                                       execve(argv[1], argv+2, environ)
#    push rax; mov edi,r12d; mov rsi,rsp; mov edx,8; mov eax,1; syscall        write(r12d, &rax, 8)
#    mov edi,127
# 3: mov eax,231; syscall                                                      exit_group(edi)
_X86_64 = bytes.fromhex(
    "488b1c24488d6c2408488b75004531e4bf7e0000000fb60684c074132c303c09774d478d24a4468d246048ffc6ebe644"
    "89e7b848000000be02000000ba010000000f05488b7d08488d7510488d54dd08b83b0000000f05504489e74889e6ba08"
    "000000b8010000000f05bf7f000000b8e70000000f05"
)
_BASE = 0x400000
_HEADERS = 64 + 56
_CALLS = ("execve", "execveat", "fcntl", "write", "exit_group")
_ALLOWING = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")


def available(profile: Seccomp | None) -> bool:
    """Whether there is a trampoline for this machine and the seccomp profile lets it work."""
    if MACHINE != "x86_64":
        return False
    if profile is None or profile.default_action in _ALLOWING:
        return profile is None or not any(
            set(_CALLS) & set(entry.names) for entry in profile.syscalls if entry.action not in _ALLOWING
        )
    allowed = {
        name for entry in profile.syscalls if entry.action in _ALLOWING and not entry.args for name in entry.names
    }
    return allowed.issuperset(_CALLS)


def create() -> int:
    """A descriptor of the trampoline, for `arguments` and execveat(2); -1 where executable memory is refused."""
    flags = MFD_CLOEXEC | MFD_ALLOW_SEALING
    try:
        fd = memfd_create("orlop", flags | MFD_EXEC)
    except OSError:
        try:
            fd = memfd_create("orlop", flags)  # Linux before 6.3 knows no MFD_EXEC
        except OSError:
            return -1
    os.write(fd, _image())
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
    return fd


def arguments(report: int, executable: str, args: list[str]) -> list[str]:
    """What to execute the trampoline with."""
    return [str(report), executable, *args]


def failure(answer: bytes) -> int:
    """The error number in what the trampoline wrote, or 0 if that is something else."""
    if len(answer) == 8:
        (number,) = struct.unpack("<q", answer)
        if -4096 < number < 0:
            return int(-number)
    return 0


def _image() -> bytes:
    """An ELF file of one segment: its headers and the code."""
    size = _HEADERS + len(_X86_64)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + _X86_64
