# SPDX-License-Identifier: Apache-2.0
"""Snapshotters as proxy plugins: another process keeps the file systems, reached over a socket.

A remote snapshotter may have a layer without its being unpacked: it answers `prepare` for that layer with "already
exists", and what it has is taken over as the committed snapshot that the client was going to make.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING

from orlop.api import snapshots_pb2 as pb
from orlop.containerd.client import Client
from orlop.containerd.core.snapshots import Kind, Usage
from orlop.containerd.failpoints import failpoint
from orlop.containerd.metadata.remote_snapshots import RemoteRecords
from orlop.containerd.metadata.snapshots import TARGET_LABEL
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    NotImplementedByUsError,
    OrlopError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.api.types_pb2 import Mount
    from orlop.containerd.client.snapshots import Snapshots
    from orlop.containerd.config import ProxyPlugin
    from orlop.containerd.core.namespaces import Scope
    from orlop.containerd.metadata.snapshots import BoundSnapshots

PATIENCE = 1.0  # seconds that a call waits for a process that is just being started again
_log = logging.getLogger("containerd.snapshots")


class RemoteSnapshots:
    """One such snapshotter. Connects at its first use; a process that is not there is UnavailableError then."""

    def __init__(
        self, plugin: ProxyPlugin, make_records: Callable[[Callable[[], Future[None]]], RemoteRecords]
    ) -> None:
        """`make_records` makes the records, given the function that has remains removed."""
        self.name = plugin.name
        self._address = plugin.address.removeprefix("unix://")
        self._client: Client | None = None
        self._removal: asyncio.Task[None] | None = None
        self._again = False
        self.records = make_records(self.remove_remains)

    def bound(self, scope: Scope) -> BoundSnapshots:
        """The records of a scope, for what concerns nobody else."""
        return self.records.bind(scope)

    def _remote(self, namespace: str) -> Snapshots:
        if self._client is None:
            self._client = Client(self._address, patience=PATIENCE)
        return self._client.with_namespace(namespace).snapshots(self.name)

    async def close(self) -> None:
        """Close the connection."""
        if self._removal is not None:
            self._removal.cancel()
        if self._client is not None:
            await self._client.close()

    async def create(
        self, scope: Scope, kind: Kind, key: str, parent: str, labels: Mapping[str, str]
    ) -> Sequence[Mount]:
        """Prepare a snapshot or make a view: what to mount.

        Raises AlreadyExistsError also where the target of unpacking is there by now, and what the other process
        answers.
        """
        number, name, remote_parent = self.records.begin(scope, kind, key, parent, labels)
        remote = self._remote(scope.namespace)
        self.records.creating.add(number)  # the collector leaves it alone
        try:
            if kind == Kind.VIEW:
                mounts = await remote.view(name, remote_parent, labels)
            else:
                mounts = await remote.prepare(name, remote_parent, labels)
        except AlreadyExistsError:
            await self._adopt(scope, number, key, labels.get(TARGET_LABEL, ""), remote_parent)
            raise
        except BaseException:
            self.bound(scope).withdraw(number, key)
            raise
        finally:
            self.records.creating.discard(number)
        failpoint("snapshot.remote.after_prepare")
        if kind == Kind.ACTIVE:
            self.bound(scope).announce(key, parent)
        return mounts

    async def _adopt(self, scope: Scope, number: int, key: str, target: str, remote_parent: str) -> None:
        """Take over what the other process has for a layer; without that, nothing is left of the creation."""
        try:
            if target:
                found = await self._find(scope, target, remote_parent)
                if found:
                    self.records.adopt(scope, number, key, target, found)
                    raise AlreadyExistsError(f'target snapshot "{target}": already exists')
        except BaseException as error:
            if not isinstance(error, AlreadyExistsError):
                self.bound(scope).withdraw(number, key)
            raise
        self.bound(scope).withdraw(number, key)

    async def _find(self, scope: Scope, target: str, parent: str) -> str:
        async for info in self._remote(scope.namespace).list(f'labels."{TARGET_LABEL}"=={target}'):
            if info.kind == pb.COMMITTED and info.parent == parent:
                return info.name
        return ""

    async def mounts(self, scope: Scope, key: str) -> Sequence[Mount]:
        """What to mount. Raises NotFoundError, FailedPreconditionError."""
        if self.bound(scope).stat(key).kind == Kind.COMMITTED:
            raise FailedPreconditionError(f'snapshot "{key}" is committed, not active: failed precondition')
        return await self._remote(scope.namespace).mounts(self.records.remote_name(scope, key))

    async def commit(self, scope: Scope, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Turn an active snapshot into a committed one. Raises as `Snapshotter.commit`."""
        self.bound(scope).check_commit(name, key)
        number, remote_name, remote_key = self.records.committing(scope, name, key)
        remote = self._remote(scope.namespace)
        try:
            await remote.commit(remote_name, remote_key, labels)
            failpoint("snapshot.remote.after_commit")
            taken = await remote.usage(remote_name)
        except BaseException:
            self.records.not_committed(number)
            raise
        usage = Usage(taken.size, taken.inodes)
        self.records.commit(scope, number, name, key, remote_name, labels, usage)

    async def usage(self, scope: Scope, key: str) -> Usage:
        """What it takes. Raises NotFoundError."""
        if self.bound(scope).stat(key).kind != Kind.ACTIVE:
            return self.bound(scope).usage(key)
        taken = await self._remote(scope.namespace).usage(self.records.remote_name(scope, key))
        return Usage(taken.size, taken.inodes)

    async def cleanup(self) -> None:
        """Have the other process remove what belongs to no record, and tidy up."""
        await asyncio.wrap_future(self.remove_remains())
        try:
            await self._remote("default").cleanup()
        except NotImplementedByUsError:
            pass  # it need not have anything to tidy up

    def remove_remains(self) -> Future[None]:
        """Have what belongs to no record removed; the future ends when that has been tried."""
        done: Future[None] = Future()
        self._again = True
        if self._removal is None or self._removal.done():
            self._removal = asyncio.ensure_future(self._remove())
        self._removal.add_done_callback(lambda _: done.set_result(None))
        return done

    async def _remove(self) -> None:
        while self._again:
            self._again = False
            for left in self.records.remains():
                try:
                    await self._remote(left.namespace).remove(left.name)
                except NotFoundError:
                    pass  # it was never made, or is gone already
                except OrlopError as error:
                    # It is tried again with the next removal.
                    _log.warning("snapshot %s of %s is not removed: %s", left.name, self.name, error)
                    continue
                self.records.forget(left.number)
