# SPDX-License-Identifier: Apache-2.0
"""Signals by name or number, as users write them."""

import re
import signal

from orlop.errdefs import InvalidArgumentError

_RTMIN, _RTMAX = 34, 64  # glibc's; the C library of the container decides, and musl agrees from 35 on
_NAMES = {member.name.removeprefix("SIG"): int(member) for member in signal.Signals} | {
    "IOT": int(signal.SIGIOT),
    "CLD": int(signal.SIGCHLD),
    "POLL": int(signal.SIGPOLL),
    "STKFLT": 16,
    "RTMIN": _RTMIN,
    "RTMAX": _RTMAX,
}
_REALTIME = re.compile(r"RT(MIN\+|MAX-)(\d+)")


def parse_signal(text: str) -> int:
    """`SIGTERM`, `term`, `15`, `RTMIN+3` as a number. Raises InvalidArgumentError `invalid signal: …`."""
    if text.isdecimal():
        number = int(text)
        if not 0 < number <= _RTMAX:
            raise InvalidArgumentError(f"invalid signal: {text}")
        return number
    name = text.upper().removeprefix("SIG")
    if found := _REALTIME.fullmatch(name):
        offset = int(found[2])
        number = _RTMIN + offset if found[1] == "MIN+" else _RTMAX - offset
        if _RTMIN <= number <= _RTMAX:
            return number
    elif name in _NAMES:
        return _NAMES[name]
    raise InvalidArgumentError(f"invalid signal: {text}")


def stop_signal(text: str) -> int:
    """The signal that stops a container: its StopSignal, SIGTERM if it has none."""
    return parse_signal(text) if text else int(signal.SIGTERM)
