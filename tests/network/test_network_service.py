# SPDX-License-Identifier: Apache-2.0
"""The network service against the kernel, in network namespaces of the test's own."""

import asyncio
import errno
import logging
import os
import re
import signal
import socket
import threading
from pathlib import Path

import pytest
from support.networks import (
    HOST_ADDRESS,
    NEIGHBOUR_ADDRESS,
    Host,
    Neighbour,
    ask_udp,
    command,
    echo,
    end,
    ip,
    lingering,
    pings,
    run,
    serving,
    serving_udp,
)
from support.pace import PACE

from orlop.dockerd.network import netns as netns_module
from orlop.dockerd.network import sandbox_files
from orlop.dockerd.network.firewall import Firewall
from orlop.dockerd.network.kernel import Kernel, KernelThread
from orlop.dockerd.network.linked import Links
from orlop.dockerd.network.rules import Rules
from orlop.dockerd.network.types import PortMapping
from orlop.engine.types import EndpointIPAMConfig, EndpointSettings, NetworkCreateRequest, PortBinding
from orlop.errdefs import InternalError, InvalidArgumentError, NotFoundError

pytestmark = pytest.mark.root


def binding(port: str = "", address: str = "") -> dict[str, list[PortBinding] | None]:
    return {"80/tcp": [PortBinding(host_ip=address, host_port=port)]}


def nft() -> str:
    return command("nft", "list", "table", "ip", "orlop")


async def test_bridge_gives_address_route_and_names(host: Host) -> None:
    one = await host.connect("one", domainname="example.org")
    two = await host.connect("two")
    assert (one.netns_path, two.netns_path) != (None, None)
    endpoint = one.endpoints["bridge"]
    assert (endpoint.ip_address, endpoint.ip_prefix_len, endpoint.gateway) == ("172.17.0.2", 16, "172.17.0.1")
    assert endpoint.mac_address == "02:42:ac:11:00:02"
    assert two.endpoints["bridge"].ip_address == "172.17.0.3"
    assert "172.17.0.2\tone.example.org one\n" in one.hosts
    assert one.netns_path and pings(one.netns_path, "172.17.0.1")
    assert pings(one.netns_path, "172.17.0.3")
    assert "default via 172.17.0.1 dev eth0" in run(one.netns_path, "ip", "route").stdout
    described = host.service.inspect_network("bridge")
    assert described["Containers"]["one"]["IPv4Address"] == "172.17.0.2/16"
    host.service.rename("one", "uno")
    assert host.service.inspect_network("bridge")["Containers"]["one"]["Name"] == "uno"
    assert described["IPAM"]["Config"] == [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]


async def test_no_ipv6_on_an_ipv4_network(host: Host) -> None:
    """CVE-2024-32473: no link-local address; CVE-2020-13401: no router advertisement is accepted."""
    sandbox = await host.connect("one")
    assert sandbox.netns_path
    assert "inet6" not in run(sandbox.netns_path, "ip", "addr", "show", "eth0").stdout
    assert run(sandbox.netns_path, "cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra").stdout == "0\n"
    assert Path("/proc/sys/net/ipv6/conf/orlop0/accept_ra").read_text() == "0\n"
    assert "inet6 ::1/128" in run(sandbox.netns_path, "ip", "addr", "show", "lo").stdout


async def test_none_host_and_container_modes(host: Host) -> None:
    none = await host.connect("none", mode="none")
    assert none.netns_path and run(none.netns_path, "ip", "-br", "link").stdout.split()[0] == "lo"
    assert "eth0" not in run(none.netns_path, "ip", "link").stdout
    assert none.endpoints["none"].ip_address == ""
    on_host = await host.connect("host", mode="host", port_bindings=binding("8080"))
    assert on_host.netns_path is None and on_host.ports == {}
    assert on_host.hosts == Path("/etc/hosts").read_text()
    joined = await host.connect("joined", mode="container:none", netns_path=none.netns_path)
    assert joined.netns_path == none.netns_path and joined.endpoints == {}
    with pytest.raises(InvalidArgumentError, match="not running"):
        await host.connect("joined", mode="container:gone")
    with pytest.raises(NotFoundError, match="network backend not found"):
        await host.connect("x", mode="backend")


