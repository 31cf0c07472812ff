# SPDX-License-Identifier: Apache-2.0
"""Containers from an OCI spec: namespaces, root filesystem, credentials, control groups.

Which process runs what: `container` (with `creation` and `entering`), `prepare` and `parent` run in the caller;
`init` and `join` in the forked child, with `program` for the steps that both have in common. `sync` shows their
conversation.
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orlop.libcontainer.container import Container
    from orlop.libcontainer.handle import Handle
    from orlop.libcontainer.options import (
        CheckpointOptions,
        CreateOptions,
        ExecOptions,
        ExecResult,
        RestoreOptions,
        Stdio,
    )
    from orlop.libcontainer.state import State

__all__ = [
    "CheckpointOptions",
    "Container",
    "CreateOptions",
    "ExecOptions",
    "ExecResult",
    "Handle",
    "RestoreOptions",
    "State",
    "Stdio",
]

# Imported when first asked for: who only signals or deletes a container uses its Handle.
_MODULES = {"Container": "container", "Handle": "handle", "State": "state"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__name__}.{_MODULES.get(name, 'options')}"
    __import__(module)  # importlib itself takes longer to import than most of these
    found = globals()[name] = getattr(sys.modules[module], name)
    return found
