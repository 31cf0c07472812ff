# SPDX-License-Identifier: Apache-2.0
"""Network plugins: a small one in a process of its own, over Docker's remote driver protocol."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support.containerd import wait_until
from support.networks import HOST_ADDRESS, NEIGHBOUR_ADDRESS, Host, Neighbour, echo, echoing, pings, run
from support.pace import PACE

from orlop.dockerd.network import SandboxRequest
from orlop.dockerd.plugins.client import Plugins
from orlop.dockerd.plugins.discovery import Discovery
from orlop.engine.types import (
    IPAM,
    EndpointIPAMConfig,
    EndpointSettings,
    IPAMConfig,
    NetworkCreateRequest,
    PortBinding,
)
from orlop.errdefs import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)

pytestmark = pytest.mark.root


class Plugin:
    """The plugin's process, and what it was called."""

    def __init__(self, path: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        argv = [sys.executable, "-m", "support.network_plugin", str(path)]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment, text=True)
        while not path.exists():
            assert self._process.poll() is None

    def end(self) -> list[tuple[str, dict[str, Any]]]:
        """End it; its calls in their order."""
        self._process.terminate()
        out, _ = self._process.communicate(timeout=10)
        return [tuple(json.loads(line)) for line in out.splitlines()]


@pytest.fixture
def plugin(netns: None, tmp_path: Path) -> Iterator[Plugin]:
    """A plugin called `own` in the test's namespace."""
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists():  # else FORWARD, which lets nobody but our bridges pass, would see the plugin's frames
        bridged.write_text("0")
    (tmp_path / "plugins").mkdir()
    started = Plugin(tmp_path / "plugins" / "own.sock")
    yield started
    started.end()


@pytest_asyncio.fixture
async def plugged(plugin: Plugin, tmp_path: Path) -> AsyncIterator[Host]:
    """A service that finds the plugin."""
    machine = Host(tmp_path, plugins=Plugins(Discovery([str(tmp_path / "plugins")], [])))
    await machine.service.start()
    yield machine
    rows = machine.connection.execute("SELECT container_id FROM endpoints").fetchall()
    await machine.close([row[0] for row in rows])
    assert machine.pins() == []


def wanted(name: str = "mine", subnet: str = "10.66.0.0/24", **fields: Any) -> NetworkCreateRequest:
    given = IPAM(config=[IPAMConfig(subnet=subnet)])
    return NetworkCreateRequest(name=name, driver="own", ipam=given, **fields)


def links() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


async def test_a_plugin_makes_networks_and_endpoints(plugged: Host, plugin: Plugin) -> None:
    before = links()
    made = await plugged.service.create_network(wanted(options={"colour": "red"}))
    assert made["Driver"] == "own" and f"pb{made['Id'][:8]}" in links()
    ports: dict[str, list[PortBinding] | None] = {"80/tcp": [PortBinding(host_port="8080")]}
    one = await plugged.connect("one", mode="mine", port_bindings=ports, exposed_ports=["80/tcp"])
    assert one.netns_path and one.endpoints["mine"].mac_address == "02:00:00:00:00:42"
    assert (one.endpoints["mine"].ip_address, one.endpoints["mine"].gateway) == ("10.66.0.2", "10.66.0.1")
    assert pings(one.netns_path, "10.66.0.1")
    routes = run(one.netns_path, "ip", "route").stdout
    assert "default via 10.66.0.1 dev plug0" in routes and "10.67.0.0/24 via 10.66.0.9 dev plug0" in routes
    await plugged.restart()
    assert pings(one.netns_path, "10.66.0.1")
    two = await plugged.connect("two")
    request = SandboxRequest(container_id="two", name="two", hostname="two", dns=["127.0.0.1"])
    asked = EndpointSettings(mac_address="02:00:00:00:00:77")
    there = await plugged.service.attach(request, "mine", asked)
    assert two.netns_path and there.settings.ip_address == "10.66.0.3"
    assert "02:00:00:00:00:77" in run(two.netns_path, "ip", "link").stdout
    assert pings(two.netns_path, "10.66.0.2")
    await plugged.service.detach("two", "mine")
    await plugged.service.release("one")
    await plugged.service.release("two")
    await plugged.service.remove_network("mine")
    await plugged.service._networks.close()
    wait_until(lambda: links() == before)  # the kernel takes the links of a dead namespace down by and by
    calls = plugin.end()
    names = [method for method, _ in calls if method.startswith("NetworkDriver")]
    joining = ["CreateEndpoint", "Join", "ProgramExternalConnectivity"]
    leaving = ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint"]
    expected = ["GetCapabilities", "CreateNetwork", *joining, *joining, *leaving, *leaving, "DeleteNetwork"]
    assert names == [f"NetworkDriver.{name}" for name in expected]
    told = next(body for method, body in calls if method == "NetworkDriver.CreateNetwork")
    assert told["Options"]["com.docker.network.generic"] == {"colour": "red"}
    assert told["IPv4Data"] == [
        {"AddressSpace": "LocalDefault", "Pool": "10.66.0.0/24", "Gateway": "10.66.0.1/24", "AuxAddresses": {}}
    ]
    told = next(body for method, body in calls if method.endswith("ProgramExternalConnectivity"))
    assert told["Options"]["com.docker.network.portmap"][0]["HostPort"] == 8080


