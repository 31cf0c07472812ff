# SPDX-License-Identifier: Apache-2.0
"""What the options of bridges do: gateway modes, families, names, addresses; the default bridge's settings."""

import subprocess
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.networks import (
    HOST_ADDRESS,
    NEIGHBOUR_ADDRESS,
    Host,
    Neighbour,
    ask_udp,
    command,
    echo,
    echoing,
    ip,
    pings,
    run,
)

from orlop.dockerd.network import SandboxRequest, firewall, options
from orlop.engine.types import (
    IPAM,
    EndpointIPAMConfig,
    EndpointSettings,
    IPAMConfig,
    NetworkCreateRequest,
    PortBinding,
)
from orlop.errdefs import InternalError, InvalidArgumentError, PermissionDeniedError, ResourceExhaustedError

pytestmark = pytest.mark.root

BRIDGE = "com.docker.network.bridge"
HERE = "/proc/thread-self/ns/net"
PORTS: dict[str, list[PortBinding] | None] = {"80/tcp": [PortBinding(host_port="8080")]}


@pytest.fixture
def six(neighbour: Neighbour) -> Neighbour:
    """The neighbour, with IPv6 on the wire and routes to containers by way of the host."""
    ip("addr add 2001:db8:f::1/64 dev wire0 nodad")
    run(neighbour.netns, "ip", "addr", "add", "2001:db8:f::2/64", "dev", "wire1", "nodad")
    run(neighbour.netns, "ip", "route", "add", "default", "via", "2001:db8:f::1")
    return neighbour


async def create(host: Host, name: str, *subnets: str, **fields: Any) -> dict[str, Any]:
    given = IPAM(config=[IPAMConfig(subnet=subnet) for subnet in subnets])
    return await host.service.create_network(NetworkCreateRequest(name=name, ipam=given, **fields))


@asynccontextmanager
async def started(tmp_path: Path, *containers: str, **config: Any) -> AsyncIterator[Host]:
    """A host with other settings."""
    host = Host(tmp_path, **config)
    try:
        await host.service.start()
        yield host
    finally:
        await host.close(list(containers))


def reached(source: str, address: str, port: int) -> bool:
    return echo(address, port, b"x", source) == b"x"


def all_reached(sources: Sequence[str], targets: dict[str, tuple[str, int]]) -> list[set[str]]:
    """Which of the targets answer to each of the sources, all asked at once."""
    pairs = [(source, *target) for source in sources for target in targets.values()]
    with ThreadPoolExecutor(len(pairs)) as threads:
        answers = threads.map(lambda pair: reached(*pair), pairs)
        return [{name for name in targets if next(answers)} for _ in sources]


async def test_gateway_modes(host: Host, six: Neighbour) -> None:
    both = {"enable_ipv6": True}
    for number, mode in enumerate(("nat", "nat-unprotected", "routed"), 1):
        modes = {options.GATEWAY_MODE[4]: mode, options.GATEWAY_MODE[6]: mode}
        await create(host, mode, f"10.8.{number}.0/24", f"2001:db8:{number}::/64", options=modes, **both)
    await create(host, "elsewhere", "10.8.9.0/24", "2001:db8:9::/64", **both)
    other = await host.connect("other", mode="elsewhere")
    assert other.netns_path
    table: dict[str, set[str]] = {}
    for mode in ("nat", "nat-unprotected", "routed"):
        box = await host.connect(mode, mode=mode, port_bindings=PORTS)
        assert box.netns_path
        four, v6 = box.endpoints[mode].ip_address, box.endpoints[mode].global_ipv6_address
        with echoing(box.netns_path, 80, 81):
            targets = {
                "host": (HOST_ADDRESS, 8080), "host6": ("2001:db8:f::1", 8080), "80": (four, 80), "80v6": (v6, 80),
                "81": (four, 81), "81v6": (v6, 81),
            }  # fmt: skip
            outside, beside, here = all_reached((six.netns, other.netns_path, HERE), targets)
            table |= {mode: outside, f"{mode} from other": beside - {"host", "host6"}, f"{mode} from host": here}
            assert pings(six.netns, four) == (mode != "nat") and pings(box.netns_path, NEIGHBOUR_ADDRESS)
            shown = [(port.host_ip, port.host_port) for port in box.ports["80/tcp"] or []]
            assert shown == (
                [("0.0.0.0", ""), ("::", "")] if mode == "routed" else [("0.0.0.0", "8080"), ("::", "8080")]
            )
        if mode == "routed":
            seen = run(box.netns_path, "busybox", "ping", "-c1", "-W1", NEIGHBOUR_ADDRESS)
            assert "1 packets received" in seen.stdout
            assert await host.netd.held() == {}
        await host.restart()
        await host.service.release(mode)
    direct = {"80", "80v6", "81", "81v6"}
    published = {"host", "host6"}
    assert table == {
        "nat": published, "nat from host": direct | published, "nat from other": set(),
        "nat-unprotected": direct | published, "nat-unprotected from host": direct | published,
        "nat-unprotected from other": set(),
        "routed": {"80", "80v6"}, "routed from host": direct, "routed from other": {"80", "80v6"},
    }  # fmt: skip


