# SPDX-License-Identifier: Apache-2.0
"""Temporary leases of clients, and what a client's next life does with those that it left."""

import pytest
from support.image_daemons import client, containerd_daemon

from orlop.containerd.client import Client, leases
from orlop.containerd.client.leases import HALF_MADE, create_temporary, end_earlier, end_resumable, leased
from orlop.oci.image import digest_of

__all__ = ["client", "containerd_daemon"]

pytestmark = pytest.mark.root


def _as(client: Client, owner: str) -> Client:
    return Client(client.address, client.namespace, owner=owner)


async def _ids(client: Client) -> set[str]:
    return {lease.id for lease in await client.leases.list()}


async def test_only_leases_of_earlier_lives_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither another owner's, nor nobody's, nor this life's."""
    async with _as(client, "orlopd one") as one, _as(client, "orlopd two") as two:
        others = {await create_temporary(two), await create_temporary(client)}
        earlier = await create_temporary(one)
        monkeypatch.setattr(leases, "_LIFE", "next")
        async with leased(one) as work:
            await end_earlier(one)
            assert await _ids(client) == {*others, work.lease}
        assert earlier not in await _ids(client)
    for lease in others:
        await client.leases.delete(lease, sync=True)


async def test_half_made_snapshots_go(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a commit or load with its lease, of a pull without its content."""
    data = b"bytes of a pull"
    digest = digest_of(data)
    async with _as(client, "orlopd one") as one:
        for resumable in ("", "image"):
            lease = await create_temporary(one, resumable=resumable)
            work = one.with_lease(lease)
            await work.snapshots().prepare(f"{HALF_MADE}{resumable}", "", {})
            if resumable:
                await work.content.write_blob("layer", data, digest)
        monkeypatch.setattr(leases, "_LIFE", "next")
        await end_earlier(one)
    assert await _ids(client) == {lease}
    await client.leases.create("nudge")
    await client.leases.delete("nudge", sync=True)  # waits for a collection
    assert [info.name async for info in client.snapshots().list()] == []
    assert (await client.content.info(digest)).size == len(data)
    async with _as(client, "orlopd one") as one:
        await end_resumable(one, "other image")
        assert await _ids(client) == {lease}
        await end_resumable(one, "image")
    assert await _ids(client) == set()
