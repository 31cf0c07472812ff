# SPDX-License-Identifier: Apache-2.0
"""Columns as Go's text/tabwriter lines them up, and the forms of sizes, times and ages in them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp


def lines(rows: Iterable[Sequence[str]], *, padding: int = 4, minimum: int = 4, trail: bool = True) -> str:
    """The rows as text. `trail`: the last column is padded too, as after a closing tab in Go's format strings.

    A column is as wide as its cells in consecutive rows: a row without it begins a new column below.
    """
    table = [[*row, ""] if trail else list(row) for row in rows]
    widths = [[0] * len(row) for row in table]

    def line_up(start: int, end: int, column: int) -> None:
        first = start
        while first < end:
            after = first
            while after < end and column < len(table[after]) - 1:
                after += 1
            if after > first:
                width = max(minimum, *(len(row[column]) + padding for row in table[first:after]))
                for index in range(first, after):
                    widths[index][column] = width
                line_up(first, after, column + 1)
            first = max(after, first + 1)

    line_up(0, len(table), 0)
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)) + "\n"
        for row, wide in zip(table, widths, strict=True)
    )


def tabbed(rows: Iterable[Sequence[str]], *, trail: bool = False) -> str:
    """The rows with tabs between the columns, which begin at multiples of eight."""
    table = [list(row) for row in rows]
    columns = max(map(len, table))
    out = []
    widths = [max(len(row[i]) + 1 for row in table if i < len(row)) for i in range(columns)]
    stops = [-(-width // 8) * 8 for width in widths]
    for row in table:
        last = len(row) - 1
        cells = [cell + "\t" * -(-(stops[i] - len(cell)) // 8) for i, cell in enumerate(row[:last])]
        end = row[last]
        out.append("".join(cells) + end + ("\t" * -(-(stops[last] - len(end)) // 8) if trail else "") + "\n")
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


def decimal_size_text(size: int) -> str:
    """Bytes with a decimal unit and four digits: `1.037MB`."""
    amount, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{amount:.4g}{units[0]}"


def time_text(stamp: Timestamp) -> str:
    """A time in RFC 3339, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp.seconds))


def nano_text(stamp: Timestamp) -> str:
    """A time in RFC 3339 with nanoseconds, as in Go's JSON: without zeros at the end."""
    fraction = f".{stamp.nanos:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp.seconds)) + fraction + "Z"


def go_time(stamp: Timestamp) -> str:
    """A time as Go prints it: `2026-01-02 03:04:05.678 +0000 UTC`."""
    fraction = f".{stamp.nanos:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(stamp.seconds)) + fraction + " +0000 UTC"


_AGES = ((365 * 2, 365, "years"), (60, 30, "months"), (14, 7, "weeks"), (2, 1, "days"))
"""Days from which on, days in one, and the word."""


def age_text(stamp: Timestamp) -> str:
    """How long ago, in Docker's words."""
    seconds = max(0, int(time.time()) - stamp.seconds)
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds" if seconds else "Less than a second"
    if seconds < 3600:
        return "About a minute" if seconds < 120 else f"{seconds // 60} minutes"
    hours = (seconds + 1800) // 3600
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    size, word = next((size, word) for limit, size, word in _AGES if days >= limit)
    return f"{days // size} {word}"
