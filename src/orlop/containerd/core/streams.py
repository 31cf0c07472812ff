# SPDX-License-Identifier: Apache-2.0
"""Contract of the open streams of a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orlop.containerd.client.streams import Stream


class StreamGetter(Protocol):
    """The streams that clients have open, each in its namespace and known to a request by its id."""

    def get(self, namespace: str, id: str) -> Stream:
        """Raises NotFoundError."""
        ...
