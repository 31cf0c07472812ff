# SPDX-License-Identifier: Apache-2.0
"""Labels on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


STOP_SIGNAL_LABEL = "io.containerd.image.config.stop-signal"
"""Of a container: the signal that ends it, as its image says."""


def label_arguments(words: Iterable[str]) -> dict[str, str]:
    """`key=value` words as labels; a key alone is the label `true`, `key=` clears it."""
    labels = {}
    for word in words:
        key, equals, value = word.partition("=")
        labels[key] = value if equals else "true"
    return labels
