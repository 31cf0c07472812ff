# SPDX-License-Identifier: Apache-2.0
"""Contract of the mount manager: mounts that the daemon makes on behalf of whoever runs a container."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.api.types_pb2 import ActivationInfo
    from orlop.containerd.core.mount import Mount
    from orlop.containerd.core.namespaces import Scope


class Request(NamedTuple):
    """What to activate: mounts in order, each of which may refer to the ones before it.

    With `temporary` all of them are mounted; else only those before the last one whose type asks for us
    (`format/TYPE`, `mkdir/TYPE`), and the rest is the caller's to mount.
    """

    name: str
    mounts: Sequence[Mount]
    labels: Mapping[str, str] = {}
    temporary: bool = False


class MountManager(Protocol):
    """The activations of a daemon, by namespace and name. One made under a lease ends with the lease."""

    async def activate(self, scope: Scope, request: Request) -> ActivationInfo:
        """Mount what is ours to mount; on failure nothing is left mounted.

        Raises NotImplementedByUsError when nothing of it is ours, AlreadyExistsError, InvalidArgumentError, and
        what the kernel says.
        """
        ...

    async def deactivate(self, namespace: str, name: str) -> None:
        """Unmount it. Raises NotFoundError, FailedPreconditionError while it is in use."""
        ...

    def get(self, namespace: str, name: str) -> ActivationInfo:
        """Raises NotFoundError."""
        ...

    def update(self, namespace: str, info: ActivationInfo, paths: Sequence[str]) -> ActivationInfo:
        """Set the labels that the field mask names. Raises NotFoundError, InvalidArgumentError."""
        ...

    def list(self, namespace: str, filters: Sequence[str] = ()) -> list[ActivationInfo]:
        """The activations that match any of the filters, by name. Raises InvalidArgumentError."""
        ...
