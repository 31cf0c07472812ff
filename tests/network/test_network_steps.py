# SPDX-License-Identifier: Apache-2.0
"""A dockerd that dies before each single step of each change: the next one leaves nothing half-made.

A step is a row that is written, a batch of netlink messages, a transaction of nftables, a request to orlop-netd,
or a namespace that is pinned or let go. From its death on nothing that the old dockerd still tries has any effect.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from support.containerd import wait_until
from support.networks import Host, command, echo, run, serving

from orlop.dockerd.network import SandboxRequest, netns
from orlop.dockerd.network.rtnetlink import RouteSocket
from orlop.dockerd.network.store import NetworkStore
from orlop.engine.types import IPAM, EndpointSettings, IPAMConfig, NetworkCreateRequest, PortBinding
from orlop.netd.client import NetdClient
from orlop.unix.nftables import Nftables

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.root

STEPS = [
    *((NetworkStore, name) for name in ("put_network", "delete_network", "put_endpoint", "put_endpoints")),
    (NetworkStore, "delete_endpoint"),
    (RouteSocket, "request"),
    (Nftables, "run"),
    (NetdClient, "_request"),
    (netns, "_pin"),
    (netns, "remove"),
]


class Died(BaseException):
    """The daemon is no more: no handler of errors does anything about it."""


class Deathly:
    """Counts steps while it is armed, and lets none happen from step `last` on (counted from 1)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._left: int | None = None
        self.dead = False
        for owner, name in STEPS:
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def arm(self, last: int | None) -> None:
        """Die at a step; None: live on."""
        self._left, self.dead = last, False

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def taken(*arguments: Any, **options: Any) -> Any:
            if self._left is not None:
                self._left -= 1
                self.dead = self.dead or self._left <= 0
                if self.dead:
                    raise Died(step.__qualname__)
            return step(*arguments, **options)

        return taken


@pytest.fixture
def deathly(monkeypatch: pytest.MonkeyPatch) -> Deathly:
    return Deathly(monkeypatch)


def binding() -> dict[str, list[PortBinding] | None]:
    return {"80/tcp": [PortBinding(host_port="8080")]}


def wish(name: str) -> SandboxRequest:
    return SandboxRequest(container_id=name, name=name, hostname=name)


async def create(host: Host) -> None:
    ipam = IPAM(config=[IPAMConfig(subnet="fd00:99::/64")])
    await host.service.create_network(NetworkCreateRequest(name="new", enable_ipv6=True, ipam=ipam))


async def remove(host: Host) -> None:
    await host.service.remove_network("spare")
    await host.service._networks._removals.settled()


async def connect(host: Host) -> None:
    await host.connect("c1", mode="zone", port_bindings={"80/tcp": [PortBinding(host_port="8081")]})


async def release(host: Host) -> None:
    await host.service.release("c0")


async def attach(host: Host) -> None:
    await host.service.attach(wish("c0"), "alpha", EndpointSettings(aliases=["also"]))


async def detach(host: Host) -> None:
    await host.service.detach("both", "alpha")


async def prepared(directory: Path) -> Host:
    """Three networks; `c0` in one of them with a port, `both` in two."""
    host = Host(directory)
    await host.service.start()
    for name in ("zone", "alpha", "spare"):
        await host.service.create_network(NetworkCreateRequest(name=name))
    await host.connect("c0", mode="zone", port_bindings=binding())
    await host.connect("both", mode="alpha", port_bindings={"81/tcp": [PortBinding(host_port="8090")]})
    await host.service.attach(wish("both"), "zone", EndpointSettings())
    return host


async def abandon(host: Host) -> None:
    """What the kernel does for a process that is gone: descriptors are closed."""
    await host.netd.close()
    if host.service._rules is not None:
        await host.service._rules.close()
    leaving = host.service._steps.leaving
    leaving._addresses.clear()
    leaving._stop()
    for tasks in (leaving._tasks, host.service._networks._removals._tasks):
        await asyncio.gather(*tasks, return_exceptions=True)
    await host.service._thread.close()
    host.connection.close()


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.long), 4])
@pytest.mark.parametrize("change", [create, remove, connect, release, attach, detach])
async def test_dying_before_each_step(
    netns: None, tmp_path: Path, deathly: Deathly, change: Callable[[Host], Awaitable[None]], stride: int
) -> None:
    """Each step; or, in less time, each fourth, beginning with the third."""
    for step in itertools.count(1 if stride == 1 else 3, stride):
        (tmp_path / str(step)).mkdir()
        host = await prepared(tmp_path / str(step))
        deathly.arm(step)
        try:
            await change(host)
        except Died:
            assert deathly.dead
        died = deathly.dead
        await abandon(host)
        deathly.arm(None)
        host._open()
        await host.service.start()
        await whole(host, step)
        await gone(host)
        if not died:
            break
    assert step > 3, "there was nothing to die of"


async def whole(host: Host, step: int) -> None:
    """Records and kernel say the same, and what was there before works."""
    endpoints = host.service._store.endpoints()
    assert all(endpoint.ready for endpoint in endpoints), step
    assert host.pins() == sorted({os.path.basename(endpoint.netns) for endpoint in endpoints}), step
    interfaces = {name for _, name in socket.if_nameindex()}
    veths = {each.veth for each in endpoints}
    wait_until(lambda: {name for _, name in socket.if_nameindex() if name.startswith("veth")} == veths)
    networks = [each for each in host.service.list_networks() if each["Driver"] == "bridge"]
    bridges = {f"br-{each['Id'][:12]}" for each in networks if each["Name"] != "bridge"}
    assert {name for name in interfaces if name.startswith("br-")} == bridges, step
    assert set(command("nft", "list", "set", "ip", "orlop", "bridges").split('"')[1::2]) == bridges | {"orlop0"}
    ports = {
        (str(port.host_port), port.address) for each in endpoints for port in each.ports if ":" not in port.address
    }
    table = command("nft", "list", "table", "ip", "orlop")
    assert set(re.findall(r"tcp \. (\d+) : ([0-9.]+) \. \d+", table)) == ports, step
    held = await host.netd.held()
    assert set(held) == {each.container_id for each in endpoints if each.ports}, step
    owners, named = await host.netd.resolving()
    assert set(owners) == {each.container_id for each in endpoints if each.resolved}, step
    assert set(named) == {each.id for each in endpoints if each.names}, step
    neighbours = set(re.findall(r"^(172\S+) .*PERMANENT", command("ip", "-4", "neigh", "show"), re.MULTILINE))
    # One may be missing: of a container that was about to be let go, and is found alive.
    assert neighbours <= {each.address for each in endpoints if each.address}, step
    for endpoint in endpoints:
        assert run(endpoint.netns, "ip", "route").stdout.count("default") == 1, step
    both = [each for each in endpoints if each.container_id == "both"]
    with serving(both[0].netns, 81):
        assert echo("127.0.0.1", 8090) == b"hello", step


async def gone(host: Host) -> None:
    """Take everything away; nothing is left."""
    for endpoint in host.service._store.endpoints():
        await host.service.release(endpoint.container_id)
    for network in host.service.list_networks():
        if network["Driver"] == "bridge" and network["Name"] != "bridge":
            await host.service.remove_network(network["Name"])
    assert await host.netd.held() == {} and await host.netd.resolving() == ([], [])
    await host.close([])
    assert host.pins() == []
    # The kernel takes a namespace's interfaces away behind the answer.
    wait_until(lambda: {name for _, name in socket.if_nameindex()} == {"lo", "orlop0"})
