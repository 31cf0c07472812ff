# SPDX-License-Identifier: Apache-2.0
"""Containers under a real firewalld: what it lets pass, before and after it makes its rules anew."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.firewalld import UNPACKED, Firewalld, running_firewalld
from support.networks import HOST_ADDRESS, NEIGHBOUR_ADDRESS, Host, Neighbour, echo, echoing, pings, run
from support.pace import PACE

from orlop.dockerd.network import host_removal
from orlop.dockerd.network.kernel import Kernel
from orlop.engine.types import NetworkCreateRequest, PortBinding

pytestmark = pytest.mark.root

PORTS: dict[str, list[PortBinding] | None] = {
    "80/tcp": [PortBinding(host_port="8080")],
    "81/tcp": [PortBinding(host_ip="127.0.0.1", host_port="8081")],
}


@pytest.fixture(params=["distribution", pytest.param("2", marks=pytest.mark.long)])
def firewalld(neighbour: Neighbour, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Firewalld]:
    unpacked = UNPACKED[request.param]
    if not unpacked.exists():
        pytest.skip(f"no firewalld in {unpacked}: tools/setup dev puts it there")
    with running_firewalld(tmp_path, unpacked) as daemon:
        yield daemon


@contextlib.asynccontextmanager
async def started(directory: Path, **config: bool) -> AsyncIterator[Host]:
    """A service that is started where firewalld runs already."""
    host = Host(directory, **config)
    try:
        await host.service.start()
        yield host
    finally:
        rows = host.connection.execute("SELECT DISTINCT container_id FROM endpoints").fetchall()
        await host.close([row[0] for row in rows])


async def eventually(condition: Callable[[], bool]) -> None:
    """The service hears of changes from the kernel, and nobody tells us when it has seen to them."""
    async with asyncio.timeout(60 * PACE):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def zone_has(firewalld: Firewalld, *bridges: str) -> None:
    await eventually(lambda: set(bridges) <= set(firewalld("--zone=docker", "--list-interfaces").split()))


@pytest.mark.long
async def test_a_reload_and_a_restart_change_nothing(
    firewalld: Firewalld, neighbour: Neighbour, tmp_path: Path
) -> None:
    """CVE-2025-54388, CVE-2025-54410: what firewalld lets pass, and what is kept apart all the time."""
    async with started(tmp_path) as host:
        one, two = await host.connect("one", port_bindings=PORTS), await host.connect("two")
        front = await host.service.create_network(NetworkCreateRequest(name="front"))
        bridge = f"br-{front['Id'][:12]}"
        three = await host.connect("three", mode="front")
        assert one.netns_path and two.netns_path and three.netns_path
        inside, beside, other = one.netns_path, two.netns_path, three.netns_path

        def as_it_should_be() -> bool:
            """By the ways that lead through firewalld's rules."""
            return (
                pings(inside, NEIGHBOUR_ADDRESS)
                and pings(other, NEIGHBOUR_ADDRESS)
                and echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x"
                and echo(HOST_ADDRESS, 8080, b"x", beside) == b"x"  # by the proxy: it comes in
                and echo(HOST_ADDRESS, 8080, b"x", other) == b"x"
            )

        def nothing_else() -> None:
            assert echo(HOST_ADDRESS, 8081, b"x", neighbour.netns) == b""
            assert not pings(other, "172.17.0.2") and not pings(neighbour.netns, "172.17.0.2")

        with echoing(inside, 80, 81):
            await eventually(as_it_should_be)
            nothing_else()
            firewalld("--reload")
            nothing_else()
            await eventually(lambda: host.service.firewall()["Info"][0][0] == "ReloadedAt")
            await eventually(as_it_should_be)
            await zone_has(firewalld, "orlop0", bridge)
            nothing_else()
            firewalld.stop()
            await eventually(as_it_should_be)
            firewalld.start()
            await zone_has(firewalld, "orlop0", bridge)
            await eventually(as_it_should_be)
            nothing_else()


async def test_bridges_are_in_dockers_zone(firewalld: Firewalld, neighbour: Neighbour, tmp_path: Path) -> None:
    """From their making to their removal; but one that the administrator put into another zone stays in that."""
    firewalld("--permanent", "--zone=trusted", "--add-interface=chosen")
    async with started(tmp_path) as host:
        assert "docker-forwarding" in firewalld("--get-policies").split()
        assert host.service.firewall()["Driver"] == "nftables+firewalld"
        front = await host.service.create_network(NetworkCreateRequest(name="front"))
        bridge = f"br-{front['Id'][:12]}"
        await host.service.create_network(
            NetworkCreateRequest(name="side", options={"com.docker.network.bridge.name": "chosen"})
        )
        assert sorted(firewalld("--zone=docker", "--list-interfaces").split()) == sorted(["orlop0", bridge])
        assert firewalld("--get-zone-of-interface=chosen") == "trusted"
        front_box = await host.connect("one", mode="front", port_bindings=PORTS)
        assert front_box.netns_path
        with echoing(front_box.netns_path, 80):
            assert echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x"
            assert pings(front_box.netns_path, NEIGHBOUR_ADDRESS)
        await host.service.release("one")
        for name in ("front", "side"):
            await host.service.remove_network(name)
        assert firewalld("--zone=docker", "--list-interfaces") == "orlop0"
        assert firewalld("--get-zone-of-interface=chosen") == "trusted"
    kernel = Kernel()
    removals = dict(host_removal.found(kernel, [], str(tmp_path / "run" / "netns")))
    removals["bridge orlop0"]()
    kernel.close()
    assert firewalld("--zone=docker", "--list-interfaces") == ""


@pytest.mark.long
async def test_published_ports_that_firewalld_judges(
    firewalld: Firewalld, neighbour: Neighbour, tmp_path: Path
) -> None:
    """`host-firewall`: they are services of the machine."""
    async with started(tmp_path, host_firewall=True) as host:
        one = await host.connect("one", port_bindings=PORTS)
        assert one.netns_path
        with echoing(one.netns_path, 80):
            assert echo("127.0.0.1", 8080) == b"hello"
            assert echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b""
            firewalld("--add-port=8080/tcp")
            await eventually(lambda: echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x")


async def test_a_firewalld_that_cannot_be_asked(
    firewalld: Firewalld, neighbour: Neighbour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rules are there, the bus is not (dockerd in a container, say): rules at the head of its chains."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nobody")
    async with started(tmp_path) as host:
        one = await host.connect("one")
        assert one.netns_path and pings(one.netns_path, NEIGHBOUR_ADDRESS)
        listing = run("/proc/thread-self/ns/net", "nft", "list", "chain", "inet", "firewalld", "filter_FORWARD")
        assert 'comment "orlop orlop0"' in listing.stdout
