# SPDX-License-Identifier: Apache-2.0
"""pause, resume, update."""

from orlop.codec import decode
from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import Container
from orlop.libcontainer.journal import set_warning_sink
from orlop.oci.runtime import CPU, BlockIO, Memory, Pids, Resources
from orlop.runc.common import read_document
from orlop.runc.main import Call
from orlop.runc.parse import Flags

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_INTEGER = frozenset("-0123456789")
_DECIMAL = frozenset(".0123456789")
_LONGEST = 20  # digits of a 64-bit number
_NUMBERS = {
    "cpu-burst": "burst",
    "cpu-period": "period",
    "cpu-quota": "quota",
    "cpu-rt-period": "realtime_period",
    "cpu-rt-runtime": "realtime_runtime",
    "cpu-share": "shares",
    "cpu-idle": "idle",
}
_SIZES = {"memory": "limit", "memory-swap": "swap", "memory-reservation": "reservation"}


def pause(call: Call) -> int:
    """Freeze the container."""
    Container.load(call.root, call.arguments[0]).pause()
    return 0


def resume(call: Call) -> int:
    """Thaw the container."""
    Container.load(call.root, call.arguments[0]).resume()
    return 0


def update(call: Call) -> int:
    """Change limits, by a file (or standard input) or by flags."""
    set_warning_sink(call.log.warning)
    container = Container.load(call.root, call.arguments[0])
    source = call.flags.text("resources")
    resources = decode(read_document(source), Resources) if source else resources_of(call.flags)
    if call.flags.has("kernel-memory") or call.flags.has("kernel-memory-tcp"):
        call.log.warning("Kernel memory settings are ignored and will be removed")
    container.update(resources, call.flags.text("l3-cache-schema"), call.flags.text("mem-bw-schema"))
    return 0


def resources_of(flags: Flags) -> Resources:
    """The resources that the flags name. Raises InvalidArgumentError."""
    cpu, memory, resources = CPU(), Memory(), Resources()
    for flag, field in _NUMBERS.items():
        if text := flags.text(flag):
            setattr(cpu, field, _number(flag, text))
            resources.cpu = cpu
    for flag, field in (("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")):
        if text := flags.text(flag):
            setattr(cpu, field, text)
            resources.cpu = cpu
    for flag, field in _SIZES.items():
        if text := flags.text(flag):
            setattr(memory, field, _size(flag, text))
            resources.memory = memory
    if flags.number("blkio-weight"):
        resources.block_io = BlockIO(weight=flags.number("blkio-weight"))
    if flags.has("pids-limit"):
        resources.pids = Pids(limit=flags.number("pids-limit"))
    return resources


def _number(flag: str, text: str) -> int:
    if not _INTEGER.issuperset(text):
        raise InvalidArgumentError(f'invalid value for {flag}: "{text}" is no number')
    try:
        return int(text)
    except ValueError:
        raise InvalidArgumentError(f'invalid value for {flag}: "{text}" is no number') from None


def _size(flag: str, text: str) -> int:
    if text == "-1":
        return -1
    lower = text.lower().strip()
    digits = lower.rstrip("kmgtpib ")
    unit = lower[len(digits) :].strip().removesuffix("ib").removesuffix("b")
    # No exponents, infinities and digits of other scripts.
    if unit not in _UNITS or not _DECIMAL.issuperset(digits) or len(digits) > _LONGEST:
        raise InvalidArgumentError(f"invalid value for {flag}: invalid size: '{text}'")
    try:
        return int(float(digits) * _UNITS[unit])
    except ValueError:
        raise InvalidArgumentError(f"invalid value for {flag}: invalid size: '{text}'") from None
