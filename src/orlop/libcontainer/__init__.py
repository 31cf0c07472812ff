# SPDX-License-Identifier: Apache-2.0
"""Containers from an OCI spec: namespaces, root filesystem, credentials, control groups.

Which process runs what: `container` (with `creation` and `entering`), `prepare` and `parent` run in the caller;
`init` and `join` in the forked child, with `program` for the steps that both have in common. `sync` shows their
conversation.
"""

from orlop.libcontainer.container import Container
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
    "RestoreOptions",
    "State",
    "Stdio",
]
