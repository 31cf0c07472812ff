# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a host in a network namespace of its own, with a neighbour on its wire."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.containerd import wait_until
from support.networks import Host, Neighbour, fresh_netns


@pytest.fixture
def netns() -> Iterator[None]:
    """A fresh network namespace for the test."""
    with fresh_netns():
        yield


@pytest.fixture
def neighbour(netns: None) -> Iterator[Neighbour]:
    """A machine on the outer wire."""
    machine = Neighbour()
    yield machine
    machine.close()


@pytest_asyncio.fixture
async def host(netns: None, tmp_path: Path) -> AsyncIterator[Host]:
    """A started service; nothing of it may be left at the end."""
    machine = Host(tmp_path)
    await machine.service.start()
    yield machine
    rows = machine.connection.execute("SELECT container_id FROM endpoints").fetchall()
    await machine.close([row[0] for row in rows])
    assert machine.pins() == []
    # the kernel takes the interfaces of a dead namespace away by and by
    wait_until(lambda: not [name for _, name in socket.if_nameindex() if name.startswith("veth")], 30)
