# SPDX-License-Identifier: Apache-2.0
"""Times as nanoseconds since 1970, the form that is stored, and as the texts of the Engine API."""

import calendar
import functools
import re
import time
from datetime import UTC, datetime

from orlop.errdefs import InvalidArgumentError

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time: the text for a moment that has not come."""

SECOND = 1_000_000_000

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9})\d*)?)?)?)?(Z|[+-]\d\d:?\d\d)?"
)
_WHOLE = 19  # characters of a text before its fraction
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s|us|µs|ns))+")
_UNIX = re.compile(r"(-?\d+)(?:\.(\d{1,9})\d*)?")


def now() -> int:
    """The present moment."""
    return time.time_ns()


def rfc3339(moment: int) -> str:
    """A moment as RFC 3339 text in UTC with as many fractional digits as it needs; 0 is the zero time."""
    if moment == 0:
        return ZERO
    seconds, fraction = divmod(moment, SECOND)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


def rfc3339_fixed(moment: int) -> str:
    """As `rfc3339` with all nine digits, the form of `docker logs --timestamps`."""
    seconds, fraction = divmod(moment, SECOND)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


def parse(text: str, *, name: str = "time") -> int:
    """`1700000000[.5]` or RFC 3339 text (date alone is midnight UTC) as a moment.

    Raises InvalidArgumentError that names the parameter.
    """
    if found := _UNIX.fullmatch(text):
        fraction = int((found[2] or "").ljust(9, "0"))
        seconds = int(found[1]) * SECOND
        return seconds - fraction if text.startswith("-") else seconds + fraction
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise InvalidArgumentError(f"invalid value for {name!r}: {text!r} is no Unix time and no RFC 3339 time")
    try:
        parts = [int(part or 0) for part in found.groups()[:6]]
        moment = calendar.timegm(datetime(*parts, tzinfo=UTC).timetuple()) * SECOND  # type: ignore[arg-type, misc]
    except ValueError as error:
        raise InvalidArgumentError(f"invalid value for {name!r}: {text!r}: {error}") from None
    moment += int((found[7] or "").ljust(9, "0"))
    return moment - _offset(found[8])


def parse_utc(text: str) -> int:
    """As `parse`, for many texts of which most are in UTC and of the same few seconds, as those of a log."""
    if len(text) <= _WHOLE + 1 or text[_WHOLE] != "." or text[-1] != "Z" or len(text) > _WHOLE + 11:
        return parse(text)
    fraction = text[_WHOLE + 1 : -1]
    if not (fraction.isascii() and fraction.isdigit()):
        return parse(text)
    return _whole_seconds(text[:_WHOLE]) + int(fraction.ljust(9, "0"))


@functools.lru_cache(maxsize=64)
def _whole_seconds(text: str) -> int:
    return parse(f"{text}Z")


def parse_ago(text: str, *, name: str) -> int:
    """As `parse`, or a length of time before now: `10m`, `1h30m`, `24h`. Raises InvalidArgumentError."""
    if _DURATION.fullmatch(text) and not text.isdecimal():
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
        return now() - int(seconds * SECOND)
    return parse(text, name=name)


def _offset(zone: str | None) -> int:
    if zone is None or zone == "Z":
        return 0
    digits = zone[1:].replace(":", "")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return seconds * SECOND * (-1 if zone[0] == "-" else 1)