@pytest.mark.parametrize("method", ["CreateEndpoint", "Join", "ProgramExternalConnectivity"])
async def test_what_a_plugin_refuses_leaves_nothing(plugged: Host, plugin: Plugin, method: str) -> None:
    await plugged.service.create_network(wanted(options={"refuse": f"NetworkDriver.{method}"}))
    before = links()
    message = f'plugin "own": NetworkDriver.{method}: it does not please me'
    with pytest.raises(InternalError, match=message):
        await plugged.connect("one", mode="mine")
    assert plugged.pins() == [] and links() == before
    assert plugged.connection.execute("SELECT count(*) FROM endpoints").fetchone() == (0,)


async def test_a_plugin_that_refuses_or_is_away(plugged: Host, plugin: Plugin) -> None:
    before = links()
    with pytest.raises(InternalError, match=r'plugin "own": NetworkDriver\.CreateNetwork: it does not please me'):
        await plugged.service.create_network(wanted(options={"refuse": "NetworkDriver.CreateNetwork"}))
    assert links() == before
    await plugged.service.create_network(wanted())
    plugin.end()
    with pytest.raises(UnavailableError, match=r'plugin "own" at unix://.* does not answer NetworkDriver'):
        await plugged.service.create_network(wanted("late", "10.69.0.0/24"))
    assert "late" not in [each["Name"] for each in plugged.service.list_networks()]
    await plugged.service.remove_network("mine")  # it goes all the same
    assert "mine" not in [each["Name"] for each in plugged.service.list_networks()]


async def test_addresses_from_a_plugin(plugged: Host, plugin: Plugin) -> None:
    request = NetworkCreateRequest(name="front", ipam=IPAM(driver="own", options={"tier": "gold"}))
    made = await plugged.service.create_network(request)
    assert made["IPAM"] == {
        "Driver": "own",
        "Options": {"tier": "gold"},
        "Config": [{"Subnet": "10.66.0.0/24", "Gateway": "10.66.0.1"}],
    }
    one = await plugged.connect("one", mode="front")
    assert one.endpoints["front"].ip_address == "10.66.0.100"
    wish = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.66.0.7"))
    two = await plugged.connect("two", mode="front", endpoints={"front": wish})
    assert two.endpoints["front"].ip_address == "10.66.0.7" and two.netns_path
    assert pings(two.netns_path, "10.66.0.100")
    await plugged.restart()
    await plugged.service.release("one")
    await plugged.service.release("two")
    await plugged.service.remove_network("front")
    with pytest.raises(NotFoundError, match='plugin "nope" not found'):
        await plugged.service.create_network(NetworkCreateRequest(name="x", ipam=IPAM(driver="nope")))
    with pytest.raises(PermissionDeniedError, match="Pool overlaps"):
        await plugged.service.create_network(wanted("y", "10.66.0.0/24"))
        await plugged.service.create_network(request)
    calls = [(method.partition(".")[2], body) for method, body in plugin.end() if method.startswith("Ipam")]
    told = calls[1][1]
    assert told == {"AddressSpace": "near", "Pool": "", "SubPool": "", "Options": {"tier": "gold"}, "V6": False}
    given = [body["Address"] for name, body in calls if name == "ReleaseAddress"]
    assert given[:3] == ["10.66.0.100", "10.66.0.7", "10.66.0.1"]
    names = [name for name, _ in calls]
    assert names.count("RequestPool") == names.count("ReleasePool") == 2