async def test_masquerading_and_its_address(host: Host, six: Neighbour) -> None:
    ip("addr add 198.51.100.77/24 dev wire0")
    await create(host, "plain", "10.8.1.0/24")
    await create(host, "other", "10.8.2.0/24", options={options.SOURCE[4]: "198.51.100.77"})
    await create(host, "routed", "10.8.3.0/24", options={options.GATEWAY_MODE[4]: "routed"})
    await create(host, "unmasked", "10.8.4.0/24", options={options.MASQUERADE: "false"})
    expected = {"plain": HOST_ADDRESS, "other": "198.51.100.77", "routed": "10.8.3.2", "unmasked": "10.8.4.2"}
    for name, address in expected.items():
        box = await host.connect(name, mode=name)
        assert box.netns_path and seen_as(box.netns_path, six.netns) == address
        await host.service.release(name)


def seen_as(source: str, target: str) -> str:
    """The address that a datagram of one namespace has when it arrives at the neighbour."""
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 99));"
        "print('bound', flush=True); who = s.recvfrom(9)[1]; s.sendto(who[0].encode(), who)"
    )
    argv = ["nsenter", f"--net={target}", "/usr/bin/python3", "-S", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout and server.stdout.readline() == "bound\n"
        try:
            return ask_udp(source, NEIGHBOUR_ADDRESS, 99)
        finally:
            server.kill()


async def test_trusted_interfaces_and_direct_routing(neighbour: Neighbour, tmp_path: Path) -> None:
    async with started(tmp_path, "one", "two") as host:
        trusting = {options.TRUSTED: "wire0:other0"}
        await create(host, "front", "10.8.1.0/24", options=trusting)
        await create(host, "back", "10.8.2.0/24")
        one = await host.connect("one", mode="front", port_bindings=PORTS)
        two = await host.connect("two", mode="back", publish_all=True, exposed_ports=["80/tcp"])
        assert one.netns_path and two.netns_path
        with echoing(one.netns_path, 80, 81), echoing(two.netns_path, 80):
            assert reached(neighbour.netns, "10.8.1.2", 80) and not reached(neighbour.netns, "10.8.1.2", 81)
            assert not reached(neighbour.netns, "10.8.2.2", 80) and not reached(two.netns_path, "10.8.1.2", 80)
    async with started(tmp_path, "one", allow_direct_routing=True) as host:
        one = await host.connect("one", mode="back", port_bindings=PORTS)
        assert one.netns_path
        with echoing(one.netns_path, 80, 81):
            assert reached(neighbour.netns, "10.8.2.2", 80) and not reached(neighbour.netns, "10.8.2.2", 81)
    async with started(tmp_path, "one", accept_mark="0x1/0xff") as host:
        one = await host.connect("one", mode="back")
        assert one.netns_path
        with echoing(one.netns_path, 81):
            assert not reached(neighbour.netns, "10.8.2.2", 81)
            command("nft", "add table ip mine")
            command("nft", "add chain ip mine marking { type filter hook prerouting priority raw; }")
            command("nft", "add rule ip mine marking ip daddr 10.8.2.2 meta mark set 0x101")
            assert reached(neighbour.netns, "10.8.2.2", 81)


async def test_only_ipv6(host: Host, six: Neighbour) -> None:
    made = await create(host, "front", "2001:db8:1::/64", enable_ipv4=False, enable_ipv6=True)
    assert not made["EnableIPv4"] and [each["Subnet"] for each in made["IPAM"]["Config"]] == ["2001:db8:1::/64"]
    await create(host, "drawn", enable_ipv4=False, enable_ipv6=True)
    one = await host.connect("one", mode="front", port_bindings=PORTS)
    two = await host.connect("two", mode="front")
    settings = one.endpoints["front"]
    assert one.netns_path and two.netns_path
    assert (settings.ip_address, settings.global_ipv6_address, settings.ipv6_gateway) == (
        "", "2001:db8:1::2", "2001:db8:1::1",
    )  # fmt: skip
    assert run(one.netns_path, "ip", "-4", "addr", "show", "eth0").stdout == ""
    assert "2001:db8:1::3" in run(one.netns_path, "busybox", "nslookup", "-type=aaaa", "two", "127.0.0.11").stdout
    with echoing(one.netns_path, 80):
        assert reached(six.netns, "2001:db8:f::1", 8080) and reached(HERE, "::1", 8080)
        assert reached(two.netns_path, "2001:db8:1::2", 80) and not reached(six.netns, "2001:db8:1::2", 80)
    assert one.ports == {"80/tcp": [PortBinding(host_ip="::", host_port="8080")]}
    with pytest.raises(InvalidArgumentError, match=r"cannot publish 80/tcp at 127\.0\.0\.1: .* has IPv6 only"):
        four = PortBinding(host_ip="127.0.0.1", host_port="8081")
        await host.connect("three", mode="front", port_bindings={"80/tcp": [four]})
    with pytest.raises(InvalidArgumentError, match=r"no configured subnet contains IP address 10\.0\.0\.1"):
        wish = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.0.0.1"))
        await host.connect("three", mode="front", endpoints={"front": wish})
    # each family's default route leads through a network that has it
    await create(host, "alpha", "10.8.0.0/24")
    request = host_request("two")
    await host.service.attach(request, "alpha", EndpointSettings())
    assert "default via 10.8.0.1 dev eth1" in run(two.netns_path, "ip", "route").stdout
    assert "default via 2001:db8:1::1 dev eth0" in run(two.netns_path, "ip", "-6", "route").stdout
    await host.service.detach("two", "front")
    assert "default" not in run(two.netns_path, "ip", "-6", "route").stdout


def host_request(name: str) -> Any:
    return SandboxRequest(container_id=name, name=name, hostname=name, dns=["127.0.0.1"])


async def test_ipv6_on_the_default_bridge(six: Neighbour, tmp_path: Path) -> None:
    settings = {"ipv6": True, "fixed_cidr6": "2001:db8:9::/64", "default_gateway6": "2001:db8:9::99"}
    async with started(tmp_path, "one", **settings) as host:
        one = await host.connect("one", port_bindings=PORTS)
        endpoint = one.endpoints["bridge"]
        assert (endpoint.global_ipv6_address, endpoint.ipv6_gateway) == ("2001:db8:9::2", "2001:db8:9::99")
        assert one.netns_path and "2001:db8:9::1/64" in ip("addr show orlop0")
        with echoing(one.netns_path, 80):
            run(one.netns_path, "ip", "-6", "route", "replace", "default", "via", "2001:db8:9::1")
            assert reached(six.netns, "2001:db8:f::1", 8080)
    async with started(tmp_path, "one", ipv6=True, bip6="fd00:7::7/64", fixed_cidr6="fd00:7::100/120") as host:
        one = await host.connect("one")
        endpoint = one.endpoints["bridge"]
        assert (endpoint.global_ipv6_address, endpoint.ipv6_gateway) == ("fd00:7::100", "fd00:7::7")
    async with started(
        tmp_path, "one", ipv6=True, address_pools=[("fd00:aa::/56", 64), ("10.77.0.0/16", 24)]
    ) as host:
        assert host.service.inspect_network("bridge")["EnableIPv6"]
        made = await create(host, "front", enable_ipv6=True)
        assert [each["Subnet"] for each in made["IPAM"]["Config"]] == ["10.77.0.0/24", "fd00:aa::/64"]
    async with started(tmp_path, "one", ipv6=False, default_gateway="172.17.0.9") as host:
        one = await host.connect("one")
        assert one.endpoints["bridge"].global_ipv6_address == "" and one.netns_path
        assert "default via 172.17.0.9" in run(one.netns_path, "ip", "route").stdout
    for bad, message in (
        ({"fixed_cidr6": "10.0.0.0/8"}, "invalid fixed-cidr-v6: '10.0.0.0/8' is not a valid IPv6 subnet"),
        ({"fixed_cidr6": "fe80::/80"}, "clashes with the Link-Local prefix"),
        ({"bip6": "fd00::1"}, "invalid bip6: 'fd00::1': the prefix length is missing"),
        (
            {"default_gateway6": "fd01::1", "fixed_cidr6": "fd00::/64"},
            "default-gateway-v6: fd01::1 is not in",
        ),
    ):
        with pytest.raises(InvalidArgumentError) as raised:
            async with started(tmp_path, ipv6=True, **bad):
                pass
        assert message in str(raised.value)


async def test_isolated_and_inhibited(host: Host) -> None:
    isolated = {options.GATEWAY_MODE[4]: "isolated"}
    made = await create(host, "cut", "10.8.1.0/24", internal=True, options=isolated)
    assert made["IPAM"]["Config"] == [{"Subnet": "10.8.1.0/24"}]
    assert "10.8.1" not in ip("addr")
    one, two = await host.connect("one", mode="cut"), await host.connect("two", mode="cut")
    assert one.netns_path and two.netns_path and one.endpoints["cut"].ip_address == "10.8.1.1"
    assert pings(one.netns_path, "10.8.1.2") and not pings(HERE, "10.8.1.1")
    given = IPAM(config=[IPAMConfig(subnet="10.8.2.0/24", aux_addresses={"DefaultGatewayIPv4": "10.8.2.9"})])
    await host.service.create_network(
        NetworkCreateRequest(name="bare", ipam=given, options={options.INHIBIT: "true"})
    )
    assert "10.8.2" not in ip("addr")
    three = await host.connect("three", mode="bare")
    assert three.netns_path and "default via 10.8.2.9" in run(three.netns_path, "ip", "route").stdout


async def test_an_existing_bridge_is_used_and_left(host: Host) -> None:
    ip("link add mine type bridge")
    ip("addr add 10.8.1.1/24 dev mine")
    await create(host, "front", "10.8.1.0/24", options={options.NAME: "mine"})
    one = await host.connect("one", mode="front")
    assert one.netns_path and pings(one.netns_path, "10.8.1.1")
    await host.service.release("one")
    await host.service.remove_network("front")
    await host.service._networks.close()
    assert "10.8.1.1/24" in ip("addr show mine")


async def test_wishes_of_an_endpoint(host: Host) -> None:
    await create(host, "front", "10.8.1.0/24", enable_ipv6=True, options={options.INTERFACE_PREFIX: "net"})
    await create(host, "back", "10.8.2.0/24")
    wishes = {
        options.IFNAME: "wan",
        options.SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.hop_limit=7",
    }
    settings = EndpointSettings(
        driver_opts=wishes,
        mac_address="02:00:00:00:00:77",
        ipam_config=EndpointIPAMConfig(link_local_ips=["169.254.7.7", "fe80::77"]),
    )
    one = await host.connect("one", mode="front", endpoints={"front": settings, "back": EndpointSettings()})
    assert one.netns_path
    shown = run(one.netns_path, "ip", "addr", "show", "wan").stdout
    assert "02:00:00:00:00:77" in shown and "169.254.7.7/16" in shown and "fe80::77/64" in shown
    assert run(one.netns_path, "cat", "/proc/sys/net/ipv4/conf/wan/log_martians").stdout == "1\n"
    assert run(one.netns_path, "cat", "/proc/sys/net/ipv6/conf/wan/hop_limit").stdout == "7\n"
    assert "inet 10.8.2.2" in run(one.netns_path, "ip", "addr", "show", "eth1").stdout
    two = await host.connect("two", mode="front")
    assert two.netns_path and "net0" in run(two.netns_path, "ip", "link").stdout
    wan = EndpointSettings(driver_opts={options.IFNAME: "wan"})
    await host.service.attach(host_request("two"), "back", wan)
    assert "inet 10.8.2.3" in run(two.netns_path, "ip", "addr", "show", "wan").stdout
    with pytest.raises(InternalError, match="File exists"):
        await host.connect("three", mode="front", endpoints={"front": wan, "back": wan})
    for opts, message in (
        ({"com.docker.network.endpoint.ifnam": "x"}, 'did you mean "com.docker.network.endpoint.ifname"'),
        ({options.IFNAME: "lo"}, "is the loopback interface"),
        ({options.IFNAME: "x" * 16}, "is no interface name"),
        ({options.SYSCTLS: "net.ipv4.ip_forward=1"}, "only settings of the interface itself"),
        ({options.SYSCTLS: "net.ipv4.conf.IFNAME.log_martians"}, "expected net"),
        ({options.SYSCTLS: "net.ipv4.conf.IFNAME.../x=1"}, "only settings"),
    ):
        with pytest.raises(InvalidArgumentError) as raised:
            await host.connect("three", mode="front", endpoints={"front": EndpointSettings(driver_opts=opts)})
        assert message in str(raised.value)
    with pytest.raises(InternalError, match=r"set net\.ipv4\.conf\.net0\.nonsense=1.*: No such file"):
        bad = EndpointSettings(driver_opts={options.SYSCTLS: "net.ipv4.conf.IFNAME.nonsense=1"})
        await host.connect("three", mode="front", endpoints={"front": bad})
    with pytest.raises(InvalidArgumentError, match=r"invalid link-local IP address: 10\.0\.0\.1"):
        bad = EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["10.0.0.1"]))
        await host.connect("three", mode="front", endpoints={"front": bad})