async def test_published_port_from_everywhere(host: Host, neighbour: Neighbour) -> None:
    server = await host.connect("server", port_bindings=binding("8080"), exposed_ports=["80/tcp", "81/tcp"])
    client = await host.connect("client")
    assert server.netns_path and client.netns_path
    assert server.ports == {
        "80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080"), PortBinding(host_ip="::", host_port="8080")],
        "81/tcp": None,
    }
    data = b"x" * 300_000
    with serving(server.netns_path, 80):
        assert echo("127.0.0.1", 8080, data) == data  # by the proxy
        assert echo("::1", 8080, data) == data
        assert echo(HOST_ADDRESS, 8080, data) == data  # by the kernel
        assert echo(HOST_ADDRESS, 8080, b"from outside", neighbour.netns) == b"from outside"
        assert echo("172.17.0.1", 8080, b"another container", client.netns_path) == b"another container"
        assert echo(HOST_ADDRESS, 8080, b"another container", client.netns_path) == b"another container"
        assert echo("172.17.0.1", 8080, b"itself", server.netns_path) == b"itself"
    await host.service.release("server")
    with pytest.raises(ConnectionRefusedError):
        echo("127.0.0.1", 8080)


async def test_udp_answers_come_from_the_address_that_was_asked(host: Host, neighbour: Neighbour) -> None:
    ports = {"53/udp": [PortBinding(host_port="5353")]}
    server = await host.connect("server", port_bindings=ports)
    client = await host.connect("client")
    assert server.netns_path and client.netns_path
    with serving_udp(server.netns_path, 53):
        here = f"/proc/{os.getpid()}/ns/net"
        for place, address in (
            (here, "127.0.0.1"),
            (here, "::1"),
            (here, HOST_ADDRESS),
            (neighbour.netns, HOST_ADDRESS),
            (client.netns_path, HOST_ADDRESS),
            (client.netns_path, "172.17.0.1"),
        ):
            assert ask_udp(place, address, 5353) == "question!", (place, address)


async def test_udp_client_with_one_port_is_led_to_the_next_container(host: Host, neighbour: Neighbour) -> None:
    await host.service.create_network(NetworkCreateRequest(name="dual", enable_ipv6=True))
    ip("addr add fd00:51::1/64 dev wire0 nodad")
    run(neighbour.netns, "ip", "addr", "add", "fd00:51::2/64", "dev", "wire1", "nodad")
    ports: dict[str, list[PortBinding] | None] = {"53/udp": [PortBinding(host_port="5353")]}
    one = await host.connect("one", mode="dual", port_bindings=ports)
    assert one.netns_path
    ways = (HOST_ADDRESS, "fd00:51::1")
    with serving_udp(one.netns_path, 53):
        for address in ways:
            assert ask_udp(neighbour.netns, address, 5353, source=4000) == "question!", address
    with lingering(one.netns_path):  # its address stays taken
        await host.service.release("one")
        two = await host.connect("two", mode="dual", port_bindings=ports)
        assert two.netns_path and two.endpoints["dual"].ip_address == "172.18.0.3"
        with serving_udp(two.netns_path, 53):
            for address in ways:
                assert ask_udp(neighbour.netns, address, 5353, source=4000) == "question!", address
    await host.service.release("two")
    await host.service.remove_network("dual")


async def test_stale_arp_entry_is_dropped(host: Host) -> None:
    first = await host.connect("one", mac_address="02:00:00:00:00:07")
    assert first.netns_path and pings(first.netns_path, "172.17.0.1")
    await host.service.release("one")
    while host.service._steps.leaving.addresses():  # noqa: ASYNC110 - each turn of the loop may bring the news
        await asyncio.sleep(0)
    second = await host.connect("one")
    assert second.endpoints["bridge"].ip_address == "172.17.0.2"
    assert second.netns_path and second.endpoints["bridge"].mac_address == "02:42:ac:11:00:02"
    assert "02:00:00:00:00:07" not in ip("neigh show dev orlop0")


async def test_outgoing_traffic_is_masqueraded(host: Host, neighbour: Neighbour) -> None:
    sandbox = await host.connect("one")
    assert sandbox.netns_path
    run(neighbour.netns, "ip", "route", "del", "default")  # the neighbour knows no way to 172.17
    with serving(neighbour.netns, 80):
        assert echo(NEIGHBOUR_ADDRESS, 80, b"out", sandbox.netns_path) == b"out"


