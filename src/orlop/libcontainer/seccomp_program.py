# SPDX-License-Identifier: Apache-2.0
"""Compiles a seccomp profile to classic BPF: a pure function from the OCI type to struct sock_filter[].

For each architecture the system call numbers are cut into runs with the same verdict, and a balanced tree of
comparisons finds the run: some eight instructions for any call. Rules on arguments are tried in their order; a
rule without conditions for the same call goes before them, as in libseccomp. A call newer than the newest that
the profile knows fails with ENOSYS instead of the default error, so that programs fall back (as runc does).
"""

import struct

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer.seccomp_numbers import IPC, SOCKETCALL, X32_BIT, numbers
from orlop.oci.runtime import Seccomp, SeccompSyscall
from orlop.unix._libc import MACHINE

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, k"""
Condition = tuple[str, int, int, int, bool]
"""Operator, argument, value, second value, and whether all 64 bits of the argument count (not on 32 bits)."""
Rule = tuple[tuple[Condition, ...], int]
"""Conditions that must all hold, and the filter's return value."""

# include/uapi/linux/bpf_common.h, seccomp.h, audit.h
_LOAD, _JUMP, _JEQ, _JGT, _JGE, _AND, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_MAX_INSTRUCTIONS = 4096
_KILL_THREAD, _ERRNO, _TRACE = 0x00000000, 0x00050000, 0x7FF00000
_EPERM, _ENOSYS = 1, 38
_WORD = 0xFFFFFFFF

ACTIONS = {
    "SCMP_ACT_KILL": _KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": _KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")

# The audit architecture and the tables that share it. Other architectures are accepted and left out: this kernel
# never sees a call of theirs.
_AUDIT = {
    "SCMP_ARCH_X86_64": (0xC000003E, "x86_64"),
    "SCMP_ARCH_X86": (0x40000003, "x86"),
    "SCMP_ARCH_X32": (0xC000003E, "x32"),
    "SCMP_ARCH_AARCH64": (0xC00000B7, "aarch64"),
    "SCMP_ARCH_ARM": (0x40000028, "arm"),
}
_FOREIGN = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PPC",
        "PPC64",
        "PPC64LE",
        "S390",
        "S390X",
        "PARISC",
        "PARISC64",
        "RISCV64",
        "LOONGARCH64",
        "M68K",
        "SH",
        "SHEB",
    )
)
ARCHITECTURES = frozenset(_AUDIT) | _FOREIGN
"""Those that a profile may name."""
_WIDE = ("x86_64", "aarch64")
_NATIVE = "SCMP_ARCH_AARCH64" if MACHINE == "aarch64" else "SCMP_ARCH_X86_64"


def compile_program(profile: Seccomp) -> bytes:
    """The filter as an array of struct sock_filter.

    Raises InvalidArgumentError that names the part of the profile which is wrong. System calls that are not known
    on an architecture are left out there.
    """
    default = action(profile.default_action, profile.default_errno_ret, "default action")
    if profile.default_action == "SCMP_ACT_NOTIFY":
        raise InvalidArgumentError("seccomp: SCMP_ACT_NOTIFY cannot be used as default action")
    rules = [rule for entry in profile.syscalls for rule in _rules_of(entry)]
    beyond = _errno_beyond(profile, default)

    tables: dict[int, list[str]] = {}
    for name in _architectures(profile):
        audit, table = _AUDIT[name]
        tables.setdefault(audit, []).append(table)

    program: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE)]
    for audit, names in tables.items():
        section = [(_LOAD, 0, 0, _NUMBER), *_search(_runs(names, rules, default, beyond), default)]
        program += [(_JEQ, 1, 0, audit), (_JUMP, 0, 0, len(section)), *section]
    program.append((_RETURN, 0, 0, _KILL_THREAD))
    if len(program) > _MAX_INSTRUCTIONS:
        raise InvalidArgumentError(
            f"seccomp: the profile needs {len(program)} instructions, the kernel takes 4096"
        )
    pack = struct.Struct("=HBBI").pack
    return b"".join([pack(*instruction) for instruction in program])


def action(name: str, errno_ret: int | None, where: str) -> int:
    """The filter's return value for an action. Raises InvalidArgumentError that names `where`."""
    value = ACTIONS.get(name)
    if value is None:
        raise InvalidArgumentError(f"seccomp: {where} {name!r} is not known")
    if value in (_ERRNO, _TRACE):
        return value | ((_EPERM if errno_ret is None else errno_ret) & 0xFFFF)
    return value