async def test_addresses_that_are_given_away(host: Host) -> None:
    given = IPAMConfig(
        subnet="10.8.1.0/29", gateway="10.8.1.6", aux_addresses={"nas": "10.8.1.1", "printer": "10.8.1.3"}
    )
    await host.service.create_network(NetworkCreateRequest(name="small", ipam=IPAM(config=[given])))
    found = [(await host.connect(name, mode="small")).endpoints["small"].ip_address for name in ("a", "b", "c")]
    assert found == ["10.8.1.2", "10.8.1.4", "10.8.1.5"]
    with pytest.raises(ResourceExhaustedError, match=r"no available IPv4 addresses .*: 10\.8\.1\.0/29"):
        await host.connect("d", mode="small")
    for wish in ("10.8.1.1", "10.8.1.6", "10.8.1.7", "10.8.1.4"):
        with pytest.raises(PermissionDeniedError, match="Address already in use"):
            settings = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address=wish))
            await host.connect("d", mode="small", endpoints={"small": settings})
    assert len(host.pins()) == 3


async def test_default_options_of_new_networks(neighbour: Neighbour, tmp_path: Path) -> None:
    defaults = {"bridge": {options.HOST_IP: "127.0.0.1", options.MTU: "1400"}}
    async with started(tmp_path, "one", default_options=defaults, default_host_ip=HOST_ADDRESS) as host:
        made = await create(host, "front", options={options.MTU: "1300"})
        assert made["Options"] == {options.HOST_IP: "127.0.0.1", options.MTU: "1300"}
        one = await host.connect("one", mode="front", port_bindings=PORTS)
        assert one.ports == {"80/tcp": [PortBinding(host_ip="127.0.0.1", host_port="8080")]}
        await host.service.release("one")
        one = await host.connect("one", port_bindings=PORTS)
        assert one.ports == {"80/tcp": [PortBinding(host_ip=HOST_ADDRESS, host_port="8080")]}


