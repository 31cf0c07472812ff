# SPDX-License-Identifier: Apache-2.0
"""macvlan and ipvlan: containers on the wire of an interface, which is never one of the real host's."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from support.networks import HOST_ADDRESS, NEIGHBOUR_ADDRESS, Host, Neighbour, echoing, ip, pings, run
from support.networks import echo as ask

from orlop.dockerd.network import SandboxRequest
from orlop.engine.types import (
    IPAM,
    EndpointIPAMConfig,
    EndpointSettings,
    IPAMConfig,
    NetworkCreateRequest,
    PortBinding,
)
from orlop.errdefs import InvalidArgumentError, OrlopError, PermissionDeniedError, UnavailableError

pytestmark = pytest.mark.root

WIRE = "198.51.100.0/24"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an emulated machine Python takes its time to start."""
    monkeypatch.setattr("orlop.netd.client._START_SECONDS", 120.0)


def kernel_has(kind: str, *words: str) -> bool:
    """Whether the kernel makes interfaces of a kind; tried in a namespace of its own."""
    on = "link p " if words else ""
    script = f"ip link add p type veth peer name q && ip link add {on}name t type {kind} {' '.join(words)}"
    return subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, check=False).returncode == 0


@pytest.fixture
def dummy(netns: None) -> None:
    """The kernel has dummy interfaces."""
    if not kernel_has("dummy"):
        pytest.skip("no dummy interfaces in this kernel: tests/vm/run has one with them")


@pytest.fixture
def vlan(netns: None) -> None:
    """The kernel has VLANs."""
    if not kernel_has("vlan", "id", "7"):
        pytest.skip("no IEEE 802.1Q in this kernel: tests/vm/run has one with it")


@pytest.fixture
def ipvlan(netns: None) -> Iterator[None]:
    """The kernel has ipvlan."""
    if not kernel_has("ipvlan", "mode", "l2"):
        pytest.skip("no ipvlan in this kernel: tests/vm/run has one with it")
    yield


async def create(host: Host, name: str, driver: str, subnet: str = WIRE, **fields: Any) -> dict[str, Any]:
    given = IPAMConfig(
        subnet=subnet,
        ip_range=fields.pop("ip_range", ""),
        gateway=fields.pop("gateway", ""),
        aux_addresses=fields.pop("aux", {}),
    )
    opts = {key: value for key, value in fields.pop("opts", {}).items() if value}
    request = NetworkCreateRequest(name=name, driver=driver, ipam=IPAM(config=[given]), options=opts, **fields)
    return await host.service.create_network(request)


async def create_of(host: Host, name: str, driver: str, *given: IPAMConfig, opts: Any = None) -> dict[str, Any]:
    request = NetworkCreateRequest(name=name, driver=driver, ipam=IPAM(config=list(given)), options=opts or {})
    return await host.service.create_network(request)


def on_wire(mode: str = "") -> dict[str, Any]:
    """A network on the wire to the neighbour, which has nothing to do with this host's own address there."""
    aux = {"host": HOST_ADDRESS, "neighbour": NEIGHBOUR_ADDRESS}
    return {"opts": {"parent": "wire0", "macvlan_mode": mode}, "aux": aux, "ip_range": "198.51.100.64/26"}


@pytest.mark.parametrize(
    ("mode", "each_other"), [("", True), ("bridge", True), ("private", False), ("vepa", False)]
)
async def test_macvlan_modes(host: Host, neighbour: Neighbour, mode: str, each_other: bool) -> None:
    made = await create(
        host, "lan", "macvlan", gateway=NEIGHBOUR_ADDRESS, **on_wire(mode) | {"aux": {"host": HOST_ADDRESS}}
    )
    assert made["Driver"] == "macvlan" and made["IPAM"]["Config"][0]["Gateway"] == NEIGHBOUR_ADDRESS
    one, two = await host.connect("one", mode="lan"), await host.connect("two", mode="lan")
    assert one.netns_path and two.netns_path and one.endpoints["lan"].ip_address == "198.51.100.64"
    assert one.endpoints["lan"].mac_address == "02:42:c6:33:64:40"
    assert f"default via {NEIGHBOUR_ADDRESS} dev eth0" in run(one.netns_path, "ip", "route").stdout
    assert pings(one.netns_path, NEIGHBOUR_ADDRESS) and pings(neighbour.netns, "198.51.100.65")
    assert pings(one.netns_path, "198.51.100.65") == each_other
    assert not pings(one.netns_path, HOST_ADDRESS)  # the parent's own addresses are not on its wire
    found = run(one.netns_path, "busybox", "nslookup", "-type=a", "two", "127.0.0.11").stdout
    assert "198.51.100.65" in found
    with echoing(two.netns_path, 80):
        assert ask("198.51.100.65", 80, b"x", neighbour.netns) == b"x"
    await host.restart()
    assert pings(one.netns_path, NEIGHBOUR_ADDRESS)
    await host.service.detach("two", "lan")
    assert run(two.netns_path, "ip", "-o", "link").stdout.count("\n") == 1  # lo
    again = EndpointSettings(mac_address="02:00:00:00:00:09")
    request = _request("two")
    await host.service.attach(request, "lan", again)
    assert pings(two.netns_path, NEIGHBOUR_ADDRESS)
    assert "02:00:00:00:00:09" in run(two.netns_path, "ip", "link", "show", "eth0").stdout
    for name in ("one", "two"):
        await host.service.release(name)
    await host.service.remove_network("lan")
    await host.service._networks.close()
    assert "wire0" in {name for _, name in socket.if_nameindex()}


