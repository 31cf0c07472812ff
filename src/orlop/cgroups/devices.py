# SPDX-License-Identifier: Apache-2.0
"""Device access rules: their meaning in order, as lines for version 1 and as an eBPF program for version 2."""

import struct

from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import DeviceCgroup

Key = tuple[str, int, int]
"""Type (b or c), major and minor number; -1 is any."""

_ANY = -1
_LARGEST = 2**31 - 1  # what a program for version 2 compares; the kernel's own numbers end at 2**12 and 2**20
_ORDER = "rwm"


class DeviceAccess:
    """What a list of rules comes to: a default, and the accesses (of "rwm") that are exceptions from it."""

    __slots__ = ("allow_by_default", "exceptions")

    def __init__(self, allow_by_default: bool = False) -> None:
        self.allow_by_default = allow_by_default
        self.exceptions: dict[Key, str] = {}

    def add(self, rule: DeviceCgroup) -> None:
        """Apply one more rule of the OCI specification.

        Raises InvalidArgumentError for a malformed rule, and for one that takes away a part of a wider exception,
        which the kernel's version 1 interface cannot express (OCI runtime-spec, config-linux.md).
        """
        kind, access = rule.type or "a", rule.access or _ORDER
        if kind not in ("a", "b", "c") or access.strip(_ORDER):
            raise InvalidArgumentError(f"invalid device rule: type {kind!r}, access {access!r}")
        major = _ANY if rule.major is None else rule.major
        minor = _ANY if rule.minor is None else rule.minor
        if not (_ANY <= major <= _LARGEST and _ANY <= minor <= _LARGEST):
            raise InvalidArgumentError(
                f"invalid device rule: major {major}, minor {minor}, expected at most {_LARGEST}"
            )
        if kind == "a":
            if (major, minor) != (_ANY, _ANY) or set(access) != set(_ORDER):
                raise InvalidArgumentError("invalid device rule: type a takes neither numbers nor a part of rwm")
            self.allow_by_default, self.exceptions = rule.allow, {}
        elif rule.allow != self.allow_by_default:
            key = (kind, major, minor)
            self.exceptions[key] = _union(self.exceptions.get(key, ""), access)
        else:
            self._remove((kind, major, minor), access)

    def _remove(self, key: Key, access: str) -> None:
        for other, present in self.exceptions.items():
            if other != key and _covers(other, key) and set(present) & set(access):
                raise InvalidArgumentError(
                    f"device rule for {_name(key)} is a hole in the rule for {_name(other)}"
                )
        for other in [other for other in self.exceptions if _covers(key, other)]:
            left = "".join(letter for letter in self.exceptions[other] if letter not in access)
            if left:
                self.exceptions[other] = left
            else:
                del self.exceptions[other]


# What a container needs at least: the nodes that the specification demands, pseudo terminals and mknod.
DEFAULT_ALLOWED = (
    DeviceCgroup(allow=True, type="c", access="m"),
    DeviceCgroup(allow=True, type="b", access="m"),
    *(
        DeviceCgroup(allow=True, type="c", major=major, minor=minor, access="rwm")
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None), (10, 200))
    ),
)


def evaluate(rules: list[DeviceCgroup]) -> DeviceAccess:
    """The meaning of a container's rules: all denied, then the rules in order, then what no container lacks."""
    access = DeviceAccess()
    for rule in rules:
        access.add(rule)
    if not access.allow_by_default:
        for rule in DEFAULT_ALLOWED:
            access.add(rule)
    return access


def parse_list(text: str) -> DeviceAccess:
    """The state of a version 1 group from its `devices.list`."""
    access = DeviceAccess()
    for line in text.splitlines():
        kind, numbers, letters = line.split()
        if kind == "a":
            return DeviceAccess(allow_by_default=True)  # the kernel does not list what a black list denies
        major, minor = (_ANY if number == "*" else int(number) for number in numbers.split(":"))
        access.exceptions[(kind, major, minor)] = letters
    return access


