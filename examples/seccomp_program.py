# SPDX-License-Identifier: Apache-2.0
"""Prints the filter that a seccomp profile compiles to, one instruction of classic BPF a line.

Usage: seccomp_program.py [config.json]; without one, a profile that lets a program read, write and exit.
"""

import struct
import sys

from orlop.libcontainer.seccomp_program import compile_program
from orlop.oci.runtime import Seccomp, SeccompArg, SeccompSyscall, decode_spec

# linux/bpf_common.h, those that a filter is made of.
_NAMES = {0x20: "ld", 0x15: "jeq", 0x25: "jgt", 0x35: "jge", 0x45: "jset", 0x05: "ja", 0x54: "and", 0x06: "ret"}
_WORDS = {0: "number of the call", 4: "architecture"}


def main() -> int:
    """Compile and print."""
    profile = load(sys.argv[1]) if len(sys.argv) > 1 else small_profile()
    program = compile_program(profile)
    print(len(program) // 8, "instructions")
    for line, (code, true, false, value) in enumerate(struct.iter_unpack("=HBBI", program)):
        print(f"{line:4} {describe(line, code, true, false, value)}")
    return 0


def load(path: str) -> Seccomp:
    """The profile of a spec in a file."""
    with open(path, "rb") as file:
        spec = decode_spec(file.read())
    if spec.linux is None or spec.linux.seccomp is None:
        raise SystemExit(f"{path} has no linux.seccomp")
    return spec.linux.seccomp


def small_profile() -> Seccomp:
    """Everything is EPERM but a few calls, and write only to descriptors 1 and 2."""
    to = [SeccompArg(index=0, value=fd, op="SCMP_CMP_EQ") for fd in (1, 2)]
    return Seccomp(
        default_action="SCMP_ACT_ERRNO",
        architectures=["SCMP_ARCH_X86_64"],
        syscalls=[
            SeccompSyscall(names=["read", "exit_group"], action="SCMP_ACT_ALLOW"),
            *(SeccompSyscall(names=["write"], action="SCMP_ACT_ALLOW", args=[argument]) for argument in to),
        ],
    )


def describe(line: int, code: int, true: int, false: int, value: int) -> str:
    """An instruction as text; jumps with the lines that they lead to."""
    name = _NAMES.get(code, f"{code:#x}")
    if name == "ld":
        return f"ld   {_WORDS.get(value, f'word {value}')}"
    if name == "ret":
        return f"ret  {value:#x}"
    if name == "ja":
        return f"ja   {line + 1 + value}"
    if name == "and":
        return f"and  {value:#x}"
    return f"{name:4} {value:#x} ? {line + 1 + true} : {line + 1 + false}"


if __name__ == "__main__":
    raise SystemExit(main())
