# SPDX-License-Identifier: Apache-2.0
"""Translates OCI resources to the properties of systemd's units: pure functions.

What systemd has no property for is left to the plans for the kernel's files; what it has one for is written there
too, so the values have to be the same (systemd.resource-control(5), org.freedesktop.systemd1(5)).
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from orlop.cgroups import devices
from orlop.cgroups.plan import shares_to_weight, swap_v2
from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import CPU, DeviceCgroup, Memory, Resources

Property = tuple[str, tuple[str, Any]]
"""Name; D-Bus signature and value."""

INFINITY = 2**64 - 1
_ANNOTATION = "org.systemd.property."
_NUMBERS = frozenset("nqiuxtd")
_DEFAULT_PERIOD = 100_000  # microseconds
_LONGEST = 20  # digits of a 64-bit number
_PERCENT = 10_000  # microseconds a second

# The first versions of systemd that know a property.
_SINCE_QUOTA_PERIOD, _SINCE_CPUSET, _SINCE_IDLE, _SINCE_NUMBERED_DEVICES = 242, 244, 252, 240

_UNIFIED_SIZES = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}


def annotated_properties(annotations: Mapping[str, str]) -> list[Property]:
    """Properties that a spec's annotations `org.systemd.property.<name>` set, whose values are text such as
    `uint64 5`. A name in `…Sec` is one in `…USec`, in seconds. Raises InvalidArgumentError.
    """
    found: list[Property] = []
    for key, text in annotations.items():
        name = key.removeprefix(_ANNOTATION)
        if name == key:
            continue
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise InvalidArgumentError(f"annotations: {key}: {name!r} is not the name of a property")
        from orlop.cgroups.variant_text import parse

        try:
            value = parse(text)
            if name.endswith("Sec") and "a" <= name[-4:-3] <= "z":
                name, value = f"{name[:-3]}USec", _microseconds(*value)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"annotations: {key}={text}: {error}") from None
        found.append((name, value))
    return found


def _microseconds(signature: str, value: Any) -> tuple[str, Any]:
    if signature not in _NUMBERS or value < 0:
        raise InvalidArgumentError("not a number of seconds")
    return "t", int(value * 1_000_000)


def complete_quota(resources: Resources, present: Callable[[], tuple[int, int]]) -> Resources:
    """The same with both quota and period where one of them is given: systemd's property is made of the two.

    `present` tells what they are now, or raises FileNotFoundError.
    """
    cpu = resources.cpu
    if cpu is None or bool(cpu.quota) == bool(cpu.period):
        return resources
    try:
        quota, period = present()
    except FileNotFoundError:
        return resources  # no such controller: setting the limit will say so
    complete = msgspec.structs.replace(cpu, quota=cpu.quota or quota, period=cpu.period or period)
    return msgspec.structs.replace(resources, cpu=complete)


def round_quota(resources: Resources) -> Resources:
    """The same with the CPU quota rounded up to a whole percent, as systemd writes it down for its next reload."""
    cpu = resources.cpu
    if cpu is None or not cpu.quota or cpu.quota < 0:
        return resources
    period = cpu.period or _DEFAULT_PERIOD
    rounded = -(-cpu.quota * 1_000_000 // period // _PERCENT) * _PERCENT * period // 1_000_000
    return msgspec.structs.replace(resources, cpu=msgspec.structs.replace(cpu, quota=rounded))


def properties_v1(resources: Resources, version: int, with_devices: bool) -> list[Property]:
    """The properties for control groups version 1 and this version of systemd."""
    found = device_properties(resources.devices, version) if with_devices else []
    memory, cpu = resources.memory, resources.cpu
    if memory and memory.limit:
        found.append(("MemoryLimit", ("t", _size(memory.limit))))
    if cpu:
        if cpu.shares:
            found.append(("CPUShares", ("t", cpu.shares)))
        found += _quota(cpu.quota, cpu.period, version) + _cpuset(cpu, version)
    if resources.block_io and resources.block_io.weight:
        found.append(("BlockIOWeight", ("t", resources.block_io.weight)))
    return found + _tasks(resources)


def properties_v2(resources: Resources, version: int) -> list[Property]:
    """The properties for control groups version 2 and this version of systemd.

    Without devices: systemd's program would deny beside ours, and cannot say all that ours can.
    """
    found: list[Property] = []
    if resources.memory:
        found += _memory_v2(resources.memory)
    if cpu := resources.cpu:
        if cpu.idle == 1 and version >= _SINCE_IDLE:
            found.append(("CPUWeight", ("t", 0)))
        elif cpu.shares:
            found.append(("CPUWeight", ("t", shares_to_weight(cpu.shares))))
        found += _quota(cpu.quota, cpu.period, version) + _cpuset(cpu, version)
    return found + _tasks(resources) + _unified(resources.unified, version)


def device_properties(rules: list[DeviceCgroup], version: int) -> list[Property]:
    """The strictest policy that systemd can express; what it cannot, our own writes to the group add.

    So whatever systemd does to the group at a reload never gives access that the rules do not.
    """
    access = devices.evaluate(rules)
    clear: Property = ("DeviceAllow", ("a(ss)", []))
    if access.allow_by_default:
        policy = "strict" if access.exceptions else "auto"
        return [clear, ("DevicePolicy", ("s", policy))]
    allowed = [
        (name, letters)
        for key, letters in access.exceptions.items()
        if (name := _device_name(key, version)) is not None
    ]
    return [clear, ("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", allowed))]


def cpu_mask(field: str, text: str) -> bytes:
    """A list of numbers and ranges such as `0-2,5` as a bit mask, lowest byte first.

    Raises InvalidArgumentError.
    """
    mask = 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not part.strip():
            continue
        digits = part.isascii() and first.isdigit() and (not dash or last.isdigit()) and len(part) < _LONGEST
        if not digits or int(last or first) < int(first):
            raise InvalidArgumentError(f"{field}: {text!r} is not a list of numbers and ranges")
        if int(last or first) >= 1 << 16:
            raise InvalidArgumentError(f"{field}: {text!r} has a number that is too large")
        mask |= (1 << int(last or first) + 1) - (1 << int(first))
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _device_name(key: devices.Key, version: int) -> str | None:
    kind, major, minor = key
    long = "block" if kind == "b" else "char"
    if major < 0:
        return f"{long}-*" if minor < 0 else None
    if version < _SINCE_NUMBERED_DEVICES:
        return None
    return f"{long}-{major}" if minor < 0 else f"/dev/{long}/{major}:{minor}"


def _memory_v2(memory: Memory) -> list[Property]:
    found: list[Property] = []
    if memory.limit:
        found.append(("MemoryMax", ("t", _size(memory.limit))))
    if memory.reservation:
        found.append(("MemoryLow", ("t", _size(memory.reservation))))
    swap = swap_v2(memory.swap, memory.limit)
    if swap is not None:
        found.append(("MemorySwapMax", ("t", INFINITY if swap == "max" else int(swap))))
    return found


def _quota(quota: int | None, period: int | None, version: int) -> list[Property]:
    found: list[Property] = []
    if period and version >= _SINCE_QUOTA_PERIOD:
        found.append(("CPUQuotaPeriodUSec", ("t", period)))
    if quota or period:
        each_second = INFINITY
        if quota and quota > 0:
            each_second = -(-quota * 1_000_000 // (period or _DEFAULT_PERIOD) // _PERCENT) * _PERCENT
        found.append(("CPUQuotaPerSecUSec", ("t", each_second)))
    return found


def _cpuset(cpu: CPU, version: int) -> list[Property]:
    if version < _SINCE_CPUSET:
        return []
    lists = (("AllowedCPUs", "linux.resources.cpu.cpus", cpu.cpus),
             ("AllowedMemoryNodes", "linux.resources.cpu.mems", cpu.mems))  # fmt: skip
    return [(name, ("ay", cpu_mask(field, text))) for name, field, text in lists if text]


def _tasks(resources: Resources) -> list[Property]:
    if resources.pids is None or resources.pids.limit is None:
        return []
    limit = resources.pids.limit
    return [("TasksMax", ("t", INFINITY if limit < 0 else limit or 1))]  # systemd knows no limit of 0


def _unified(unified: dict[str, str], version: int) -> list[Property]:
    found: list[Property] = []
    idle = unified.get("cpu.idle", "").strip() == "1" and version >= _SINCE_IDLE
    for file, raw in unified.items():
        value, field = raw.strip(), f"linux.resources.unified.{file}"
        if file in _UNIFIED_SIZES:
            number = INFINITY if value == "max" else _number(field, value)
            found.append((_UNIFIED_SIZES[file], ("t", number or 1 if file == "pids.max" else number)))
        elif file == "cpu.weight" and not idle:
            found.append(("CPUWeight", ("t", _number(field, value))))
        elif file == "cpu.idle" and idle:
            found.append(("CPUWeight", ("t", 0)))
        elif file == "cpu.max":
            quota, _, period = value.partition(" ")
            found += _quota(
                -1 if quota == "max" else _number(field, quota),
                _number(field, period.strip()) if period else _DEFAULT_PERIOD,
                version,
            )
        elif file in ("cpuset.cpus", "cpuset.mems") and version >= _SINCE_CPUSET:
            name = "AllowedCPUs" if file == "cpuset.cpus" else "AllowedMemoryNodes"
            found.append((name, ("ay", cpu_mask(field, value))))
    return found


def _number(field: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) >= _LONGEST:
        raise InvalidArgumentError(f"{field}: {text!r} is not a number")
    return int(text)


def _size(value: int) -> int:
    return INFINITY if value < 0 else value
