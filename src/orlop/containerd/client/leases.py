# SPDX-License-Identifier: Apache-2.0
"""A lease for as long as a piece of work takes, so that the collector leaves alone what it makes.

Temporary leases carry who made them (`Client.owner`) and in which life of that program, so that its next life can
end those that an earlier one left.
"""

from __future__ import annotations

import secrets
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from orlop.errdefs import NotFoundError, OrlopError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.containerd.client.client import Client

EXPIRES = 24 * 3600  # seconds: what a client that died left behind is collected after a day
OWNER = "io.orlop.lease.owner"
LIFE = "io.orlop.lease.life"
RESUMABLE = "io.orlop.lease.resumable"
HALF_MADE = "extract-"
"""What the keys of snapshots begin with into which a layer is being unpacked."""

_LIFE = secrets.token_hex(8)


@asynccontextmanager
async def leased(client: Client) -> AsyncIterator[Client]:
    """A client whose calls happen under a lease of their own, which ends with the block.

    Within the lease of the client that was given, if it has one. Raises what creating a lease raises.
    """
    if client.lease:
        yield client
        return
    lease = await create_temporary(client)
    try:
        yield client.with_lease(lease)
    finally:
        try:
            await client.leases.delete(lease)
        except NotFoundError:
            pass  # somebody ended it already
        except OrlopError:
            # The daemon is gone or failing: the lease ends by itself, and the block's own error matters more.
            pass


async def create_temporary(client: Client, *, resumable: str = "") -> str:
    """The name of a new lease that ends by itself one day; `resumable`: what it keeps parts of for a later try."""
    lease = f"orlop-{secrets.token_hex(8)}"
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + EXPIRES))
    labels = {"containerd.io/gc.expire": expires}
    if client.owner:
        labels |= {OWNER: client.owner, LIFE: _LIFE}
    if resumable:
        labels[RESUMABLE] = resumable
    await client.leases.create(lease, labels)
    return lease


async def end_earlier(client: Client) -> None:
    """End the leases that earlier lives of the client's owner left, and no others.

    Resumable ones stay, for the bytes that the next try need not fetch; only half-made snapshots go.
    """
    for lease in await client.leases.list(f'labels."{OWNER}"=="{client.owner}"'):
        if lease.labels.get(LIFE) == _LIFE:
            continue
        try:
            if RESUMABLE in lease.labels:
                await _remove_half_made(client, lease.id)
            else:
                await client.leases.delete(lease.id)
        except NotFoundError:
            pass  # it has just expired


async def end_resumable(client: Client, resumable: str) -> None:
    """End the leases of earlier lives that keep parts of what is whole now."""
    for lease in await client.leases.list(f'labels."{OWNER}"=="{client.owner}"'):
        if lease.labels.get(RESUMABLE) == resumable and lease.labels.get(LIFE) != _LIFE:
            try:
                await client.leases.delete(lease.id)
            except NotFoundError:
                pass  # it has just expired


async def _remove_half_made(client: Client, lease: str) -> None:
    for resource in await client.leases.resources(lease):
        kind, _, snapshotter = resource.type.partition("/")
        if kind == "snapshots" and resource.id.startswith(HALF_MADE):
            try:
                await client.snapshots(snapshotter).remove(resource.id)
            except NotFoundError:
                pass  # the lease names it, but it is gone
