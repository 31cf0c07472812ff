# SPDX-License-Identifier: Apache-2.0
"""Lengths of time as Go writes and reads them."""

import re

from orlop.errdefs import InvalidArgumentError

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_WHOLE = re.compile(rf"[+-]?(?:{_PART.pattern})+")


def parse_duration(text: str, name: str) -> float:
    """`1h30m`, `-1.5s`, `0` in seconds. Raises InvalidArgumentError that names the option."""
    if text in ("0", "+0", "-0"):
        return 0.0
    if not _WHOLE.fullmatch(text):
        raise InvalidArgumentError(f'invalid value for {name}: time: invalid duration "{text}"')
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return -seconds if text.startswith("-") else seconds
