# SPDX-License-Identifier: Apache-2.0
"""Columns aligned as Go's text/tabwriter aligns them for docker's lists."""

_MIN_WIDTH = 10
_PADDING = 3


def render(rows: list[list[str]], *, min_width: int = _MIN_WIDTH, padding: int = _PADDING) -> str:
    """Rows of cells as lines; all columns but the last are padded."""
    widths: list[int] = []
    for row in rows:
        for index, cell in enumerate(row[:-1]):
            if index == len(widths):
                widths.append(min_width)
            widths[index] = max(widths[index], len(cell) + padding)
    lines = []
    for row in rows:
        lines.append(
            "".join(cell.ljust(widths[index]) for index, cell in enumerate(row[:-1])) + (row[-1] if row else "")
        )
    return "".join(line + "\n" for line in lines)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, the last an ellipsis where something was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