async def test_settings_of_the_default_bridge(neighbour: Neighbour, tmp_path: Path) -> None:
    settings = {
        "bip": "172.17.0.1/16",
        "fixed_cidr": "172.17.9.0/24",
        "default_gateway": "172.17.0.9",
        "ipv6": True,
        "fixed_cidr6": "fd00:17::/64",
        "default_gateway6": "fd00:17::9",
        "mtu": 1400,
        "ip_masq": False,
        "dns": ["192.0.2.53"],
        "dns_search": ["example.org"],
        "dns_options": ["ndots:3"],
        "host_gateway_ip": "192.0.2.1",
    }
    async with started(tmp_path, "one", **settings) as host:
        one = await host.connect("one", extra_hosts=["gate:host-gateway"])
        inside = one.netns_path or ""
        assert one.endpoints["bridge"].ip_address.startswith("172.17.9.")
        assert "mtu 1400" in run(inside, "ip", "link", "show", "eth0").stdout
        assert "default via 172.17.0.9" in run(inside, "ip", "route").stdout
        assert "default via fd00:17::9" in run(inside, "ip", "-6", "route").stdout
        for line in ("nameserver 192.0.2.53", "search example.org", "options ndots:3"):
            assert line in one.resolv_conf.splitlines()
        assert "192.0.2.1\tgate" in one.hosts
        assert "172.17" not in command("nft", "list", "set", "ip", "orlop", "masqueraded")


