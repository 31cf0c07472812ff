# SPDX-License-Identifier: Apache-2.0
"""Sizes, durations and times, read and written the way docker does."""

import time

from orlop.engine.durations import human_duration

_SIZE_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4, "p": 1024**5}
NANOSECONDS = 10**9


def parse_size(text: str) -> int:
    """Bytes from `512m`, `1.5g`, `64MiB`, `100`; -1 stays -1. Raises ValueError."""
    if text == "-1":
        return -1
    lowered = text.strip().lower()
    number = lowered.rstrip("bikmgtp ")
    unit = lowered[len(number) :].strip()
    if len(unit) > 1 and unit[1:] in ("b", "ib"):
        unit = unit[0]
    if unit not in _SIZE_UNITS or not number or number.startswith("-"):
        raise ValueError(f"invalid size: '{text}'")
    try:
        return int(float(number) * _SIZE_UNITS[unit])
    except ValueError:
        raise ValueError(f"invalid size: '{text}'") from None


def human_size(size: float) -> str:
    """Decimal units, three significant digits: `4.26MB`."""
    return _with_unit(size, 1000.0, ("B", "kB", "MB", "GB", "TB", "PB"), "%.3g")


def human_size4(size: float) -> str:
    """Decimal units, four significant digits: `1.093kB`."""
    return _with_unit(size, 1000.0, ("B", "kB", "MB", "GB", "TB", "PB"), "%.4g")


def binary_size(size: float) -> str:
    """Binary units, four significant digits: `1.93GiB`."""
    return _with_unit(size, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"), "%.4g")


def _with_unit(size: float, base: float, units: tuple[str, ...], form: str) -> str:
    index = 0
    while size >= base and index < len(units) - 1:
        size /= base
        index += 1
    return (form % size) + units[index]


def ago(moment: float, now: float | None = None) -> str:
    """`5 minutes ago` for a Unix time."""
    return human_duration(max(0.0, (time.time() if now is None else now) - moment)) + " ago"


def since(created: int) -> str:
    """How long ago something was made; `N/A` where nobody knows."""
    return ago(created) if created > 0 else "N/A"


def parse_time(text: str) -> float:
    """Unix time of an RFC 3339 text such as `2026-01-02T03:04:05.678901234Z`."""
    import calendar

    date, _, clock = text.partition("T")
    offset = 0
    if clock.endswith("Z"):
        clock = clock[:-1]
    else:
        for sign in "+-":
            if sign in clock:
                clock, _, zone = clock.partition(sign)
                hours, minutes = zone.split(":")
                offset = (int(hours) * 3600 + int(minutes) * 60) * (1 if sign == "+" else -1)
    whole, _, fraction = clock.partition(".")
    year, month, day = (int(part) for part in date.split("-"))
    hour, minute, second = (int(part) for part in whole.split(":"))
    seconds = calendar.timegm((year, month, day, hour, minute, second)) - offset
    return seconds + (float(f"0.{fraction}") if fraction else 0.0)
