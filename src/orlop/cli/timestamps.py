# SPDX-License-Identifier: Apache-2.0
"""Times that users write for --since and --until, as the API takes them."""

import time

from orlop.cli.errors import ExitError
from orlop.cli.units import NANOSECONDS, parse_time
from orlop.engine.durations import parse_duration


def api_time(text: str) -> str | None:
    """`seconds.nanoseconds` of a Unix time, an RFC 3339 time (date alone too) or a duration back from now.

    None for an empty text. Raises ExitError.
    """
    if not text:
        return None
    if text.replace(".", "", 1).isdigit():
        return text
    try:
        moment = time.time() - parse_duration(text) / NANOSECONDS
    except ValueError:
        try:
            moment = parse_time(_complete(text))
        except ValueError:
            raise ExitError(f'failed to parse value as time or duration: "{text}"') from None
    return f"{moment:.9f}"


def _complete(text: str) -> str:
    """A full RFC 3339 time from a shorter one; what is missing is zero, the zone UTC."""
    date, _, clock = text.partition("T")
    bare = clock.rstrip("Z")
    if not bare:
        return f"{date}T00:00:00Z"
    parts = bare.split(":")
    if "+" not in bare and "-" not in bare:
        bare = ":".join([*parts, *["00"] * (3 - len(parts))]) + "Z"
    return f"{date}T{bare}"
