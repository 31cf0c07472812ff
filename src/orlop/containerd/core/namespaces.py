# SPDX-License-Identifier: Apache-2.0
"""Contract of namespaces, and the scope that a request acts in."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from orlop.errdefs import FailedPreconditionError, InvalidArgumentError

NAMESPACE_HEADER = "containerd-namespace"
LEASE_HEADER = "containerd-lease"

_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_MAX_IDENTIFIER = 76


class Scope(NamedTuple):
    """Whom a request acts for: every object lives in a namespace, and what a request creates is held by its lease.

    `lease` is empty when the request has none.
    """

    namespace: str
    lease: str = ""


class Namespace(NamedTuple):
    """A namespace and its labels."""

    name: str
    labels: Mapping[str, str]


class NamespaceStore(Protocol):
    """The namespaces of the daemon.

    A namespace comes into being by `create`, or by the first object that is made in it. It can be deleted once
    no image, blob, snapshot or container is left in it.
    """

    def get(self, name: str) -> Namespace:
        """Raises NotFoundError."""
        ...

    def list(self) -> list[Namespace]:
        """All namespaces, by name."""
        ...

    def create(self, name: str, labels: Mapping[str, str]) -> Namespace:
        """Raises AlreadyExistsError, or InvalidArgumentError for a malformed name or label."""
        ...

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Namespace:
        """Set the labels that the field mask `paths` names; an empty value removes one.

        As in containerd the namespace is made if it is not there. Raises InvalidArgumentError.
        """
        ...

    def delete(self, name: str) -> None:
        """Raises NotFoundError, or FailedPreconditionError that names the kinds of objects left in it."""
        ...


def validate_identifier(value: str, what: str = "identifier") -> str:
    """`value` when it may name a namespace or a container; raises InvalidArgumentError."""
    if not value:
        raise InvalidArgumentError(f"{what} must not be empty")
    if len(value) > _MAX_IDENTIFIER:
        raise InvalidArgumentError(f'{what} "{value}" greater than maximum length ({_MAX_IDENTIFIER} characters)')
    if _IDENTIFIER.fullmatch(value) is None:
        raise InvalidArgumentError(f'{what} "{value}" must match {_IDENTIFIER.pattern}')
    return value


def scope_of(metadata: Sequence[tuple[str, str | bytes]] | None) -> Scope:
    """The scope that the metadata of a gRPC call names.

    Raises FailedPreconditionError without a namespace, InvalidArgumentError for a malformed one.
    """
    return _scope_of(tuple(metadata or ()))


@lru_cache(128)  # a client says the same with each call
def _scope_of(metadata: tuple[tuple[str, str | bytes], ...]) -> Scope:
    namespace = lease = ""
    for key, value in metadata:
        if key == NAMESPACE_HEADER and not namespace:
            namespace = value if isinstance(value, str) else value.decode()
        elif key == LEASE_HEADER and not lease:
            lease = value if isinstance(value, str) else value.decode()
    if not namespace:
        raise FailedPreconditionError("namespace is required")
    return Scope(validate_identifier(namespace, "namespace"), lease)