def _request(name: str) -> Any:
    return SandboxRequest(container_id=name, name=name, hostname=name, dns=["127.0.0.1"])


async def test_macvlan_passthru(host: Host, neighbour: Neighbour) -> None:
    before = ip("link show wire0")
    await create(host, "lan", "macvlan", **on_wire("passthru"))
    one = await host.connect("one", mode="lan")
    assert one.netns_path and pings(one.netns_path, NEIGHBOUR_ADDRESS)
    assert ip("link show wire0").split("link/ether")[1] == before.split("link/ether")[1]
    with pytest.raises(OrlopError, match=r"create macvlan interface eth0\): (Invalid argument|.*busy)"):
        await host.connect("two", mode="lan")  # it is one container's
    with pytest.raises(PermissionDeniedError, match="is already using parent interface wire0 in mode passthru"):
        await create(host, "more", "macvlan", "10.7.0.0/24", opts={"parent": "wire0"})
    await host.service.release("one")
    two = await host.connect("two", mode="lan")
    assert two.netns_path and pings(two.netns_path, NEIGHBOUR_ADDRESS)


async def test_macvlan_beside_a_bridge(host: Host, neighbour: Neighbour) -> None:
    """Ports are published through the bridge only if the default route is there."""
    await create(host, "lan", "macvlan", gateway=NEIGHBOUR_ADDRESS, **on_wire() | {"aux": {}})
    ports: dict[str, list[PortBinding] | None] = {"80/tcp": [PortBinding(host_port="8080")]}
    endpoints = {"bridge": EndpointSettings(), "lan": EndpointSettings()}
    one = await host.connect("one", mode="bridge", endpoints=endpoints, port_bindings=ports)
    assert one.netns_path and one.ports["80/tcp"] and "via 172.17.0.1" in run(one.netns_path, "ip", "route").stdout
    endpoints["lan"].gw_priority = 1
    two = await host.connect("two", mode="bridge", endpoints=endpoints, port_bindings={"80/tcp": [PortBinding()]})
    assert (
        two.netns_path
        and two.ports == {}
        and f"via {NEIGHBOUR_ADDRESS}" in run(two.netns_path, "ip", "route").stdout
    )


async def test_several_subnets(host: Host, neighbour: Neighbour) -> None:
    """The first that has room gives the address, an address that is asked for says which; each has its gateway."""
    run(neighbour.netns, "ip", "addr", "add", "10.9.0.1/24", "dev", "wire1")
    nearby = IPAMConfig(WIRE, "198.51.100.64/31", NEIGHBOUR_ADDRESS, {"host": HOST_ADDRESS})
    far = IPAMConfig("10.9.0.0/24", "", "10.9.0.1", {"printer": "10.9.0.2"})
    made = await create_of(host, "lan", "macvlan", nearby, far, opts={"parent": "wire0"})
    config = made["IPAM"]["Config"]
    assert [each["Subnet"] for each in config] == [WIRE, "10.9.0.0/24"]
    assert [each["AuxiliaryAddresses"] for each in config] == [{"host": HOST_ADDRESS}, {"printer": "10.9.0.2"}]
    given = {}
    for name in ("one", "two", "three"):
        given[name] = await host.connect(name, mode="lan")
    asked = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.9.0.77"))
    given["four"] = await host.connect("four", mode="lan", endpoints={"lan": asked})
    shown = [(each.endpoints["lan"].ip_address, each.endpoints["lan"].gateway) for each in given.values()]
    assert shown == [
        ("198.51.100.64", NEIGHBOUR_ADDRESS),
        ("198.51.100.65", NEIGHBOUR_ADDRESS),
        ("10.9.0.3", "10.9.0.1"),
        ("10.9.0.77", "10.9.0.1"),
    ]
    await host.restart()
    third = given["three"].netns_path or ""
    assert "default via 10.9.0.1 dev eth0" in run(third, "ip", "route").stdout
    assert pings(third, "10.9.0.1") and pings(third, "10.9.0.77") and pings(third, NEIGHBOUR_ADDRESS)
    assert pings(given["one"].netns_path or "", NEIGHBOUR_ADDRESS)
    status = host.service.inspect_network("lan")["Status"]["IPAM"]["Subnets"]
    assert {subnet: each["IPsInUse"] for subnet, each in status.items()} == {WIRE: 6, "10.9.0.0/24": 6}
    with pytest.raises(PermissionDeniedError, match="Address already in use"):
        await host.connect("five", mode="lan", endpoints={"lan": asked})
    asked = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.10.0.77"))
    with pytest.raises(InvalidArgumentError, match=r"no configured subnet contains IP address 10\.10\.0\.77"):
        await host.connect("five", mode="lan", endpoints={"lan": asked})
    with pytest.raises(PermissionDeniedError, match="Pool overlaps"):
        await create_of(host, "more", "macvlan", IPAMConfig("10.11.0.0/24"), IPAMConfig("10.9.0.128/25"))
    with pytest.raises(PermissionDeniedError, match="Pool overlaps"):
        await create_of(host, "more", "macvlan", IPAMConfig("10.11.0.0/24"), IPAMConfig("10.11.0.0/24"))
    with pytest.raises(PermissionDeniedError, match="bridge driver doesn't support multiple subnets"):
        await create_of(host, "more", "bridge", IPAMConfig("10.11.0.0/24"), IPAMConfig("10.12.0.0/24"))


