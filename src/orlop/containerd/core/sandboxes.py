# SPDX-License-Identifier: Apache-2.0
"""Contracts of sandboxes: their records, and the controller that has a shim hold each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.any_pb2 import Any as AnyMessage

    from orlop.api.types_pb2 import Mount, Sandbox

SHIM_CONTROLLER = "shim"


class SandboxStore(Protocol):
    """The sandbox records of the daemon, by namespace: inert, as those of containers. `runtime` never changes."""

    def get(self, namespace: str, id: str) -> Sandbox:
        """Raises NotFoundError."""
        ...

    def list(self, namespace: str, filters: Sequence[str] = ()) -> list[Sandbox]:
        """The records that match any of the filters, by id. Raises InvalidArgumentError for a malformed filter."""
        ...

    def create(self, namespace: str, sandbox: Sandbox) -> Sandbox:
        """Store a record, with its times set. Raises AlreadyExistsError, InvalidArgumentError."""
        ...

    def update(self, namespace: str, sandbox: Sandbox, paths: Sequence[str] = ()) -> Sandbox:
        """Replace the fields named, or all that may change. Raises NotFoundError, InvalidArgumentError."""
        ...

    def delete(self, namespace: str, id: str) -> None:
        """Raises NotFoundError."""
        ...


class SandboxOptions(NamedTuple):
    """What a sandbox is made with, besides its record."""

    rootfs: Sequence[Mount] = ()
    options: AnyMessage | None = None
    netns_path: str = ""
    annotations: Mapping[str, str] = {}


class Instance(Protocol):
    """A sandbox with its shim."""

    async def sandbox(self, method: str, *, timeout: float | None = None, **fields: Any) -> Any:
        """Make a call of the shim's Sandbox API for this sandbox.

        Raises what the shim answers (NotImplementedByUsError where it has no such API), UnavailableError.
        """
        ...

    @property
    def endpoint(self) -> tuple[str, int]:
        """The shim's address, and the version of its Task API."""
        ...


class SandboxController(Protocol):
    """The sandboxes that run: created, started, stopped and shut down, each in a shim that outlives us."""

    async def create(self, namespace: str, sandbox: Sandbox, options: SandboxOptions) -> None:
        """Start a shim and have it make the sandbox; on failure nothing is left.

        Raises AlreadyExistsError, and what the shim answers.
        """
        ...

    def get(self, namespace: str, id: str) -> Instance:
        """Raises NotFoundError."""
        ...

    async def shutdown(self, namespace: str, id: str) -> None:
        """End the shim and remove its bundle. Raises NotFoundError, and what the shim answers."""
        ...