async def test_neighbours_reach_only_published_ports(host: Host, neighbour: Neighbour) -> None:
    """CVE-2025-54388: a port published on 127.0.0.1 stays there; no direct way to a container's address."""
    sandbox = await host.connect("one", port_bindings=binding("8080", "127.0.0.1"))
    assert sandbox.netns_path
    run(neighbour.netns, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    run(neighbour.netns, "ip", "route", "add", "127.0.0.1", "via", HOST_ADDRESS, "table", "100")
    run(neighbour.netns, "ip", "rule", "add", "to", "127.0.0.1", "lookup", "100", "priority", "0")
    run(neighbour.netns, "ip", "rule", "add", "lookup", "local", "priority", "10")
    run(neighbour.netns, "ip", "rule", "del", "lookup", "local", "priority", "0")
    with serving(sandbox.netns_path, 80):
        assert echo("127.0.0.1", 8080, b"here") == b"here"
        assert echo(HOST_ADDRESS, 8080, b"x", neighbour.netns) == b""
        assert echo("172.17.0.2", 80, b"x", neighbour.netns) == b""
        assert echo("127.0.0.1", 8080, b"x", neighbour.netns) == b""
        # the way in itself works
        await host.connect("one", port_bindings=binding("8080"))


async def test_port_conflicts_in_dockers_words(host: Host) -> None:
    await host.connect("one", port_bindings=binding("8080"))
    before = nft()
    with pytest.raises(InternalError) as ours:
        await host.connect("two", port_bindings=binding("8080"))
    assert re.fullmatch(
        r"driver failed programming external connectivity on endpoint two \([0-9a-f]{64}\): "
        r"Bind for 0\.0\.0\.0:8080 failed: port is already allocated",
        str(ours.value),
    )
    with socket.create_server(("0.0.0.0", 8081)), pytest.raises(InternalError) as theirs:
        await host.connect(
            "two", port_bindings={"80/tcp": [PortBinding(host_port="8082"), PortBinding(host_port="8081")]}
        )
    assert str(theirs.value).endswith(": failed to bind host port 0.0.0.0:8081/tcp: address already in use")
    # nothing is left of the failures
    assert len(host.pins()) == 1 and nft() == before
    assert list(await host.netd.held()) == ["one"]
    await host.connect("two", port_bindings=binding("8082"))


async def test_any_port_and_ranges_pass_over_taken_ones(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 32768)):
        any_port = await host.connect("one", exposed_ports=["80/tcp"], publish_all=True)
    with socket.create_server(("127.0.0.1", 9000)):
        ranged = await host.connect("two", port_bindings=binding("9000-9002"))
        again = await host.connect("three", port_bindings=binding("9000-9002"))
        with pytest.raises(InternalError, match="all ports are allocated"):
            await host.connect("four", port_bindings=binding("9000-9002"))
    assert any_port.ports["80/tcp"] and any_port.ports["80/tcp"][0].host_port == "32769"
    assert ranged.ports["80/tcp"] and ranged.ports["80/tcp"][0].host_port == "9001"
    assert again.ports["80/tcp"] and again.ports["80/tcp"][0].host_port == "9002"


async def test_restart_keeps_what_lives_and_drops_what_does_not(host: Host) -> None:
    live = await host.connect("live", port_bindings=binding("8080"))
    dead = await host.connect("dead", port_bindings=binding("8081"))
    half = await host.connect("half")
    assert live.netns_path and dead.netns_path and half.netns_path
    netns_module.remove(dead.netns_path)
    unready = "replace(record, '\"ready\":true', '\"ready\":false')"
    host.connection.execute(f"UPDATE endpoints SET record = {unready} WHERE container_id = 'half'")
    host.connection.commit()
    Path(host.directory / "run" / "netns" / "stray").touch()
    with serving(live.netns_path, 80):
        await host.restart()
        assert echo("127.0.0.1", 8080) == b"hello"
    assert host.pins() == [os.path.basename(live.netns_path)]
    assert list(await host.netd.held()) == ["live"]
    assert "tcp . 8080 : 172.17.0.2 . 80" in nft() and "8081" not in nft()
    kept = host.service.sandbox("live")
    assert kept and kept.endpoints["bridge"].ip_address == "172.17.0.2" and kept.ports == live.ports
    assert host.service.sandbox("half") is None
    with pytest.raises(InternalError, match="port is already allocated"):
        await host.connect("new", port_bindings=binding("8080"))