@pytest.mark.parametrize("address", ["10.66.0.50/25", ""])
async def test_no_addresses_but_the_plugins(plugged: Host, plugin: Plugin, address: str) -> None:
    """The IPAM driver `null`: the plugin says the address, or the container finds one itself, by DHCP say."""
    nobody = IPAM(driver="null")
    for driver in ("bridge", "macvlan", "ipvlan"):
        with pytest.raises(InvalidArgumentError, match="ipv4 pool is empty"):
            await plugged.service.create_network(NetworkCreateRequest(name="x", driver=driver, ipam=nobody))
    given = IPAM(driver="null", config=[IPAMConfig(subnet="10.66.0.0/24")])
    with pytest.raises(InvalidArgumentError, match="null ipam driver does not handle specific address pool"):
        await plugged.service.create_network(NetworkCreateRequest(name="x", driver="own", ipam=given))
    request = NetworkCreateRequest(name="mine", driver="own", ipam=nobody, options={"address": address})
    made = await plugged.service.create_network(request)
    assert made["IPAM"] == {"Driver": "null", "Options": None, "Config": [{"Subnet": "0.0.0.0/0"}]}
    await plugged.service.create_network(NetworkCreateRequest(name="other"))  # there is room beside it
    one = await plugged.connect("one", mode="mine")
    assert one.netns_path
    settings = one.endpoints["mine"]
    assert (settings.ip_address, settings.ip_prefix_len) == (("10.66.0.50", 25) if address else ("", 0))
    assert (f"inet {address} " in run(one.netns_path, "ip", "addr", "show", "plug0").stdout) == bool(address)
    (shown,) = plugged.service.inspect_network("mine")["Containers"].values()
    assert shown["IPv4Address"] == address
    await plugged.restart()
    await plugged.service.release("one")
    await plugged.service.remove_network("mine")
    told = [body for method, body in plugin.end() if method == "NetworkDriver.CreateNetwork"]
    assert [each["IPv4Data"] for each in told] == [[{"AddressSpace": "null", "Pool": "0.0.0.0/0"}]]