def writes_v1(wanted: DeviceAccess, present: DeviceAccess | None) -> list[tuple[str, str]]:
    """File and value, in order, that lead a version 1 group to the wanted state.

    With the present state of a running group the steps never deny what both states allow; without it (a new
    group) they start afresh.
    """
    add, remove = (
        ("devices.deny", "devices.allow") if wanted.allow_by_default else ("devices.allow", "devices.deny")
    )
    if present is None or wanted.allow_by_default or present.allow_by_default:
        steps = [("devices.allow" if wanted.allow_by_default else "devices.deny", "a")]
        return steps + [(add, _line(key, letters)) for key, letters in wanted.exceptions.items()]
    steps = []
    for key, letters in wanted.exceptions.items():
        if missing := _difference(letters, present.exceptions.get(key, "")):
            steps.append((add, _line(key, missing)))
    for key, letters in present.exceptions.items():
        if surplus := _difference(letters, wanted.exceptions.get(key, "")):
            steps.append((remove, _line(key, surplus)))
    return steps


# eBPF: registers, the context's layout (struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor), opcodes
# of include/uapi/linux/bpf.h.
_R0, _R1, _R2, _R3, _R4, _R5 = range(6)
_LOAD_WORD, _MOVE, _MOVE_REGISTER, _AND, _SHIFT_RIGHT = 0x61, 0xB4, 0xBC, 0x54, 0x74
_JUMP_NOT_EQUAL, _JUMP_NOT_EQUAL_REGISTER, _JUMP_EQUAL, _EXIT = 0x55, 0x5D, 0x15, 0x95
_TYPE = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}


def program_v2(access: DeviceAccess) -> bytes:
    """An eBPF program of type CGROUP_DEVICE that decides as `access` says."""
    code = [
        _instruction(_LOAD_WORD, _R2, _R1, offset=0),
        _instruction(_MOVE_REGISTER, _R3, _R2),
        _instruction(_AND, _R2, immediate=0xFFFF),
        _instruction(_SHIFT_RIGHT, _R3, immediate=16),
        _instruction(_LOAD_WORD, _R4, _R1, offset=4),
        _instruction(_LOAD_WORD, _R5, _R1, offset=8),
    ]
    for key, letters in access.exceptions.items():
        code += _exception(key, letters, access.allow_by_default)
    code += _verdict(access.allow_by_default)
    return b"".join(code)


def _exception(key: Key, letters: str, allow_by_default: bool) -> list[bytes]:
    """Tests that fall through to the verdict when all match, and jump behind it otherwise."""
    kind, major, minor = key
    mask = sum(_ACCESS[letter] for letter in set(letters))
    tests: list[tuple[int, int, int, int]] = [(_JUMP_NOT_EQUAL, _R2, 0, _TYPE[kind])]
    if major != _ANY:
        tests.append((_JUMP_NOT_EQUAL, _R4, 0, major))
    if minor != _ANY:
        tests.append((_JUMP_NOT_EQUAL, _R5, 0, minor))
    if mask != 7:
        tests += [(_MOVE_REGISTER, _R1, _R3, 0), (_AND, _R1, 0, mask)]
        # An allowed set must hold all that is asked for; one denied access denies the request.
        tests.append((_JUMP_EQUAL, _R1, 0, 0) if allow_by_default else (_JUMP_NOT_EQUAL_REGISTER, _R1, _R3, 0))
    jumps = (_JUMP_NOT_EQUAL, _JUMP_NOT_EQUAL_REGISTER, _JUMP_EQUAL)
    end = len(tests) + 2
    code = [
        _instruction(opcode, target, source, end - index - 1 if opcode in jumps else 0, immediate)
        for index, (opcode, target, source, immediate) in enumerate(tests)
    ]
    return code + _verdict(not allow_by_default)


def _verdict(allow: bool) -> list[bytes]:
    return [_instruction(_MOVE, _R0, immediate=int(allow)), _instruction(_EXIT)]


def _instruction(opcode: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", opcode, source << 4 | target, offset, immediate)


def _covers(wide: Key, narrow: Key) -> bool:
    return wide[0] == narrow[0] and wide[1] in (_ANY, narrow[1]) and wide[2] in (_ANY, narrow[2])


def _union(left: str, right: str) -> str:
    return "".join(letter for letter in _ORDER if letter in left or letter in right)


def _difference(left: str, right: str) -> str:
    return "".join(letter for letter in _ORDER if letter in left and letter not in right)


def _name(key: Key) -> str:
    kind, major, minor = key
    return f"{kind} {'*' if major == _ANY else major}:{'*' if minor == _ANY else minor}"


def _line(key: Key, letters: str) -> str:
    return f"{_name(key)} {letters}"