async def test_killed_netd_comes_back_with_its_ports(host: Host) -> None:
    sandbox = await host.connect("one", port_bindings=binding("8080"))
    assert sandbox.netns_path
    pid = await host.netd.ping()
    end(pid, signal.SIGKILL)
    while await host.netd.ping() == pid or not await host.netd.held():
        pass
    with serving(sandbox.netns_path, 80):
        assert echo("127.0.0.1", 8080) == b"hello"


async def test_address_is_not_given_again_before_the_interface_is_gone(host: Host) -> None:
    sandbox = await host.connect("one")
    assert sandbox.netns_path
    with lingering(sandbox.netns_path):
        await host.service.release("one")
        again = await host.connect("one")
        assert again.endpoints["bridge"].ip_address == "172.17.0.3"


async def test_kernel_refusal_leaves_nothing(host: Host) -> None:
    await host.connect("one")
    ip("link del orlop0")
    with pytest.raises(InternalError, match="failed to set up container networking \\(find bridge orlop0\\)"):
        await host.connect("two", port_bindings=binding("8080"))
    assert len(host.pins()) == 1
    assert await host.netd.held() == {}
    await host.restart()  # makes the bridge again, and the live container's place on it
    assert "orlop0" in ip("link show type veth")


async def test_other_networks_are_avoided(netns: None, tmp_path: Path) -> None:
    ip("link add docker0 type bridge")
    ip("addr add 172.17.0.1/16 dev docker0")
    machine = Host(tmp_path)
    await machine.service.start()
    try:
        assert (await machine.connect("one")).endpoints["bridge"].gateway == "172.18.0.1"
    finally:
        await machine.close(["one"])


async def test_containers_pass_an_iptables_policy_of_drop(neighbour: Neighbour, tmp_path: Path) -> None:
    """What docker.io's own dockerd, or ufw, leave on a host."""
    command("iptables", "-P", "FORWARD", "DROP")
    machine = Host(tmp_path)
    await machine.service.start()
    try:
        sandbox = await machine.connect("one", port_bindings=binding("8080"))
        assert sandbox.netns_path
        with serving(neighbour.netns, 80), serving(sandbox.netns_path, 80):
            assert echo(NEIGHBOUR_ADDRESS, 80, b"out", sandbox.netns_path) == b"out"
            assert echo(HOST_ADDRESS, 8080, b"in", neighbour.netns) == b"in"
        await machine.restart()
        listing = command("nft", "list", "chain", "ip", "filter", "FORWARD")
        assert listing.count("orlop0") == 4  # two rules, each with its comment
    finally:
        await machine.close(["one"])


async def test_no_proxy(neighbour: Neighbour, tmp_path: Path) -> None:
    """userland-proxy=false: the kernel redirects loopback traffic and hairpins too."""
    machine = Host(tmp_path, userland_proxy=False)
    await machine.service.start()
    try:
        sandbox = await machine.connect("one", port_bindings=binding("8080"))
        other = await machine.connect("two")
        assert sandbox.netns_path and other.netns_path
        assert sandbox.ports == {"80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")]}
        with serving(sandbox.netns_path, 80):
            assert echo("127.0.0.1", 8080) == b"hello"
            assert echo(HOST_ADDRESS, 8080, b"in", neighbour.netns) == b"in"
            assert echo(HOST_ADDRESS, 8080, b"other", other.netns_path) == b"other"
            assert echo(HOST_ADDRESS, 8080, b"self", sandbox.netns_path) == b"self"
        with pytest.raises(ConnectionRefusedError):
            echo("::1", 8080)
        with pytest.raises(OSError) as taken, socket.create_server(("0.0.0.0", 8080)):
            pass
        assert taken.value.errno == errno.EADDRINUSE
    finally:
        await machine.close(["one", "two"])


