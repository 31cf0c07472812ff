# SPDX-License-Identifier: Apache-2.0
"""Machine code (x86-64): a function that returns once more, in another process, and that process's entry point."""

import ctypes
import os
from typing import NamedTuple

from orlop.unix.machine_code import MAP_ANONYMOUS, MAP_PRIVATE, PAGE, PROT_READ, PROT_WRITE, map_code, map_memory

WOKEN = -1
"""What the call returns in the new process; in the captured one it returns the id of its motionless copy."""

# Words of the memory that the code and Python share: 0 to 6 are the registers, then the new process's stack (as
# the kernel has made it), where the C library notes its thread's id, the thread pointer, address and number of the
# inputs, address of the script's path.
_STACK, _TID, _THREAD, _INPUTS, _NUMBER, _SCRIPT = range(7, 13)

# long capture(void)
#       mov rax,SHARED
#       mov [rax],rbx; mov [rax+8],rbp; mov [rax+16],r12; mov [rax+24],r13; mov [rax+32],r14; mov [rax+40],r15
#       mov [rax+48],rsp
#       mov eax,57; syscall                     fork: the copy has the memory of this very moment
#       test eax,eax; jz 1f; cdqe; ret
#    1: mov eax,34; syscall; jmp 1b             pause, until it has been read and is killed
# entry point
#       mov rbx,SHARED
#       mov [rbx+56],rsp
#       mov r12,[rbx+80]; mov r13,[rbx+88]
#    1: test r13,r13; jz 3f                     each input: stat, and size, seconds and nanoseconds of its change
#       mov eax,4; mov rdi,[r12]; lea rsi,[rsp-512]; syscall; test eax,eax; jnz 2f
#       mov rax,[rsi+48]; cmp rax,[r12+8]; jne 2f
#       mov rax,[rsi+88]; cmp rax,[r12+16]; jne 2f
#       mov rax,[rsi+96]; cmp rax,[r12+24]; jne 2f
#       add r12,32; dec r13; jmp 1b
#    2: mov rdi,[rbx+96]; lea rsi,[rsp+8]; mov rcx,[rsp]; lea rdx,[rsp+8*rcx+16]
#       mov eax,59; syscall                     not what it was: execve(script, argv, envp)
#       mov edi,126; mov eax,231; syscall       exit_group
#    3: mov eax,158; mov edi,0x1002; mov rsi,[rbx+72]; syscall          arch_prctl(ARCH_SET_FS, thread pointer)
#       mov eax,218; mov rdi,[rbx+64]; syscall                          set_tid_address
#       mov rcx,[rbx+64]; mov [rcx],eax         raise(3) goes by this
#       mov rax,rbx
#       mov rbx,[rax]; mov rbp,[rax+8]; mov r12,[rax+16]; mov r13,[rax+24]; mov r14,[rax+32]; mov r15,[rax+40]
#       mov rsp,[rax+48]
#       mov rax,-1; ret
_CAPTURE = bytes.fromhex(
    "488918488968084c8960104c8968184c8970204c89782848896030b8390000000f0585c074034898c3b8220000000f05ebf7"
)
_ENTRY = bytes.fromhex(
    "488963384c8b63504c8b6b584d85ed7466b804000000498b3c24488db42400feffff0f0585c0752a488b4630493b4424"
    "08751f488b4658493b4424107514488b4660493b44241875094983c42049ffcdebba488b7b60488d742408488b0c2448"
    "8d54cc10b83b0000000f05bf7e000000b8e70000000f05b89e000000bf02100000488b73480f05b8da000000488b7b40"
    "0f05488b4b4089014889d8488b18488b68084c8b60104c8b68184c8b70204c8b7828488b603048c7c0ffffffffc3"
)
_MOV_RAX, _MOV_RBX = b"\x48\xb8", b"\x48\xbb"


class Input(NamedTuple):
    """A file that was read before the capture, and what tells whether it is still the same."""

    path: str
    size: int
    changed: int
    """Nanoseconds since the epoch."""


class Code:
    """The code in the memory of this process, and what it shares with Python."""

    def __init__(self, inputs: list[Input], script: str) -> None:
        """Whoever is started and finds an input that is not what it was, executes the script. Raises OSError."""
        shared = _memory(PAGE)
        self._words = _words(shared, PAGE // 8)
        self._words[_INPUTS], self._words[_SCRIPT] = _laid_out(inputs, script)
        self._words[_NUMBER] = len(inputs)
        where = shared.to_bytes(8, "little")
        capture = _MOV_RAX + where + _CAPTURE
        start = map_code(capture + _MOV_RBX + where + _ENTRY)
        self.entry = start + len(capture)
        self._capture = ctypes.CFUNCTYPE(ctypes.c_long)(start)

    def capture(self, tid_address: int, thread_pointer: int) -> int:
        """A copy of this process that holds still; WOKEN in the process that is started from the file.

        Takes where the C library notes the thread's id (PR_GET_TID_ADDRESS) and its thread pointer (ARCH_GET_FS).
        """
        self._words[_TID], self._words[_THREAD] = tid_address, thread_pointer
        result: int = self._capture()
        return result

    @property
    def stack(self) -> int:
        """The stack with which the woken process was started: its arguments are there."""
        return int(self._words[_STACK])


def _laid_out(inputs: list[Input], script: str) -> tuple[int, int]:
    """Addresses of the table of inputs and of the script's path, in memory of their own."""
    paths = [os.fsencode(path) + b"\0" for path in (*(each.path for each in inputs), script)]
    table = 32 * len(inputs)
    address = _memory(table + sum(map(len, paths)))
    words = _words(address, table // 8)
    place = address + table
    for index, path in enumerate(paths):
        ctypes.memmove(place, path, len(path))
        if index < len(inputs):
            seconds, nanoseconds = divmod(inputs[index].changed, 10**9)
            words[4 * index : 4 * index + 4] = [place, inputs[index].size, seconds, nanoseconds]
            place += len(path)
    return address, place


def _memory(length: int) -> int:
    length = -(-length // PAGE) * PAGE
    return map_memory(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)


def _words(address: int, count: int) -> "ctypes.Array[ctypes.c_ulong]":
    return (ctypes.c_ulong * count).from_address(address)