def _errno_beyond(profile: Seccomp, default: int) -> int | None:
    """What calls newer than the profile get, if not the default."""
    if profile.default_action in _PERMISSIVE or default == _ERRNO | _ENOSYS:
        return None
    return _ERRNO | _ENOSYS


def _architectures(profile: Seccomp) -> list[str]:
    names = [_NATIVE]
    for name in profile.architectures:
        if name in _FOREIGN or name in names or name == "SCMP_ARCH_NATIVE":
            continue
        if name not in _AUDIT:
            raise InvalidArgumentError(f"seccomp: architecture {name!r} is not known")
        names.append(name)
    return names


def _rules_of(entry: SeccompSyscall) -> list[tuple[str, Rule]]:
    value = action(entry.action, entry.errno_ret, "action")
    for arg in entry.args:
        if arg.op not in _COMPARISONS:
            raise InvalidArgumentError(f"seccomp: operator {arg.op!r} is not known")
        if not 0 <= arg.index <= 5:
            raise InvalidArgumentError(f"seccomp: argument index {arg.index} is not in 0 … 5")
        if not (0 <= arg.value < 2**64 and 0 <= arg.value_two < 2**64):
            raise InvalidArgumentError(f"seccomp: argument {arg.index}: value out of range")
    conditions = tuple((arg.op, arg.index, arg.value, arg.value_two, True) for arg in entry.args)
    alternatives = [conditions]
    if len({arg.index for arg in entry.args}) < len(conditions):
        # Two conditions on one argument are alternatives, as they always were for runc.
        alternatives = [(condition,) for condition in conditions]
    if entry.action == "SCMP_ACT_NOTIFY" and "write" in entry.names:
        raise InvalidArgumentError("seccomp: SCMP_ACT_NOTIFY cannot be used for the write syscall")
    if "" in entry.names:
        raise InvalidArgumentError("seccomp: syscalls: names: empty string is not a valid syscall")
    return [(name, (alternative, value)) for name in entry.names for alternative in alternatives]


def _runs(
    names: list[str], rules: list[tuple[str, Rule]], default: int, beyond: int | None
) -> list[tuple[int, list[Rule]]]:
    """First number and rules of each run of numbers, in order, from 0 to the end of the number space."""
    runs: list[tuple[int, list[Rule]]] = []
    kill: list[Rule] = [((), _KILL_THREAD)]
    # x86_64 and x32 are one architecture to the audit system: x32 has its numbers from bit 30 on.
    for table, end in (("x86_64", X32_BIT), ("x32", _WORD)) if "x86_64" in names else ((names[0], _WORD),):
        start = X32_BIT if table == "x32" else 0
        if table not in names:
            runs.append((start, kill))
            continue
        verdicts, newest = _verdicts(table, rules, default)
        place = start
        for number in sorted(verdicts):
            if number > place:
                runs.append((place, []))
            runs.append((number, verdicts[number]))
            place = number + 1
        if newest >= place:
            runs.append((place, []))
            place = newest + 1
        if place < end:
            runs.append((place, [((), beyond)] if beyond is not None and newest >= 0 else []))
    runs.append((_WORD, []))  # -1: a tracer's way to skip a call
    merged = runs[:1]
    for run in runs[1:]:
        if run[1] != merged[-1][1]:
            merged.append(run)
    return merged


def _verdicts(table: str, rules: list[tuple[str, Rule]], default: int) -> tuple[dict[int, list[Rule]], int]:
    """The rules of each number that differs from the default, and the highest number that is mentioned."""
    known = numbers(table)
    found: dict[int, list[Rule]] = {}
    newest = -1
    for name, rule in rules:
        number = known.get(name)
        if number is not None:
            newest = max(newest, number)
            if rule[1] != default:
                found.setdefault(number, []).append(rule if table in _WIDE else _narrow(rule))
        if table == "x86" and (name in SOCKETCALL or name in IPC):
            multiplexed = _multiplexed(name, rule)
            if multiplexed and rule[1] != default:
                found.setdefault(known[multiplexed[0]], []).append(multiplexed[1])
    for number, present in found.items():
        found[number] = _in_order(present)
    return found, newest


def _narrow(rule: Rule) -> Rule:
    """A rule for callers with 32-bit arguments: the lower half of each value counts, as in libseccomp."""
    return tuple((op, index, value, two, False) for op, index, value, two, _ in rule[0]), rule[1]


