# SPDX-License-Identifier: Apache-2.0
"""Where the library's warnings, and words about its steps, go: the caller decides, since it knows the log."""

from collections.abc import Callable


def _discard(message: str) -> None:
    """Nobody listens."""


_sink: Callable[[str], None] = _discard
_debug_sink: Callable[[str], None] = _discard


def set_warning_sink(sink: Callable[[str], None]) -> None:
    """Send every later warning, one line of text, to `sink`."""
    global _sink
    _sink = sink


def warn(message: str) -> None:
    """Report what went less well than asked for and was gone on from."""
    _sink(message)


def set_debug_sink(sink: Callable[[str], None]) -> None:
    """Send every later word about a step that is done, one line of text, to `sink`."""
    global _debug_sink
    _debug_sink = sink


def debug(message: str) -> None:
    """Tell of a step. Never from a container's process: what files the log is in is a matter of the caller's."""
    _debug_sink(message)
