# SPDX-License-Identifier: Apache-2.0
"""Containers from an OCI spec: namespaces, root filesystem, credentials, control groups.

Which process runs what: `container`, `prepare` and `parent` run in the caller; `init` and `join` in the forked
child (`sync` shows their conversation), with `program` for the steps that both have in common.
"""

from orlop.libcontainer.container import Container
from orlop.libcontainer.options import CreateOptions, ExecOptions, ExecResult, Stdio
from orlop.libcontainer.state import State

__all__ = ["Container", "CreateOptions", "ExecOptions", "ExecResult", "State", "Stdio"]
