# SPDX-License-Identifier: Apache-2.0
"""Contract of the container store: the records that tasks are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence

    from orlop.api.containers_pb2 import Container


class ContainerStore(Protocol):
    """The container records of the daemon, by namespace.

    A record names a snapshot (`snapshotter`, `snapshot_key`) and an image and carries the spec, an Any that is
    kept byte for byte. It is inert: a task with the same id is what runs. A record is a root of the garbage
    collector: the snapshot that it names stays. `id` and `runtime` never change.

    A record is the API's own message; what is returned is the caller's to keep.
    """

    def get(self, namespace: str, id: str) -> Container:
        """Raises NotFoundError."""
        ...

    def list(self, namespace: str, filters: Sequence[str] = ()) -> list[Container]:
        """The records that match any of the filters, by id. Raises InvalidArgumentError for a malformed filter."""
        ...

    def encoded(self, namespace: str, filters: Sequence[str] = ()) -> builtins.list[bytes]:
        """As `list`, each record as the bytes of its message: nobody has to read and to write them once more."""
        ...

    def create(self, namespace: str, container: Container) -> Container:
        """Store a record, with its times set. Raises AlreadyExistsError, InvalidArgumentError."""
        ...

    def update(self, namespace: str, container: Container, paths: Sequence[str] = ()) -> Container:
        """Replace what the field mask names, or all that may change.

        Raises NotFoundError, InvalidArgumentError.
        """
        ...

    def delete(self, namespace: str, id: str) -> None:
        """Raises NotFoundError."""
        ...