BAD: tuple[tuple[str, dict[str, str], str], ...] = (
    ("macvlan", {"parent": "lo"}, "loopback interface is not a valid macvlan parent link"),
    ("macvlan", {"parent": "nope"}, "-o parent interface was not found on the host: nope"),
    ("macvlan", {"parent": "nope.7"}, "-o parent interface was not found on the host: nope"),
    ("ipvlan", {"parent": "wire0.x"}, "unable to parse a valid vlan id from: x"),
    ("ipvlan", {"parent": "wire0.4095"}, "vlan id must be between 1-4094, received: 4095"),
    ("macvlan", {"parent": "wire0/x"}, "is no interface name"),
    ("macvlan", {"macvlan_mode": "bridged"}, "one of bridge, private, vepa, passthru"),
    ("ipvlan", {"ipvlan_mode": "l4"}, "one of l2, l3, l3s"),
    ("ipvlan", {"ipvlan_flag": "x"}, "unknown ipvlan flag"),
    (
        "macvlan",
        {"parant": "wire0"},
        'unknown option "parant" of network driver macvlan: did you mean "parent"?',
    ),
)


async def test_bad_parents(host: Host, neighbour: Neighbour) -> None:
    before = socket.if_nameindex()
    for driver, opts, message in BAD:
        with pytest.raises(InvalidArgumentError) as raised:
            await create(host, "lan", driver, opts=opts)
        assert message in str(raised.value) and socket.if_nameindex() == before
    assert [each["Name"] for each in host.service.list_networks()] == ["bridge", "host", "none"]


async def test_a_parent_that_is_gone(host: Host) -> None:
    ip("link add p0 type veth peer name p1")
    await create(host, "lan", "macvlan", opts={"parent": "p0"})
    ip("link del p0")
    with pytest.raises(OrlopError, match=r"find parent interface p0\): No such device"):
        await host.connect("one", mode="lan")
    assert host.pins() == []
    ip("link add p0 type veth peer name p1")
    assert (await host.connect("one", mode="lan")).netns_path


async def test_what_the_kernel_lacks_is_said(host: Host) -> None:
    if kernel_has("dummy"):
        pytest.skip("this kernel has dummy interfaces")
    with pytest.raises(
        UnavailableError, match=r"cannot set up .*create dummy interface dm-.*: Unknown device type"
    ):
        await create(host, "lan", "macvlan")
    assert [each["Name"] for each in host.service.list_networks()] == ["bridge", "host", "none"]


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
async def test_without_a_parent(dummy: None, host: Host, driver: str, request: pytest.FixtureRequest) -> None:
    if driver == "ipvlan":
        request.getfixturevalue("ipvlan")
    made = await create(host, "lan", driver, "10.7.0.0/24", gateway="10.7.0.1")
    name = f"{'dm' if driver == 'macvlan' else 'di'}-{made['Id'][:12]}"
    assert "state" in ip(f"link show {name}")
    one, two = await host.connect("one", mode="lan"), await host.connect("two", mode="lan")
    assert one.netns_path and two.netns_path and pings(one.netns_path, two.endpoints["lan"].ip_address)
    assert "default" not in run(one.netns_path, "ip", "route").stdout
    for box in ("one", "two"):
        await host.service.release(box)
    await host.service.remove_network("lan")
    await host.service._networks.close()
    assert name not in {each for _, each in socket.if_nameindex()}


