# SPDX-License-Identifier: Apache-2.0
"""Networks of users against the kernel: who reaches whom, several networks a container, what a crash leaves."""

import asyncio
import re
import signal
import socket
import time
from typing import Any

import pytest
from support.networks import (
    HOST_ADDRESS,
    NEIGHBOUR_ADDRESS,
    Host,
    Neighbour,
    command,
    echo,
    end,
    ip,
    pings,
    run,
    serving,
)

from orlop.dockerd.network import SandboxRequest, creation, ipam, options
from orlop.dockerd.network.drivers.bridge import BridgeDriver
from orlop.dockerd.network.firewall import RESOLVER_PORT
from orlop.dockerd.network.gateway import choose, in_order
from orlop.dockerd.network.types import Endpoint, Network
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
    NotImplementedByUsError,
    OrlopError,
    PermissionDeniedError,
    UnavailableError,
)

BRIDGE = "com.docker.network.bridge"


def wanted(name: str = "front", subnet: str = "", **fields: Any) -> NetworkCreateRequest:
    given = [IPAMConfig(subnet=subnet, **fields.pop("ipam", {}))] if subnet or "ipam" in fields else []
    return NetworkCreateRequest(name=name, ipam=IPAM(config=given), **fields)


async def create(host: Host, name: str = "front", subnet: str = "", **fields: Any) -> dict[str, Any]:
    return await host.service.create_network(wanted(name, subnet, **fields))


async def enter(host: Host, network: str, name: str, **settings: Any) -> Any:
    request = SandboxRequest(container_id=name, name=name, hostname=name, dns=["127.0.0.1"])
    return await host.service.attach(request, network, EndpointSettings(**settings))


def lookup(netns: str, name: str) -> list[str]:
    out = run(netns, "busybox", "nslookup", "-type=a", name, "127.0.0.11", check=False).stdout
    return sorted(re.findall(r"^Address: (\S+)$", out, re.MULTILINE))


def links() -> set[str]:
    return {name for _, name in socket.if_nameindex() if name.startswith(("br-", "veth"))}


# -- plans


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (wanted(" "), InvalidArgumentError, "name is empty"),
        (wanted("a/b"), InvalidArgumentError, "invalid name"),
        (wanted("host"), PermissionDeniedError, "operation is not permitted on predefined host network "),
        (wanted(driver="null"), PermissionDeniedError, 'only one instance of "null" network is allowed'),
        (wanted(driver="weave"), NotFoundError, 'plugin "weave" not found'),
        (wanted(scope="swarm"), NotImplementedByUsError, "not a swarm manager"),
        (
            wanted(config_only=True, internal=True),
            PermissionDeniedError,
            "can only contain network specific fields",
        ),
        (
            wanted(config_only=True, config_from={"Network": "x"}),
            PermissionDeniedError,
            "a configuration network cannot depend on another configuration network",
        ),
        (wanted(enable_ipv4=False), InvalidArgumentError, "IPv4 or IPv6 must be enabled"),
        (wanted(ipam={"gateway": "10.0.0.1"}), InvalidArgumentError, "must have a corresponding subnet"),
        (
            wanted(subnet="10.0.0.5/24"),
            InvalidArgumentError,
            "invalid subnet 10.0.0.5/24: it should be 10.0.0.0/24",
        ),
        (wanted(subnet="10.0.0.0/x"), InvalidArgumentError, "invalid subnet 10.0.0.0/x"),
        (wanted(subnet="10.0.0.0/32"), InvalidArgumentError, "no room"),
        (
            wanted(subnet="10.0.0.0/24", ipam={"gateway": "10.0.1.1", "ip_range": "10.0.2.0/25"}),
            InvalidArgumentError,
            "parent subnet 10.0.0.0/24 doesn't contain ip-range\n* invalid gateway 10.0.1.1: parent subnet",
        ),
        (
            wanted(subnet="10.0.0.0/24", ipam={"aux_addresses": {"nas": "10.9.0.1"}}),
            InvalidArgumentError,
            "invalid auxiliary address nas: parent subnet",
        ),
        (
            wanted(subnet="10.0.0.0/24", ipam={"gateway": "10.0.0.0"}),
            InvalidArgumentError,
            "failed to allocate gateway (10.0.0.0): Address already in use",
        ),
        (
            wanted(subnet="10.0.0.0/24", ipam={"gateway": "10.0.0.9", "aux_addresses": {"nas": "10.0.0.9"}}),
            InvalidArgumentError,
            "failed to allocate secondary ip address (nas:10.0.0.9): Address already in use",
        ),
        (wanted(options={f"{BRIDGE}.enable_icc": "maybe"}), InvalidArgumentError, "enable_icc value: 'maybe'"),
        (wanted(options={f"{BRIDGE}.name": "x" * 16}), InvalidArgumentError, "is no interface name"),
        (wanted(options={f"{BRIDGE}.host_binding_ipv4": "x"}), InvalidArgumentError, "host_binding_ipv4"),
        (wanted(options={f"{BRIDGE}.gateway_mode_ipv4": "rooted"}), InvalidArgumentError, "unknown gateway mode"),
        (wanted(options={f"{BRIDGE}.gateway_mode_ipv6": "isolated"}), InvalidArgumentError, "internal network"),
        (
            wanted(options={f"{BRIDGE}.enable_ic": "true"}),
            InvalidArgumentError,
            f'unknown option "{BRIDGE}.enable_ic" of network driver bridge: did you mean "{BRIDGE}.enable_icc"?',
        ),
        (wanted(options={f"{BRIDGE}.trusted_host_interfaces": "eth0:a/b"}), InvalidArgumentError, "'a/b'"),
        (wanted(options={"com.docker.network.host_ipv4": "::1"}), InvalidArgumentError, "not an ipv4 address"),
        (wanted(options={options.MTU: "10"}), InvalidArgumentError, "driver.mtu value: '10'"),
    ],
)
def test_bad_networks(request_: NetworkCreateRequest, error: type[OrlopError], message: str) -> None:
    with pytest.raises(error) as raised:
        creation.plan(request_, "0" * 64, "")
    assert message in str(raised.value)


