# SPDX-License-Identifier: Apache-2.0
"""Contract of leases: what a client holds against the garbage collector while it works."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from orlop.errdefs import InvalidArgumentError, NotImplementedByUsError


class Lease(NamedTuple):
    """A lease. `created` is nanoseconds since the epoch."""

    id: str
    created: int
    labels: Mapping[str, str]


class Resource(NamedTuple):
    """What a lease holds: a type (`content`, `ingests`, `images` or `snapshots/<snapshotter>`) and an id."""

    type: str
    id: str


class LeaseManager(Protocol):
    """The leases of one scope.

    A request that carries a lease in its metadata (`containerd-lease`) adds to it what it creates. What a lease
    holds, and all that this refers to, is no garbage while the lease exists and has not expired (label
    `containerd.io/gc.expire`, RFC 3339). With the label `containerd.io/gc.flat` references are not followed. An
    expired lease is removed by the collector.
    """

    def create(self, id: str, labels: Mapping[str, str]) -> Lease:
        """An empty id asks for a random one. Raises AlreadyExistsError."""
        ...

    def delete(self, id: str) -> None:
        """Raises NotFoundError."""
        ...

    def list(self, filters: Sequence[str] = ()) -> list[Lease]:
        """The leases that match, by id. Raises InvalidArgumentError for a malformed filter."""
        ...

    def add_resource(self, id: str, resource: Resource) -> None:
        """Hold a resource, which need not exist yet. Raises NotFoundError, InvalidArgumentError."""
        ...

    def delete_resource(self, id: str, resource: Resource) -> None:
        """Let a resource go. Raises NotFoundError."""
        ...

    def list_resources(self, id: str) -> Sequence[Resource]:
        """What the lease holds. Raises NotFoundError."""
        ...


def validate_resource(resource: Resource) -> Resource:
    """`resource` when its type is one of ours; raises InvalidArgumentError, NotImplementedByUsError."""
    kind, slash, name = resource.type.partition("/")
    if not resource.id:
        raise InvalidArgumentError("resource.id must not be empty")
    if kind == "snapshots":
        if not slash or not name:
            raise InvalidArgumentError(
                'resource.type "snapshots" must name its snapshotter, as snapshots/overlayfs'
            )
    elif kind not in ("content", "ingests", "images"):
        raise NotImplementedByUsError(f'resource.type "{resource.type}" is unknown')
    elif slash:
        raise InvalidArgumentError(f'resource.type "{resource.type}" must not have a part after "{kind}"')
    return resource
