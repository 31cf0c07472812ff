# SPDX-License-Identifier: Apache-2.0
"""What records that are kept as the API's messages have in common: updates of their maps by field mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orlop.api.containers_pb2 import Container
    from orlop.api.types_pb2 import Sandbox


def apply_to_maps(stored: Container | Sandbox, wanted: Container | Sandbox, path: str) -> bool:
    """Copy `labels`, `extensions`, or one entry of either (`labels.KEY`); False if the path names neither."""
    kind, _, key = path.partition(".")
    if key and kind == "labels":
        stored.labels[key] = wanted.labels.get(key, "")
    elif key and kind == "extensions":
        if key in wanted.extensions:
            stored.extensions[key].CopyFrom(wanted.extensions[key])
        else:
            stored.extensions.pop(key, None)
    elif path == "labels":
        stored.labels.clear()
        stored.labels.update(wanted.labels)
    elif path == "extensions":
        stored.ClearField("extensions")
        stored.extensions.MergeFrom(wanted.extensions)
    else:
        return False
    return True