def test_subnets_and_gateways() -> None:
    first = creation.plan(wanted(subnet="10.0.0.0/24", ipam={"ip_range": "10.0.0.128/25"}), "a" * 64, "")
    pools = ipam.parse_pools([])
    creation.settle(first, [], [], pools)
    assert (first.gateway, first.bridge) == ("10.0.0.128", "br-aaaaaaaaaaaa")
    second = creation.plan(wanted("x", "10.0.0.0/16"), "b" * 64, "")
    with pytest.raises(PermissionDeniedError, match="Pool overlaps with other one on this address space"):
        creation.settle(second, [first], [], pools)
    third = creation.plan(wanted("x"), "c" * 64, "")
    pools = ipam.parse_pools([("10.0.0.0/23", 24)])
    creation.settle(third, [first], [], pools)
    assert (third.subnet, third.gateway) == ("10.0.1.0/24", "10.0.1.1")
    with pytest.raises(InvalidArgumentError, match="fully subnetted"):
        creation.settle(creation.plan(wanted("y"), "d" * 64, ""), [first, third], [], pools)
    for bad in (("10.0.0.0/24", 16), ("10.0.0.1/24", 28), ("x", 24)):
        with pytest.raises(InvalidArgumentError, match="default-address-pools"):
            ipam.parse_pools([bad])


def test_which_network_has_the_default_route() -> None:
    def pair(name: str, priority: int = 0, internal: bool = False, driver: str = "bridge") -> Any:
        network = Network(id=name, name=name, driver=driver, created="", internal=internal, gateway="10.0.0.1")
        endpoint = Endpoint(id=name, network_id=name, container_id="c", container_name="c", sandbox_id="s")
        endpoint.address = "10.0.0.2"
        endpoint.gw_priority = priority
        return network, endpoint

    zone, alpha, inner, first = pair("zone"), pair("alpha"), pair("aa", internal=True), pair("zz", 1)
    assert choose([zone, alpha, inner]) is alpha and choose([zone, alpha, first]) is first
    assert choose([inner]) is None and choose([pair("none", driver="null")]) is None
    assert [each[0].name for each in in_order([inner, zone, first])] == ["zz", "zone", "aa"]


# -- in the kernel


