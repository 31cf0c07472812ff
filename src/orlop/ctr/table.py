# SPDX-License-Identifier: Apache-2.0
"""Columns as Go's text/tabwriter lines them up, and the forms of sizes, times and ages in them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp


def lines(rows: Iterable[Sequence[str]], *, padding: int = 4, minimum: int = 4, trail: bool = True) -> str:
    """The rows as text. `trail`: the last column is padded too, as after a closing tab in Go's format strings."""
    table = [list(row) for row in rows]
    widths: list[int] = []
    for row in table:
        for column, cell in enumerate(row):
            if column == len(widths):
                widths.append(minimum)
            if trail or column < len(row) - 1:
                widths[column] = max(widths[column], len(cell) + padding)
    out = []
    for row in table:
        last = len(row) - 1
        cells = [cell.ljust(widths[i]) if trail or i < last else cell for i, cell in enumerate(row)]
        out.append("".join(cells) + "\n")
    return "".join(out)


def label_text(labels: Mapping[str, str], empty: str = "-") -> str:
    """Labels as `a=b,c=d`, in order."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or empty


def size_text(size: int) -> str:
    """Bytes with a binary unit: `1.2 MiB`."""
    amount, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{amount:.1f} {units[0]}"


def time_text(stamp: Timestamp) -> str:
    """A time in RFC 3339, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp.seconds))


def go_time(stamp: Timestamp) -> str:
    """A time as Go prints it: `2026-01-02 03:04:05.678 +0000 UTC`."""
    fraction = f".{stamp.nanos:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(stamp.seconds)) + fraction + " +0000 UTC"


def age_text(stamp: Timestamp) -> str:
    """How long ago, in words."""
    seconds = max(0, int(time.time()) - stamp.seconds)
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}{'s' if count > 1 else ''}"
    return "1 second" if seconds == 1 else f"{seconds} seconds" if seconds else "Less than a second"