async def test_icc_off(netns: None, tmp_path: Path) -> None:
    machine = Host(tmp_path, icc=False)
    await machine.service.start()
    try:
        one, two = await machine.connect("one"), await machine.connect("two")
        assert one.netns_path and two.netns_path
        assert pings(one.netns_path, "172.17.0.1")
        assert not pings(one.netns_path, "172.17.0.3")
    finally:
        await machine.close(["one", "two"])


async def test_wishes_are_checked(host: Host) -> None:
    fixed = {"bridge": EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="172.17.0.9"))}
    with pytest.raises(InvalidArgumentError, match="user defined networks only"):
        await host.connect("one", endpoints=fixed)
    with pytest.raises(InvalidArgumentError, match="invalid MAC address: 'zz'"):
        await host.connect("one", mac_address="zz")
    with pytest.raises(InvalidArgumentError, match="invalid host port 'x' for port 80/tcp"):
        await host.connect("one", port_bindings=binding("x"))
    assert host.pins() == []
    own = await host.connect("one", mac_address="02:00:00:00:00:07")
    assert own.netns_path and "02:00:00:00:00:07" in run(own.netns_path, "ip", "link", "show", "eth0").stdout


def table_is(expected: str) -> bool:
    """Whether the table is there and as expected."""
    return "table ip orlop\n" in command("nft", "list", "tables") and nft() == expected


async def restored(expected: str) -> None:
    async with asyncio.timeout(30 * PACE):
        while not table_is(expected):  # noqa: ASYNC110 - the kernel's rules give the test no event
            await asyncio.sleep(0.02)


async def test_rules_come_back_when_they_are_flushed(host: Host, neighbour: Neighbour) -> None:
    """CVE-2025-54388 and -54410: a reload of the host's firewall opens nothing, and closes nothing for ever."""
    public = await host.connect("public", port_bindings=binding("8080"))
    before = nft()
    command("nft", "flush", "ruleset")
    await restored(before)
    listing = command("nft", "-a", "list", "chain", "ip", "orlop", "into_bridge")
    handle = re.findall(r"drop # handle (\d+)", listing)[0]
    command("nft", "delete", "rule", "ip", "orlop", "into_bridge", "handle", handle)
    await restored(before)
    # also for a port that is published in between, and for one that is withdrawn
    command("nft", "flush", "ruleset")
    await host.connect("other", port_bindings=binding("8081"))
    assert "tcp . 8081" in nft()
    command("nft", "flush", "ruleset")
    await host.service.release("other")
    await restored(before)
    assert public.netns_path
    with serving(public.netns_path, 80), serving(public.netns_path, 81):
        assert echo(HOST_ADDRESS, 8080, b"in", neighbour.netns) == b"in"
        assert echo("172.17.0.2", 81, b"x", neighbour.netns) == b""


async def test_rules_that_are_taken_while_they_are_put_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    await host.connect("public", port_bindings=binding("8080"))
    before, noticed, taken = nft(), threading.Event(), threading.Event()
    schedule, offer = Rules._schedule, Rules._offer_user_chain

    def told(rules: Rules) -> None:
        schedule(rules)
        noticed.set()

    def interrupted(rules: Rules, kernel: Kernel) -> None:
        """Within the installation, behind our table."""
        monkeypatch.setattr(Rules, "_offer_user_chain", offer)
        noticed.clear()
        command("nft", "flush", "chain", "ip", "orlop", "into_bridge")
        assert noticed.wait(30 * PACE)
        taken.set()
        offer(rules, kernel)

    monkeypatch.setattr(Rules, "_schedule", told)
    monkeypatch.setattr(Rules, "_offer_user_chain", interrupted)
    command("nft", "flush", "ruleset")
    assert await asyncio.to_thread(taken.wait, 60 * PACE)
    await restored(before)


