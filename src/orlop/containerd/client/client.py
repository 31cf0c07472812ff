# SPDX-License-Identifier: Apache-2.0
"""`Client`: a connection to a containerd within one of its namespaces."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from orlop.containerd.client.base import Service, open_channel
from orlop.errdefs import UnavailableError

if TYPE_CHECKING:
    import grpc.aio

    from orlop.containerd.client.containers import Containers, Namespaces
    from orlop.containerd.client.content import Content
    from orlop.containerd.client.events import Events
    from orlop.containerd.client.images import Images, Leases
    from orlop.containerd.client.mounts import Mounts
    from orlop.containerd.client.sandboxes import Sandboxes
    from orlop.containerd.client.snapshots import Diff, Snapshots
    from orlop.containerd.client.system import System
    from orlop.containerd.client.tasks import Tasks
    from orlop.containerd.client.transfer import Transfer

S = TypeVar("S", bound=Service)

DEFAULT_ADDRESS = "/run/orlop/containerd/containerd.sock"
DEFAULT_SNAPSHOTTER = "overlayfs"


class Client:
    """Typed calls to orlop's containerd or the original (1.6 and newer).

        async with Client("/run/orlop/containerd/containerd.sock", "moby") as client:
            container = await client.containers.get("web")
            snapshots = client.snapshots("overlayfs")

    Sub-clients are made at first use, so that a program loads only the services it calls. Every call raises
    `orlop.errdefs` errors: UnavailableError when the daemon is not there, and what the daemon answers.
    Messages are those of `orlop.api`; `typeurl` packs what goes into an Any.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        namespace: str = "default",
        *,
        lease: str = "",
        owner: str = "",
        patience: float = 0.0,
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        """`address` is a socket's path; `channel` shares the connection of another client.

        `owner` is whose temporary leases the client makes, a name that the program keeps over restarts.

        With `patience`, a call that finds the daemon gone waits so many seconds for it to come back. A daemon
        that serves others wants some, so that a restart of containerd fails nobody's request; a command none.
        """
        self.address = address
        self.namespace = namespace
        self.lease = lease
        self.owner = owner
        self.patience = patience
        self._owns_channel = channel is None
        self._channel = channel if channel is not None else open_channel(address)
        pairs = [("containerd-namespace", namespace)] if namespace else []
        self._metadata = (*pairs, ("containerd-lease", lease)) if lease else tuple(pairs)

    def with_namespace(self, namespace: str) -> Client:
        """The same connection in another namespace."""
        return Client(self.address, namespace, owner=self.owner, patience=self.patience, channel=self._channel)

    def with_lease(self, lease: str) -> Client:
        """The same connection and namespace, under a lease: the collector keeps what is made by it."""
        return Client(
            self.address,
            self.namespace,
            lease=lease,
            owner=self.owner,
            patience=self.patience,
            channel=self._channel,
        )

    async def connect(self, timeout: float = 10.0) -> None:
        """Wait until the daemon takes connections, at most `timeout` seconds. Raises UnavailableError."""
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout)
        except TimeoutError:
            raise UnavailableError(f"containerd does not answer on {self.address}") from None

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled. Without effect on a client that shares it."""
        if self._owns_channel:
            await self._channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _patient(self, made: S) -> S:
        made.patience = self.patience
        return made

    @cached_property
    def containers(self) -> Containers:
        from orlop.containerd.client.containers import Containers

        return self._patient(Containers(self._channel, self._metadata))

    @cached_property
    def namespaces(self) -> Namespaces:
        from orlop.containerd.client.containers import Namespaces

        return self._patient(Namespaces(self._channel, self._metadata))

    @cached_property
    def tasks(self) -> Tasks:
        from orlop.containerd.client.tasks import Tasks

        return self._patient(Tasks(self._channel, self._metadata))

    @cached_property
    def content(self) -> Content:
        from orlop.containerd.client.content import Content

        return self._patient(Content(self._channel, self._metadata))

    @cached_property
    def images(self) -> Images:
        from orlop.containerd.client.images import Images

        return self._patient(Images(self._channel, self._metadata))

    @cached_property
    def leases(self) -> Leases:
        from orlop.containerd.client.images import Leases

        return self._patient(Leases(self._channel, self._metadata))

    def snapshots(self, snapshotter: str = DEFAULT_SNAPSHOTTER) -> Snapshots:
        """The snapshots of a snapshotter (`overlayfs`, `native`)."""
        made = self._snapshots.get(snapshotter)
        if made is None:
            from orlop.containerd.client.snapshots import Snapshots

            made = self._patient(Snapshots(self._channel, self._metadata, snapshotter))
            self._snapshots[snapshotter] = made
        return made

    @cached_property
    def _snapshots(self) -> dict[str, Snapshots]:
        return {}

    @cached_property
    def diff(self) -> Diff:
        from orlop.containerd.client.snapshots import Diff

        return self._patient(Diff(self._channel, self._metadata))

    @cached_property
    def events(self) -> Events:
        from orlop.containerd.client.events import Events

        return self._patient(Events(self._channel, self._metadata))

    @cached_property
    def system(self) -> System:
        """Version, health and introspection."""
        from orlop.containerd.client.system import System

        return self._patient(System(self._channel, self._metadata))

    @cached_property
    def sandboxes(self) -> Sandboxes:
        """Records of sandboxes, and the sandboxes that run."""
        from orlop.containerd.client.sandboxes import Sandboxes

        return self._patient(Sandboxes(self._channel, self._metadata))

    @cached_property
    def mounts(self) -> Mounts:
        """Mounts that the daemon makes (containerd 2.2 and newer)."""
        from orlop.containerd.client.mounts import Mounts

        return self._patient(Mounts(self._channel, self._metadata))

    @cached_property
    def transfer(self) -> Transfer:
        """Transfers of images that the daemon carries out (containerd 1.7 and newer)."""
        from orlop.containerd.client.transfer import Transfer

        return self._patient(Transfer(self._channel, self._metadata))