def _multiplexed(name: str, rule: Rule) -> tuple[str, Rule] | None:
    """The rule for the same call through socketcall(2) or ipc(2), whose further arguments a filter cannot see.

    A rule with conditions therefore only carries over when it forbids: it then forbids always.
    """
    conditions, value = rule
    if conditions and value >= _TRACE:
        return None
    if name in SOCKETCALL:
        selector = ("SCMP_CMP_EQ", 0, SOCKETCALL[name], 0, False)
        return "socketcall", ((selector,), value)
    # The upper half of ipc's first argument is a version.
    selector = ("SCMP_CMP_MASKED_EQ", 0, 0xFFFF, IPC[name], False)
    return "ipc", ((selector,), value)


def _in_order(rules: list[Rule]) -> list[Rule]:
    """The rules that can take effect: one without conditions stands alone."""
    for rule in rules:
        if not rule[0]:
            return [rule]
    return rules


def _search(runs: list[tuple[int, list[Rule]]], default: int) -> list[Instruction]:
    """A balanced tree of comparisons with the number (in the accumulator), the verdicts as its leaves."""
    if len(runs) == 1:
        return _leaf(runs[0][1], default)
    middle = len(runs) // 2
    left = _search(runs[:middle], default)
    right = _search(runs[middle:], default)
    if len(left) <= 255:
        return [(_JGE, len(left), 0, runs[middle][0]), *left, *right]
    return [(_JGE, 0, 1, runs[middle][0]), (_JUMP, 0, 0, len(left)), *left, *right]


def _leaf(rules: list[Rule], default: int) -> list[Instruction]:
    code: list[Instruction] = []
    for conditions, value in rules:
        tests: list[Instruction] = []
        for condition in reversed(conditions):
            tests = _COMPARISONS[condition[0]](condition, len(tests) + 1) + tests
        code += [*tests, (_RETURN, 0, 0, value)]
        if not conditions:
            return code
    return [*code, (_RETURN, 0, 0, default)]


# One condition each: code that goes on behind itself when the condition holds, and jumps `skip` further when not.
# Arguments have 64 bits, the accumulator 32: the upper word decides first.


def _words(condition: Condition) -> tuple[Instruction, Instruction, int, int]:
    _, index, value, _, _ = condition
    offset = _ARGUMENTS + 8 * index  # both architectures are little-endian
    return (_LOAD, 0, 0, offset + 4), (_LOAD, 0, 0, offset), value >> 32, value & _WORD


def _equal(condition: Condition, skip: int) -> list[Instruction]:
    upper, lower, high, low = _words(condition)
    code = [lower, (_JEQ, 0, skip, low)]
    return [upper, (_JEQ, 0, 2 + skip, high), *code] if condition[4] else code


def _not_equal(condition: Condition, skip: int) -> list[Instruction]:
    upper, lower, high, low = _words(condition)
    code = [lower, (_JEQ, skip, 0, low)]
    return [upper, (_JEQ, 0, 2, high), *code] if condition[4] else code


def _greater(condition: Condition, skip: int, code: int = _JGT) -> list[Instruction]:
    upper, lower, high, low = _words(condition)
    tests = [lower, (code, 0, skip, low)]
    return [upper, (_JGT, 3, 0, high), (_JEQ, 0, 2 + skip, high), *tests] if condition[4] else tests


def _greater_or_equal(condition: Condition, skip: int) -> list[Instruction]:
    return _greater(condition, skip, _JGE)


def _less(condition: Condition, skip: int, code: int = _JGE) -> list[Instruction]:
    upper, lower, high, low = _words(condition)
    tests = [lower, (code, skip, 0, low)]
    return [upper, (_JGT, 3 + skip, 0, high), (_JEQ, 0, 2, high), *tests] if condition[4] else tests


def _less_or_equal(condition: Condition, skip: int) -> list[Instruction]:
    return _less(condition, skip, _JGT)


def _masked_equal(condition: Condition, skip: int) -> list[Instruction]:
    """The value is the mask here, the second value what must be left."""
    upper, lower, high, low = _words(condition)
    wanted = condition[2] & condition[3]
    code = [lower, (_AND, 0, 0, low), (_JEQ, 0, skip, wanted & _WORD)]
    if high and condition[4]:
        code = [upper, (_AND, 0, 0, high), (_JEQ, 0, 3 + skip, wanted >> 32), *code]
    return code


_COMPARISONS = {
    "SCMP_CMP_EQ": _equal,
    "SCMP_CMP_NE": _not_equal,
    "SCMP_CMP_GT": _greater,
    "SCMP_CMP_GE": _greater_or_equal,
    "SCMP_CMP_LT": _less,
    "SCMP_CMP_LE": _less_or_equal,
    "SCMP_CMP_MASKED_EQ": _masked_equal,
}