async def test_no_rules_for_ipv6(netns: None, tmp_path: Path) -> None:
    async with started(tmp_path, ip6tables=False) as host:
        made = await create(host, "front", enable_ipv6=True)
        assert made["EnableIPv6"] and "table ip6 orlop" not in command("nft", "list", "tables")
        await host.service.remove_network("front")


async def test_what_is_kept_and_shown(host: Host) -> None:
    given = IPAM(config=[IPAMConfig(subnet="10.8.1.0/24")], options={"tier": "gold"})
    request = NetworkCreateRequest(
        name="noted",
        ipam=given,
        attachable=True,
        enable_ipv6=True,
        labels={"of": "ours"},
        options={options.SOURCE[6]: "2001:db8::7"},
    )
    made = await host.service.create_network(request)
    assert (made["Attachable"], made["Ingress"], made["Scope"]) == (True, False, "local")
    assert made["IPAM"]["Options"] == {"tier": "gold"} and made["Labels"] == {"of": "ours"}
    assert "2001:db8::7" in command("nft", "list", "map", "ip6", "orlop", "sources")
    await host.service.remove_network("noted")


def test_marks() -> None:
    assert [firewall.parse_mark(each) for each in ("", "7", "0x10/0xf0")] == ["", "7", "and 240 == 16"]
    for bad in ("x", "1/2/3", "0x100000000", "1/"):
        with pytest.raises(InvalidArgumentError, match="bridge-accept-fwmark"):
            firewall.parse_mark(bad)


async def test_sctp_needs_the_kernel(host: Host) -> None:
    ports: dict[str, list[PortBinding] | None] = {"7/sctp": [PortBinding(host_port="7777")]}
    try:
        box = await host.connect("one", port_bindings=ports)
    except InternalError as error:
        assert "the kernel has no SCTP" in str(error) and host.pins() == []
        return
    assert box.ports == {
        "7/sctp": [PortBinding(host_ip="0.0.0.0", host_port="7777"), PortBinding(host_ip="::", host_port="7777")]
    }
    assert "sctp . 7777" in command("nft", "list", "map", "ip", "orlop", "published")
