# SPDX-License-Identifier: Apache-2.0
"""The network service: gives each container its network sandbox and takes it away again."""

import sqlite3

from orlop.dockerd.network.types import Description, NetworkConfig, Sandbox, SandboxRequest
from orlop.errdefs import NotImplementedByUsError
from orlop.netd.client import NetdClient


class NetworkService:
    """Networks and the sandboxes of containers.

    Lifecycle: construct, `await start()` once, then `connect` and `release` per container, `await close()`. Nothing
    in the kernel ends with the service: namespaces, interfaces, rules and held ports live on, and the next
    `start` finds them by what is recorded. All methods belong to the event loop's thread.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        netd: NetdClient,
        config: NetworkConfig,
        exec_root: str = "/run/orlop",
    ) -> None:
        """Use `connection` (its schema made by `init_schema`); namespaces are pinned under `exec_root`/netns."""
        raise NotImplementedByUsError("the network service is being written")

    async def start(self) -> None:
        """Make the default bridge, its rules and settings; settle what earlier runs left behind.

        Endpoints whose namespace exists are kept, with their published ports held again; the rest is removed.
        Raises UnavailableError if the kernel refuses a step, naming it.
        """
        raise NotImplementedByUsError("the network service is being written")

    async def close(self) -> None:
        """Let go of sockets and threads; networks and sandboxes stay."""
        raise NotImplementedByUsError("the network service is being written")

    async def connect(self, request: SandboxRequest) -> Sandbox:
        """Make a container's network sandbox; everything is undone on error.

        A sandbox that the container still has is released first. Raises NotFoundError (no such network),
        InvalidArgumentError (names the field), InternalError for ports in Docker's words.
        """
        raise NotImplementedByUsError("the network service is being written")

    async def release(self, container_id: str) -> None:
        """Undo `connect`; no error if there is nothing (any more)."""
        raise NotImplementedByUsError("the network service is being written")

    def sandbox(self, container_id: str) -> Sandbox | None:
        """The sandbox of a container as `connect` returned it, also after a restart (hosts and resolv.conf empty)."""
        raise NotImplementedByUsError("the network service is being written")

    def list_networks(self) -> list[Description]:
        """GET /networks: every network, without its containers."""
        raise NotImplementedByUsError("the network service is being written")

    def inspect_network(self, reference: str) -> Description:
        """GET /networks/{id}: by name, id or unambiguous beginning of an id. Raises NotFoundError."""
        raise NotImplementedByUsError("the network service is being written")