@pytest.mark.root
async def test_a_network_comes_and_goes(host: Host) -> None:
    made = await create(host, subnet="10.8.0.0/24", options={options.MTU: "1400"}, labels={"a": "b"})
    bridge = f"br-{made['Id'][:12]}"
    assert "10.8.0.1/24" in ip(f"addr show {bridge}") and made["Labels"] == {"a": "b"}
    assert f'"{bridge}"' in command("nft", "list", "set", "ip", "orlop", "bridges")
    with pytest.raises(AlreadyExistsError, match="network with name front already exists"):
        await create(host)
    one = await host.connect("one", mode="front")
    assert one.netns_path and "mtu 1400" in run(one.netns_path, "ip", "link", "show", "eth0").stdout
    with pytest.raises(PermissionDeniedError, match=r'has active endpoints \(name:"one" id:"[0-9a-f]{12}"\)'):
        await host.service.remove_network("front")
    assert host.service.used_networks() == {made["Id"]}
    await host.service.release("one")
    await host.service.remove_network(made["Id"][:10])
    assert bridge not in command("nft", "list", "table", "ip", "orlop")
    again = await create(host)  # waits until the kernel has freed the bridge and its subnet
    assert bridge not in links() and again["IPAM"]["Config"][0]["Subnet"] == "172.18.0.0/16"
    await host.service.remove_network("front")
    with pytest.raises(NotFoundError, match="network front not found"):
        await host.service.remove_network("front")
    with pytest.raises(PermissionDeniedError, match="bridge is a pre-defined network and cannot be removed"):
        await host.service.remove_network("bridge")


@pytest.mark.root
async def test_networks_are_apart(host: Host, neighbour: Neighbour) -> None:
    await create(host, "front")
    await create(host, "back", internal=True)
    await create(
        host, "still", options={f"{BRIDGE}.enable_icc": "false", f"{BRIDGE}.enable_ip_masquerade": "false"}
    )
    names = {"f1": "front", "f2": "front", "b1": "back", "b2": "back", "s1": "still", "s2": "still", "d": "bridge"}
    box = {name: await host.connect(name, mode=mode) for name, mode in names.items()}
    where = {name: next(iter(each.endpoints.values())).ip_address for name, each in box.items()}

    async def reached(source: str) -> set[str]:
        path = box[source].netns_path
        assert path
        targets = {**where, "outside": NEIGHBOUR_ADDRESS}
        del targets[source]
        found = await asyncio.gather(*(asyncio.to_thread(pings, path, address) for address in targets.values()))
        return {name for name, answer in zip(targets, found, strict=True) if answer}

    assert await reached("f1") == {"f2", "outside"} and await reached("b1") == {"b2"}
    assert await reached("s1") == await reached("d") == {"outside"}
    assert pings("/proc/thread-self/ns/net", where["b1"])  # the host
    assert box["b1"].netns_path and "default" not in run(box["b1"].netns_path, "ip", "route").stdout
    assert box["b1"].endpoints["back"].gateway == ""
    run(box["b1"].netns_path, "ip", "route", "add", "default", "via", "172.19.0.1")
    assert not pings(box["b1"].netns_path, NEIGHBOUR_ADDRESS)  # nor with a route of its own
    for name in names:
        await host.service.release(name)


@pytest.mark.root
async def test_several_networks_from_the_start(host: Host) -> None:
    await create(host, "zone")
    await create(host, "alpha", subnet="10.8.0.0/24")
    wishes = {
        "zone": EndpointSettings(aliases=["z"]),
        "alpha": EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.8.0.9")),
    }
    one = await host.connect("one", mode="zone", endpoints=wishes)
    assert one.netns_path and list(one.endpoints) == ["zone", "alpha"]
    assert one.endpoints["alpha"].ip_address == "10.8.0.9" and one.endpoints["zone"].dns_names == ["one", "z"]
    assert "10.8.0.9\tone\n" in one.hosts and "nameserver 127.0.0.11\n" in one.resolv_conf
    assert "default via 10.8.0.1 dev eth1" in run(one.netns_path, "ip", "route").stdout
    await host.service.release("one")
    wishes["zone"].gw_priority = 1
    one = await host.connect("one", mode="zone", endpoints=wishes)
    assert one.netns_path and "default via 172.18.0.1 dev eth0" in run(one.netns_path, "ip", "route").stdout
    with pytest.raises(PermissionDeniedError, match="Address already in use"):
        await host.connect("two", mode="zone", endpoints={**wishes, "alpha": wishes["alpha"]})
    assert [each.container_id for each in host.service._store.endpoints()] == ["one", "one"]
    with pytest.raises(InvalidArgumentError, match=r"no configured subnet contains IP address 10\.9\.0\.1"):
        wrong = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.9.0.1"))
        await host.connect("two", mode="alpha", endpoints={"alpha": wrong})
    for modes, message in (
        (("host", "zone"), "sharing network namespace"),
        (("zone", "none"), "private \\(none\\) mode"),
        (("zone", "host"), "must be created in host network mode"),
    ):
        endpoints = {name: EndpointSettings() for name in modes}
        with pytest.raises(InvalidArgumentError, match=message):
            await host.connect("two", mode=modes[0], endpoints=endpoints)


