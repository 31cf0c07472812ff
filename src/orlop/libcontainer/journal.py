# SPDX-License-Identifier: Apache-2.0
"""Where the library's warnings go: the caller decides, since it knows the log."""

from collections.abc import Callable


def _discard(message: str) -> None:
    """Nobody listens."""


_sink: Callable[[str], None] = _discard


def set_warning_sink(sink: Callable[[str], None]) -> None:
    """Send every later warning, one line of text, to `sink`."""
    global _sink
    _sink = sink


def warn(message: str) -> None:
    """Report what went less well than asked for and was gone on from."""
    _sink(message)
