# SPDX-License-Identifier: Apache-2.0
"""Differs in the order of the configuration: the first that can do what is asked does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.containerd.client import Client
from orlop.containerd.core.diff import Descriptor
from orlop.containerd.core.mount import to_proto
from orlop.errdefs import NotImplementedByUsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.api import types_pb2
    from orlop.containerd.core.diff import Differ, Payloads
    from orlop.containerd.core.mount import Mount
    from orlop.containerd.core.namespaces import Scope


class OrderedDiffers:
    """Implements `core.diff.Differ`: asks one after the other, as long as they answer that they cannot."""

    def __init__(self, differs: Sequence[Differ]) -> None:
        self._differs = differs

    async def apply(
        self,
        scope: Scope,
        layer: Descriptor,
        mounts: Sequence[Mount],
        sync: bool = False,
        payloads: Payloads | None = None,
    ) -> Descriptor:
        """As the contract says."""
        for differ in self._differs[:-1]:
            try:
                return await differ.apply(scope, layer, mounts, sync, payloads)
            except NotImplementedByUsError:
                continue
        return await self._differs[-1].apply(scope, layer, mounts, sync, payloads)

    async def compare(
        self,
        scope: Scope,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        epoch: int | None = None,
    ) -> Descriptor:
        """As the contract says."""
        for differ in self._differs[:-1]:
            try:
                return await differ.compare(scope, lower, upper, media_type, ref, labels, epoch)
            except NotImplementedByUsError:
                continue
        return await self._differs[-1].compare(scope, lower, upper, media_type, ref, labels, epoch)


class RemoteDiffer:
    """Implements `core.diff.Differ` by another process, reached over a socket at its first use."""

    def __init__(self, address: str) -> None:
        self._address = address.removeprefix("unix://")
        self._client: Client | None = None

    def _in(self, scope: Scope) -> Client:
        if self._client is None:
            self._client = Client(self._address)
        client = self._client.with_namespace(scope.namespace)
        return client.with_lease(scope.lease) if scope.lease else client

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()

    async def apply(
        self,
        scope: Scope,
        layer: Descriptor,
        mounts: Sequence[Mount],
        sync: bool = False,
        payloads: Payloads | None = None,
    ) -> Descriptor:
        """As the contract says."""
        message = to_descriptor(layer)
        return from_descriptor(
            await self._in(scope).diff.apply(message, to_proto(mounts), payloads=payloads, sync=sync)
        )

    async def compare(
        self,
        scope: Scope,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        epoch: int | None = None,
    ) -> Descriptor:
        """As the contract says."""
        made = await self._in(scope).diff.diff(
            to_proto(lower), to_proto(upper), media_type=media_type, ref=ref, labels=labels, epoch=epoch
        )
        return from_descriptor(made)


def to_descriptor(descriptor: Descriptor) -> types_pb2.Descriptor:
    """A descriptor as the API's message."""
    from orlop.api import types_pb2

    return types_pb2.Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=descriptor.annotations,
    )


def from_descriptor(message: types_pb2.Descriptor) -> Descriptor:
    """A descriptor from the API's message."""
    return Descriptor(message.media_type, message.digest, message.size, dict(message.annotations))