async def test_sub_interfaces(vlan: None, host: Host, neighbour: Neighbour) -> None:
    def links() -> set[str]:
        return {name for _, name in socket.if_nameindex()}

    run(neighbour.netns, "ip", "link", "add", "link", "wire1", "name", "wire1.7", "type", "vlan", "id", "7")
    run(neighbour.netns, "ip", "addr", "add", "10.7.0.1/24", "dev", "wire1.7")
    run(neighbour.netns, "ip", "link", "set", "wire1.7", "up")
    await create(host, "seven", "macvlan", "10.7.0.0/24", gateway="10.7.0.1", opts={"parent": "wire0.7"})
    await create(host, "also", "macvlan", "10.8.0.0/24", opts={"parent": "wire0.7"})
    one = await host.connect("one", mode="seven")
    assert one.netns_path and pings(one.netns_path, "10.7.0.1")
    await host.service.release("one")
    await host.service.remove_network("seven")
    await host.service._networks.close()
    assert "wire0.7" in links()  # the other network is on it
    await host.restart()
    await host.service.remove_network("also")
    await host.service._networks.close()
    assert "wire0.7" not in links() and "wire0" in links()
    ip("link add link wire0 name wire0.9 type vlan id 9")
    await create(host, "nine", "macvlan", "10.9.0.0/24", opts={"parent": "wire0.9"})
    await host.service.remove_network("nine")
    await host.service._networks.close()
    assert "wire0.9" in links()  # not ours


@pytest.mark.parametrize(("flag", "each_other"), [("", True), ("private", False), ("vepa", False)])
async def test_ipvlan_l2(ipvlan: None, host: Host, neighbour: Neighbour, flag: str, each_other: bool) -> None:
    wire = on_wire() | {"opts": {"parent": "wire0", "ipvlan_flag": flag}, "aux": {"host": HOST_ADDRESS}}
    await create(host, "lan", "ipvlan", gateway=NEIGHBOUR_ADDRESS, **wire)
    one, two = await host.connect("one", mode="lan"), await host.connect("two", mode="lan")
    assert one.netns_path and two.netns_path and one.endpoints["lan"].mac_address == ""
    assert f"default via {NEIGHBOUR_ADDRESS} dev eth0" in run(one.netns_path, "ip", "route").stdout
    assert pings(one.netns_path, NEIGHBOUR_ADDRESS) and pings(neighbour.netns, "198.51.100.65")
    assert pings(one.netns_path, "198.51.100.65") == each_other
    with pytest.raises(InvalidArgumentError, match="ipvlan interfaces do not support custom mac address"):
        await host.connect("three", mode="lan", mac_address="02:00:00:00:00:01")
    with pytest.raises(PermissionDeniedError, match="is already using parent interface wire0"):
        await create(host, "more", "ipvlan", "10.7.0.0/24", opts={"parent": "wire0"})
    await host.service.detach("one", "lan")
    assert not pings(neighbour.netns, "198.51.100.64")


@pytest.mark.parametrize("mode", ["l3", "l3s"])
async def test_ipvlan_l3(ipvlan: None, host: Host, neighbour: Neighbour, mode: str) -> None:
    await create(host, "lan", "ipvlan", "10.7.0.0/24", opts={"parent": "wire0", "ipvlan_mode": mode})
    one, two = await host.connect("one", mode="lan"), await host.connect("two", mode="lan")
    assert one.netns_path and two.netns_path
    assert "default dev eth0 scope link" in run(one.netns_path, "ip", "route").stdout
    assert pings(one.netns_path, two.endpoints["lan"].ip_address)
    # the wire has no ARP for them: whoever wants to reach them needs a route to the parent
    run(neighbour.netns, "ip", "route", "add", "10.7.0.0/24", "via", HOST_ADDRESS)
    assert await asyncio.to_thread(pings, one.netns_path, NEIGHBOUR_ADDRESS)


@pytest.mark.parametrize("mode", ["l3", "l3s"])
async def test_ipvlan_l3_with_several_subnets(ipvlan: None, host: Host, neighbour: Neighbour, mode: str) -> None:
    """In these modes containers of all the subnets reach each other, without any gateway."""
    opts = {"parent": "wire0", "ipvlan_mode": mode}
    small = IPAMConfig("10.7.0.0/24", "10.7.0.8/31")
    await create_of(host, "lan", "ipvlan", small, IPAMConfig("10.8.0.0/24"), opts=opts)
    boxes = [await host.connect(name, mode="lan") for name in ("one", "two", "three")]
    addresses = [box.endpoints["lan"].ip_address for box in boxes]
    assert addresses == ["10.7.0.8", "10.7.0.9", "10.8.0.1"]
    assert pings(boxes[0].netns_path or "", addresses[2]) and pings(boxes[2].netns_path or "", addresses[1])