@pytest.mark.root
async def test_ports_follow_the_default_route(host: Host, neighbour: Neighbour) -> None:
    await create(host, "zone", options={f"{BRIDGE}.host_binding_ipv4": HOST_ADDRESS})
    await create(host, "alpha")
    await create(host, "inner", internal=True)
    ports: dict[str, list[PortBinding] | None] = {"80/tcp": [PortBinding(host_port="8080")]}
    one = await host.connect("one", mode="inner", port_bindings=ports)
    assert one.ports == {} and one.netns_path  # no way out, no ports
    request = SandboxRequest(container_id="one", name="one", hostname="one", port_bindings=ports)
    with serving(one.netns_path, 80):
        there = await host.service.attach(request, "zone", EndpointSettings())
        assert there.ports == {"80/tcp": [PortBinding(host_ip=HOST_ADDRESS, host_port="8080")]}
        assert echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x"
        moved = await enter(host, "alpha", "one")
        assert moved.ports == there.ports
        assert echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x"
        assert "172.19.0.2 . 80" in command("nft", "list", "map", "ip", "orlop", "published_at")
        await host.restart()
        assert echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x"
        await host.service.detach("one", "alpha")
        assert echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b"x"
        gone = await host.service.detach("one", "zone")
        assert gone.ports == {} and echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b""
    assert await host.netd.held() == {}


@pytest.mark.root
async def test_names_follow_connect_rename_and_disconnect(host: Host) -> None:
    await create(host, "front")
    # an upstream server that refuses at once
    one = await host.connect("one", mode="front", dns=["127.0.0.1"])
    two = await host.connect("two", dns=["127.0.0.1"])
    assert one.netns_path and two.netns_path
    assert lookup(one.netns_path, "two") == []
    attached = await enter(host, "front", "two", aliases=["deux"], links=["one:first"])
    assert attached.hosts_lines == "172.18.0.3\ttwo\n" and "nameserver 127.0.0.11" in attached.resolv_conf
    assert lookup(one.netns_path, "deux") == ["172.18.0.3"] and lookup(two.netns_path, "first") == ["172.18.0.2"]
    assert lookup(one.netns_path, "first") == []
    host.service.rename("two", "second")
    await asyncio.gather(*host.service._lifecycle._tasks)
    assert lookup(one.netns_path, "second") == ["172.18.0.3"] and lookup(one.netns_path, "two") == []
    with pytest.raises(PermissionDeniedError, match="endpoint with name two already exists in network front"):
        await enter(host, "front", "two")
    await host.service.detach("two", "front")
    assert lookup(one.netns_path, "second") == []
    with pytest.raises(InternalError, match="container two is not connected to network front"):
        await host.service.detach("two", "front")
    await host.service.detach("two", "bridge")  # its last network
    assert run(two.netns_path, "ip", "route").stdout == "" and host.service.used_networks() != set()
    await host.restart()
    again = await enter(host, "front", "two")
    assert lookup(one.netns_path, "two") == [again.settings.ip_address] and again.resolv_conf == ""
    # who is to blame for a bare 53 being taken? nobody: a server of the container's own can have it
    with serving(one.netns_path, 53):
        assert lookup(one.netns_path, "two") == [again.settings.ip_address]