@pytest.mark.parametrize("method", ["CreateNetwork", "CreateEndpoint", "Leave", "DeleteNetwork"])
async def test_a_plugin_that_hangs_holds_up_nobody_else(plugged: Host, plugin: Plugin, method: str) -> None:
    """Networks and containers of other drivers come and go meanwhile, and so does the daemon."""
    hanging = wanted(options={"hang": f"NetworkDriver.{method}"})
    tasks: list[asyncio.Task[Any]] = []
    begun = asyncio.create_task(plugged.service.create_network(hanging))
    tasks.append(begun)
    if method != "CreateNetwork":
        await begun
        if method != "DeleteNetwork":
            tasks.append(asyncio.create_task(plugged.connect("one", mode="mine")))
            if method == "Leave":
                await tasks[-1]
                tasks.append(asyncio.create_task(plugged.service.release("one")))
        else:
            tasks.append(asyncio.create_task(plugged.service.remove_network("mine")))
    async with asyncio.timeout(60 * PACE):
        for number in range(8):  # more than the loop has threads
            await plugged.service.create_network(NetworkCreateRequest(name=f"n{number}"))
        with pytest.raises(AlreadyExistsError if method != "DeleteNetwork" else PermissionDeniedError):
            again = wanted() if method != "DeleteNetwork" else wanted("other")
            await plugged.service.create_network(again)  # its name and its subnet are still taken
        await plugged.connect("two", mode="n1")
        await plugged.service.release("two")
        for number in range(8):
            await plugged.service.remove_network(f"n{number}")
        await plugged.restart()  # as after its death
    assert not tasks[-1].done()
    plugin.end()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_without_a_gateway_of_the_plugins(plugin: Plugin, neighbour: Neighbour, plugged: Host) -> None:
    """As with Docker's docker_gwbridge: the way out, and published ports, by a bridge that users do not see."""
    await plugged.service.create_network(wanted(options={"gateway": "none"}))
    ports: dict[str, list[PortBinding] | None] = {"80/tcp": [PortBinding(host_port="8080")]}
    one = await plugged.connect("one", mode="mine", port_bindings=ports)
    two = await plugged.connect("two", mode="mine", mac_address="02:00:00:00:00:77")
    here, there = one.netns_path or "", two.netns_path or ""
    assert list(one.endpoints) == ["mine"] and one.ports["80/tcp"] and "172.18" not in one.hosts
    gate = plugged.service.inspect_network("docker_gwbridge")
    names = {f"gateway_{box.sandbox_id[:12]}" for box in (one, two)}
    assert set(gate["Containers"]) == {each["Name"] for each in gate["Containers"].values()} == names
    assert pings(here, NEIGHBOUR_ADDRESS) and pings(there, NEIGHBOUR_ADDRESS) and pings(here, "10.66.0.3")
    lookup = run(here, "busybox", "nslookup", "-type=a", "two", "127.0.0.11", check=False).stdout
    assert "10.66.0.3" in lookup and "172.18" not in lookup
    rest = run(there, "ip", "-4", "-o", "addr").stdout.split("172.18.")[1].partition("/")[0]
    assert not pings(here, f"172.18.{rest}")  # it keeps its containers apart
    with echoing(here, 80):
        assert echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x"
        await plugged.restart()
        assert echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x" and pings(there, NEIGHBOUR_ADDRESS)
        with pytest.raises(PermissionDeniedError, match=r'docker_gwbridge has active endpoints \(name:"gateway_'):
            await plugged.service.remove_network("docker_gwbridge")
        # a network with a way out of its own makes it superfluous, and its leaving needful again
        request = SandboxRequest(container_id="one", name="one", hostname="one", dns=["127.0.0.1"])
        request.port_bindings = ports
        attached = await plugged.service.attach(request, "bridge", EndpointSettings())
        assert attached.ports["80/tcp"] and echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x"
        left = set(plugged.service.inspect_network("docker_gwbridge")["Containers"])
        assert left == {f"gateway_{two.sandbox_id[:12]}"}
        detached = await plugged.service.detach("one", "bridge")
        assert detached.ports["80/tcp"] and echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x"
        assert pings(here, NEIGHBOUR_ADDRESS)
    await plugged.service.detach("one", "mine")
    assert run(here, "ip", "-o", "link").stdout.count("\n") == 1  # lo
    box = plugged.service.sandbox("one")
    assert box is not None and box.endpoints == {}
    for name in ("one", "two"):
        await plugged.service.release(name)
    await plugged.service.remove_network("docker_gwbridge")
    await plugged.service.remove_network("mine")


@pytest.mark.parametrize("gateway", ["contained", "routed"])
async def test_no_way_out_that_the_plugin_does_not_want(plugged: Host, plugin: Plugin, gateway: str) -> None:
    await plugged.service.create_network(wanted(options={"gateway": gateway}))
    one = await plugged.connect("one", mode="mine")
    routes = run(one.netns_path or "", "ip", "route").stdout
    assert ("default" in routes) is (gateway == "routed")
    assert "docker_gwbridge" not in {each["Name"] for each in plugged.service.list_networks()}


async def test_a_scope_that_is_none(plugged: Host, plugin: Plugin) -> None:
    await plugged.service.create_network(wanted(options={"scope": "galactic"}))
    message = r'plugin "own": NetworkDriver\.GetCapabilities: Scope: \'galactic\' is not local or global'
    with pytest.raises(InternalError, match=message):
        await plugged.service.create_network(wanted("more", "10.67.0.0/24"))
    assert "more" not in {each["Name"] for each in plugged.service.list_networks()}
