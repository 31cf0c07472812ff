# SPDX-License-Identifier: Apache-2.0
"""Commands that start with everything imported: the memory of a started interpreter, written as an executable.

An interpreter takes 9 ms to start and as long again to import what a command needs, and the result is the same
each time. So it is done once, when the command is installed (`capture.main`, which orlop.launchers runs): the
process prepares itself, and what its memory holds then becomes the segments of an ELF file (as Emacs' unexec
did). The kernel maps them as those of any program, a few instructions set the thread pointer and the registers,
and Python goes on behind the call in which it was captured, in another process, half a millisecond after its exec.

| file | runs | does |
| --- | --- | --- |
| `code.py` | both times | the machine code: the call that is captured, and the entry point of the file |
| `capture.py` | when it is made | prepares, holds still in one thread, and has it written |
| `memory.py` | when it is made | finds the regions and corrects what belongs to the old process alone |
| `elf.py` | when it is made | the file |
| `wake.py` | at each start | arguments, environment, streams and signals of the new process; then the command |

What this rests on, and how it is kept true:

- Nothing but memory is captured: one thread, no descriptors but 0, 1 and 2, no signal handlers but Python's own.
- All addresses are free in a new process: the captured one has no random layout, and the bottom-up one of old
  (personality(2): ADDR_NO_RANDOMIZE, ADDR_COMPAT_LAYOUT), whose addresses new processes do not use. The price is
  that the addresses of these commands' code and heap are known, as in any program that is not
  position-independent.
- Nothing of the processor is in it: the C library is told to use what every x86-64 has (GLIBC_TUNABLES).
- Nothing of the kernel is in it: the functions of its vDSO are replaced by system calls.
- Whoever changes a file that was read for it, our modules or the interpreter and its libraries, gets the ordinary
  command: the entry point looks, and where one is not what it was, it executes the script in its place.
- No secrets: random generators are seeded anew, and libraries that keep keys or generators of their own (OpenSSL)
  must not have been loaded. The seed of Python's string hashes is each file's own, not each process's.

For CPython on x86-64 with the GNU C library. Elsewhere, and where anything above cannot be had, there is no such
file, and the ordinary command is used.
"""

_captured = False


def was_captured() -> bool:
    """Whether this process goes on from a captured one."""
    return _captured