@pytest.mark.root
async def test_restart_keeps_networks_and_settles_half_made_ones(host: Host) -> None:
    made = await create(host, "front")
    half = await create(host, "half")
    one = await host.connect("one", mode="front")
    assert one.netns_path
    await enter(host, "bridge", "one")
    store = host.service._store
    record = next(each for each in store.networks() if each.name == "half")
    record.ready = False
    store.put_network(record)
    torn = next(each for each in store.endpoints_of("one") if each.network_id != made["Id"])
    torn.ready = False  # died while it was being attached: its interface had the default route
    store.put_endpoint(torn)
    command("nft", "flush", "ruleset")
    ip(f"link del br-{made['Id'][:12]}")
    await host.restart()
    assert [each["Name"] for each in host.service.list_networks()] == ["bridge", "host", "none", "front"]
    assert f"br-{half['Id'][:12]}" not in links()
    assert "default via 172.18.0.1 dev eth0" in run(one.netns_path, "ip", "route").stdout
    assert "eth1" not in run(one.netns_path, "ip", "link").stdout
    assert pings(one.netns_path, "172.18.0.1") and lookup(one.netns_path, "one") == ["172.18.0.2"]


@pytest.mark.root
async def test_a_broken_network_does_not_stop_the_daemon(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    made = await create(host, "front")
    bridge = f"br-{made['Id'][:12]}"
    ip(f"link del {bridge}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BridgeDriver, "set_up", _refusing(BridgeDriver.set_up, bridge))
        await host.restart()
    assert "network front: cannot set up network front (create bridge" in caplog.text
    with pytest.raises(UnavailableError, match="network front is not set up"):
        await host.connect("one", mode="front")
    assert host.pins() == [] and (await host.connect("two")).netns_path
    await host.restart()
    assert (await host.connect("one", mode="front")).netns_path


def _refusing(original: Any, name: str) -> Any:
    def set_up(self: Any, kernel: Any, network: Network, config: Any) -> Any:
        if network.bridge == name:
            raise OSError(17, "File exists", f"create bridge {name}")
        return original(self, kernel, network, config)

    return set_up


@pytest.mark.root
async def test_killed_netd_serves_again(host: Host) -> None:
    await create(host, "front")
    one = await host.connect("one", mode="front")
    assert one.netns_path
    end(await host.netd.ping(), signal.SIGKILL)
    async with asyncio.timeout(10):
        while await asyncio.to_thread(lookup, one.netns_path, "one") != ["172.18.0.2"]:  # noqa: ASYNC110 - another process comes up
            await asyncio.sleep(0.05)


@pytest.mark.root
async def test_one_container_without_dns_leaves_it_to_the_others(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    await create(host, "front")
    one, two = await host.connect("one", mode="front"), await host.connect("two", mode="front")
    assert one.netns_path and two.netns_path
    await host.netd.unresolve("one")
    with serving(one.netns_path, RESOLVER_PORT):  # somebody has the resolver's port
        await host.restart()
    assert "container one has no DNS" in caplog.text and "in use" in caplog.text.lower()
    assert lookup(two.netns_path, "one") == [one.endpoints["front"].ip_address]
    await host.restart()
    assert lookup(one.netns_path, "two") == [two.endpoints["front"].ip_address]


@pytest.mark.root
async def test_a_refused_step_leaves_nothing(host: Host) -> None:
    ip("link add taken type veth peer name other")
    with pytest.raises(PermissionDeniedError, match="exists and is no bridge"):
        await create(host, "front", options={f"{BRIDGE}.name": "taken"})
    assert [each["Name"] for each in host.service.list_networks()] == ["bridge", "host", "none"]
    assert "taken" in {name for _, name in socket.if_nameindex()}  # it is not ours
    ip("link add mine type bridge")
    await create(host, "front", options={f"{BRIDGE}.name": "mine"})
    with pytest.raises(PermissionDeniedError, match="networks have same bridge name"):
        await create(host, "twin", options={f"{BRIDGE}.name": "mine"})
    one = await host.connect("one", mode="front")
    assert one.netns_path
    before = links()
    with pytest.raises(InvalidArgumentError, match="user defined networks only"):
        wish = EndpointIPAMConfig(ipv4_address="172.17.0.77")
        await enter(host, "bridge", "one", ipam_config=wish)
    run(one.netns_path, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
    there = await enter(host, "bridge", "one")  # the first name that is free
    assert "eth3@" in run(one.netns_path, "ip", "link").stdout and there.settings.ip_address == "172.17.0.2"
    await host.service.detach("one", "bridge")
    assert links() == before
    await host.service.release("one")
    await host.service.remove_network("front")
    assert "mine" in {name for _, name in socket.if_nameindex()}  # nor is this


@pytest.mark.root
async def test_out_of_none_and_back(host: Host) -> None:
    await create(host, "front")
    one = await host.connect("one", mode="none")
    assert one.netns_path
    with pytest.raises(InvalidArgumentError, match=r"private \(none\) mode"):
        await enter(host, "front", "one")
    await host.service.detach("one", "none")
    assert host.service.inspect_network("none")["Containers"] == {}
    await enter(host, "front", "one")
    assert pings(one.netns_path, "172.18.0.1") and lookup(one.netns_path, "one") == ["172.18.0.2"]
    await host.service.detach("one", "front")
    await enter(host, "none", "one")
    assert list(host.service.inspect_network("none")["Containers"]) == ["one"]
    on_host = await host.connect("two", mode="host")
    assert on_host.netns_path is None
    with pytest.raises(InvalidArgumentError, match="container was created in host network mode"):
        await host.service.detach("two", "host")


@pytest.mark.root
async def test_a_failed_attach_leaves_ports_where_they_were(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(host, "zone")
    await create(host, "alpha")
    ports: dict[str, list[PortBinding] | None] = {"80/tcp": [PortBinding(host_port="8080")]}
    one = await host.connect("one", mode="zone", port_bindings=ports)
    assert one.netns_path
    before = command("nft", "list", "table", "ip", "orlop")

    async def refuse(_: object) -> None:
        raise InternalError("no")

    with monkeypatch.context() as patch:
        patch.setattr(host.service._resolvers, "enter", refuse)
        with pytest.raises(InternalError):
            await enter(host, "alpha", "one")
        patch.undo()
    await host.restart()
    with serving(one.netns_path, 80):
        assert echo("127.0.0.1", 8080) == b"hello"
    assert command("nft", "list", "table", "ip", "orlop") == before
    assert "default via 172.18.0.1 dev eth0" in run(one.netns_path, "ip", "route").stdout


@pytest.mark.root
async def test_both_families(host: Host) -> None:
    made = await create(host, "front", enable_ipv6=True)
    both = [IPAMConfig(subnet="10.8.0.0/24"), IPAMConfig(subnet="2001:db8:0::/64", gateway="2001:db8::9")]
    with pytest.raises(InvalidArgumentError, match="invalid gateway 2001:db9::1: parent subnet 2001:db8::/64"):
        wrong = IPAM(config=[IPAMConfig(subnet="2001:db8::/64", gateway="2001:db9::1")])
        await host.service.create_network(NetworkCreateRequest(name="x", enable_ipv6=True, ipam=wrong))
    back = NetworkCreateRequest(name="back", enable_ipv6=True, ipam=IPAM(config=both))
    shown = await host.service.create_network(back)
    assert shown["EnableIPv6"] and shown["IPAM"]["Config"][1] == {
        "Subnet": "2001:db8::/64",
        "Gateway": "2001:db8::9",
    }
    with pytest.raises(PermissionDeniedError, match="Pool overlaps with other one"):
        await create(host, "y", "2001:db8::/80", enable_ipv6=True)
    assert re.fullmatch(r"fd[0-9a-f:]+::/64", made["IPAM"]["Config"][1]["Subnet"])
    modes = {"f1": "front", "f2": "front", "b1": "back"}
    sandboxes = {name: await host.connect(name, mode=mode, dns=["127.0.0.1"]) for name, mode in modes.items()}
    box = {name: sandbox.netns_path or "" for name, sandbox in sandboxes.items()}
    six = {name: sandbox.endpoints[modes[name]].global_ipv6_address for name, sandbox in sandboxes.items()}
    assert six["b1"] == "2001:db8::1" and "2001:db8::1\tb1\n" in sandboxes["b1"].hosts
    found = run(box["f1"], "busybox", "nslookup", "-type=aaaa", "f2", "127.0.0.11").stdout
    assert f"Address: {six['f2']}\n" in found
    run(box["f1"], "busybox", "ping", "-6", "-c1", "-W1", six["f2"])
    routes = run(box["f1"], "ip", "-6", "route").stdout
    assert f"default via {made['IPAM']['Config'][1]['Gateway']} dev eth0" in routes
    assert (
        run(box["f1"], "busybox", "ping", "-6", "-c1", "-W1", six["b1"], check=False).returncode == 1
    )  # another bridge
    await host.restart()
    assert run(box["f1"], "busybox", "ping", "-6", "-c1", "-W1", six["b1"], check=False).returncode == 1
    run(box["f1"], "busybox", "ping", "-6", "-c1", "-W1", six["f2"])
    attached = await enter(host, "back", "f1", ipam_config=EndpointIPAMConfig(ipv6_address="2001:DB8::77"))
    assert attached.settings.global_ipv6_address == "2001:db8::77" and "2001:db8::77\tf1" in attached.hosts_lines
    run(box["b1"], "busybox", "ping", "-6", "-c1", "-W1", "2001:db8::77")
    assert "default via 2001:db8::9 dev eth1" in run(box["f1"], "ip", "-6", "route").stdout  # back is before front
    with pytest.raises(PermissionDeniedError, match="Address already in use"):
        await enter(host, "back", "f2", ipam_config=EndpointIPAMConfig(ipv6_address="2001:db8::77"))
    await host.service.detach("f1", "back")
    assert (
        f"default via {made['IPAM']['Config'][1]['Gateway']} dev eth0"
        in run(box["f1"], "ip", "-6", "route").stdout
    )
    for name in box:
        await host.service.release(name)
    for name in ("front", "back"):
        await host.service.remove_network(name)
    assert "ip6 orlop" not in command("nft", "list", "tables")


@pytest.mark.root
async def test_a_late_bridge_passes_an_iptables_policy_of_drop(host: Host, neighbour: Neighbour) -> None:
    command("iptables", "-P", "FORWARD", "DROP")
    made = await create(host, "front")
    one = await host.connect("one", mode="front")
    assert one.netns_path and pings(one.netns_path, NEIGHBOUR_ADDRESS)
    await host.service.release("one")
    await host.service.remove_network("front")
    deadline = time.monotonic() + 10
    while (left := command("nft", "list", "chain", "ip", "filter", "FORWARD")).count("orlop orlop0") != 2:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.1)  # the service is told of the new chain by the kernel, and nobody tells us
    assert made["Id"][:12] not in left


@pytest.mark.root
async def test_configurations_of_networks(host: Host) -> None:
    opts = {f"{BRIDGE}.enable_icc": "false"}
    template = wanted("paper", "10.8.0.0/24", config_only=True, options=opts, labels={"a": "b"})
    shown = await host.service.create_network(template)
    assert (shown["ConfigOnly"], shown["Driver"]) == (True, "null")
    assert shown["IPAM"]["Config"][0]["Subnet"] == "10.8.0.0/24" and links() == set()
    made = await create(host, config_from={"Network": "paper"})
    assert made["ConfigFrom"] == {"Network": "paper"} and not made["ConfigOnly"] and made["Driver"] == "bridge"
    assert (made["Options"], made["Labels"]) == (opts, {"a": "b"})
    assert made["IPAM"]["Config"] == [{"Subnet": "10.8.0.0/24", "Gateway": "10.8.0.1"}]
    await host.restart()
    for change, error, message in (
        ({"config_from": {"Network": "nope"}}, NotFoundError, 'configuration network "nope" not found'),
        ({"labels": {"c": "d"}}, PermissionDeniedError, "user-specified configurations are not supported"),
        ({"options": opts}, PermissionDeniedError, "network driver options are not supported"),
    ):
        with pytest.raises(error, match=message):
            await create(host, "more", **{"config_from": {"Network": "paper"}, **change})
    with pytest.raises(PermissionDeniedError, match="cannot create endpoint on configuration-only network"):
        await host.connect("one", mode="paper")
    with pytest.raises(PermissionDeniedError, match='configuration network "paper" is in use'):
        await host.service.remove_network("paper")
    await host.service.remove_network("front")
    await host.service.remove_network("paper")


@pytest.mark.root
async def test_an_endpoint_of_a_container_that_is_gone(host: Host) -> None:
    await create(host, "front")
    await create(host, "back")
    await host.connect("one", mode="front")
    await enter(host, "back", "one")
    await host.service.force_detach("front", "one")
    assert host.service.inspect_network("front")["Containers"] == {} and len(host.pins()) == 1
    await host.service.remove_network("front")
    await host.service.force_detach("back", "one")
    assert host.pins() == []
    with pytest.raises(NotFoundError, match="endpoint one not found in network back"):
        await host.service.force_detach("back", "one")