async def test_own_changes_are_no_reason_to_install_again(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await host.connect("one", port_bindings=binding("8080"))
    await host.service.release("one")
    await asyncio.sleep(0.3)
    assert "changed from outside" not in caplog.text
    command("nft", "flush", "chain", "ip", "orlop", "forward")
    await asyncio.sleep(0.5)
    assert caplog.text.count("changed from outside") == 1


async def test_rules_for_thousands_of_ports(netns: None, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel tells of each port when the rules are installed: more than a socket's usual buffer takes."""
    caplog.set_level(logging.INFO)
    thread = KernelThread()
    rules = Rules(thread, Firewall("orlop", userland_proxy=True))
    ports = [
        PortMapping(protocol="tcp", host_ip="0.0.0.0", host_port=20000 + number, address="172.17.0.2", port=80)
        for number in range(5000)
    ]
    try:
        await rules.start([], ports, [], Links())
        before = nft()
        assert "tcp . 24999" in before
        command("nft", "flush", "ruleset")
        await restored(before)
        await asyncio.sleep(0.5)
        assert caplog.text.count("changed from outside") == 1
    finally:
        await rules.close()
        await thread.close()


async def test_late_iptables_policy_is_passed(host: Host, neighbour: Neighbour) -> None:
    """Another container engine that starts after us sets the FORWARD policy to drop."""
    sandbox = await host.connect("one")
    command("iptables", "-P", "FORWARD", "DROP")
    async with asyncio.timeout(30 * PACE):
        while "orlop0" not in command("nft", "list", "chain", "ip", "filter", "FORWARD"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert sandbox.netns_path
    with serving(neighbour.netns, 80):
        assert echo(NEIGHBOUR_ADDRESS, 80, b"out", sandbox.netns_path) == b"out"


async def test_many_at_once(host: Host) -> None:
    names = [f"c{number}" for number in range(30)]
    ports: dict[str, list[PortBinding] | None] = {"80/tcp": [PortBinding()]}
    sandboxes = await asyncio.gather(*(host.connect(name, port_bindings=ports) for name in names))
    assert len({sandbox.endpoints["bridge"].ip_address for sandbox in sandboxes}) == 30
    assert len({(sandbox.ports["80/tcp"] or [])[0].host_port for sandbox in sandboxes}) == 30
    await asyncio.gather(*(host.service.release(name) for name in names))
    assert await host.netd.held() == {} and host.pins() == []


@pytest.mark.parametrize("delay", [0.0, 0.0005, 0.001, 0.002])
async def test_cancelled_connect_leaves_nothing(host: Host, delay: float) -> None:
    await host.connect("warm", port_bindings=binding("8081"))
    before = nft()
    task = asyncio.create_task(host.connect("one", port_bindings=binding("8080")))
    await asyncio.sleep(delay)
    if task.cancel():
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(host.pins()) == 1 and nft() == before and list(await host.netd.held()) == ["warm"]
        await host.connect("one", port_bindings=binding("8080"))


async def test_no_default_bridge(netns: None, tmp_path: Path) -> None:
    machine = Host(tmp_path, bridge="none")
    await machine.service.start()
    try:
        assert [network["Name"] for network in machine.service.list_networks()] == ["host", "none"]
        with pytest.raises(NotFoundError, match="network bridge not found"):
            await machine.connect("one")
        await machine.connect("one", mode="none")
    finally:
        await machine.close(["one"])


async def test_systemd_resolved_is_passed_over_or_asked(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stub at 127.0.0.53 is the host's alone: who asks by himself gets its servers; the resolver asks it."""
    for name, server in (("stub", "127.0.0.53"), ("full", "192.0.2.53")):
        (tmp_path / name).write_text(f"nameserver {server}\nsearch lan\n")
    monkeypatch.setattr(sandbox_files, "_RESOLV_CONF", str(tmp_path / "stub"))
    monkeypatch.setattr(sandbox_files, "_RESOLVED_CONF", str(tmp_path / "full"))
    await host.service.create_network(NetworkCreateRequest(name="zone"))
    plain, served, of_host = [await host.connect(mode, mode=mode) for mode in ("bridge", "zone", "host")]
    assert [line for line in plain.resolv_conf.splitlines() if line[:1] not in ("#", "")] == [
        "nameserver 192.0.2.53",
        "search lan",
    ]
    assert "nameserver 127.0.0.11\nsearch lan\n" in served.resolv_conf and "host(127.0.0.53)" in served.resolv_conf
    assert "nameserver 127.0.0.53\n" in of_host.resolv_conf
    (tmp_path / "stub").write_text("nameserver 127.0.0.53\nnameserver 192.0.2.54\n")
    mixed = await host.connect("mixed")
    assert "nameserver 192.0.2.54\n" in mixed.resolv_conf and "127.0.0.53" not in mixed.resolv_conf
