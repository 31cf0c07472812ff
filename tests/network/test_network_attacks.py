# SPDX-License-Identifier: Apache-2.0
"""Known attacks on containers' networks, replayed by a container or a neighbour that may send raw frames."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.containerd import wait_until
from support.networks import (
    HOST_ADDRESS,
    Host,
    Neighbour,
    ask_udp,
    command,
    echo,
    ip,
    pings,
    run,
    serving,
    serving_udp,
)
from support.pace import PACE

from orlop.dockerd.network import NetworkService, Sandbox
from orlop.engine.types import IPAM, IPAMConfig, NetworkCreateRequest, PortBinding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.root

_SEND_FRAME = """
import socket, sys, time
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
    link.bind((sys.argv[1], 0))
    for _ in range(3):
        link.send(bytes.fromhex(sys.argv[2]))
        time.sleep(float(sys.argv[3]))
"""


def send_frame(netns: str, frame: bytes, device: str = "eth0", pause: float = 0.0) -> None:
    """Put a frame on the wire as it is, three times."""
    run(netns, sys.executable, "-S", "-c", _SEND_FRAME, device, frame.hex(), str(pause))


def mac_of(netns: str, device: str = "eth0") -> bytes:
    words = run(netns, "ip", "-o", "link", "show", device).stdout.split()
    return bytes.fromhex(words[words.index("link/ether") + 1].replace(":", ""))


def place(sandbox: Sandbox) -> str:
    assert sandbox.netns_path
    return sandbox.netns_path


def address_of(sandbox: Sandbox) -> str:
    (endpoint,) = sandbox.endpoints.values()
    return endpoint.ip_address


def arp_reply(own_mac: bytes, claimed: str, target_mac: bytes, target: str) -> bytes:
    """`claimed` is at `own_mac`, says whoever has that to `target`."""
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + own_mac + socket.inet_aton(claimed)
    return target_mac + own_mac + b"\x08\x06" + body + target_mac + socket.inet_aton(target)


def router_advertisement(own_mac: bytes) -> bytes:
    """`I am the router, and 2001:db8:bad::/64 is on this link`, to all nodes (RFC 4861)."""
    source, all_nodes = IPv6Address("fe80::bad").packed, IPv6Address("ff02::1").packed
    prefix = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + IPv6Address("2001:db8:bad::").packed
    body = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    body = body[:2] + checksum(source, all_nodes, 58, body) + body[4:]
    header = struct.pack(">IHBB", 6 << 28, len(body), 58, 255) + source + all_nodes
    return b"\x33\x33\0\0\0\x01" + own_mac + b"\x86\xdd" + header + body


async def dual(service: NetworkService) -> None:
    ipam = IPAM(config=[IPAMConfig(subnet="fd00:77::/64")])
    await service.create_network(NetworkCreateRequest(name="dual", enable_ipv6=True, ipam=ipam))


async def test_router_advertisements_are_not_believed(host: Host) -> None:
    """CVE-2020-13401, with a container that shows that the attack works where it is not warded off."""
    await dual(host.service)
    victim = place(await host.connect("victim", mode="dual"))
    naive = place(await host.connect("naive", mode="dual"))
    attacker = place(await host.connect("attacker", mode="dual"))
    run(naive, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra")
    send_frame(attacker, router_advertisement(mac_of(attacker)))
    deadline = time.monotonic() + 5
    while "2001:db8:bad:" not in run(naive, "ip", "-6", "addr").stdout:
        assert time.monotonic() < deadline, "the advertisement is no good"
        await asyncio.sleep(0.02)
    for netns in (victim, "/proc/thread-self/ns/net"):
        assert "2001:db8:bad:" not in run(netns, "ip", "-6", "addr").stdout
        assert "fe80::bad" not in run(netns, "ip", "-6", "route").stdout


async def test_a_container_is_not_taken_for_the_gateway_or_another(host: Host) -> None:
    """ARP spoofing: neither the containers' way out nor the host's way in leads to who claims it."""
    victim_box = await host.connect("victim", port_bindings={"80/tcp": [PortBinding(host_port="8080")]})
    attacker_box = await host.connect("attacker")
    victim, attacker, address = place(victim_box), place(attacker_box), address_of(victim_box)
    assert pings(victim, "172.17.0.1") and pings(attacker, address)
    own, theirs = mac_of(attacker), mac_of(victim)
    bridge = mac_of("/proc/thread-self/ns/net", "orlop0")
    # The kernel does not change its mind about an address within a second (neigh/…/locktime).
    send_frame(attacker, arp_reply(own, "172.17.0.1", theirs, address), pause=0.6)
    send_frame(attacker, arp_reply(own, address, bridge, "172.17.0.1"), pause=0.6)
    assert _known_mac(victim, "172.17.0.1") == bridge
    assert _known_mac("/proc/thread-self/ns/net", address) == theirs
    run(attacker, "ip", "addr", "add", f"{address}/32", "dev", "eth0")  # it would even answer
    with serving(victim, 80), serving(attacker, 80, "/bin/false"):
        assert echo("127.0.0.1", 8080, b"whose?") == b"whose?"
        assert pings(victim, "172.17.0.1")


def _known_mac(netns: str, address: str) -> bytes:
    words = run(netns, "ip", "neigh", "show", address).stdout.split()
    return bytes.fromhex(words[words.index("lladdr") + 1].replace(":", ""))


def neighbor_advertisement(own_mac: bytes, claimed: str, target_mac: bytes, target: str) -> bytes:
    """The same in IPv6 (RFC 4861): solicited, and overriding what is known."""
    source, to, about = (IPv6Address(text).packed for text in (claimed, target, claimed))
    body = struct.pack(">BBHI", 136, 0, 0, 0x60000000) + about + b"\x02\x01" + own_mac
    body = body[:2] + checksum(source, to, 58, body) + body[4:]
    header = struct.pack(">IHBB", 6 << 28, len(body), 58, 255) + source + to
    return target_mac + own_mac + b"\x86\xdd" + header + body


def datagram(own_mac: bytes, claimed: str, target_mac: bytes, target: str, port: int) -> bytes:
    """UDP over IPv4 from `claimed`."""
    source, to = socket.inet_aton(claimed), socket.inet_aton(target)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 32, 7, 0, 64, 17, 0) + source + to
    head = head[:10] + checksum(b"", b"", 0, head) + head[12:]
    return target_mac + own_mac + b"\x08\x00" + head + struct.pack(">HHHH", 9, port, 12, 0) + b"what"


def checksum(source: bytes, to: bytes, protocol: int, body: bytes) -> bytes:
    """The Internet's checksum (RFC 1071), with IPv6's pseudo header if there are addresses."""
    data = (source + to + struct.pack(">II", len(body), protocol) if source else b"") + body
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


def received(netns: str) -> int:
    """How many datagrams the servers of a namespace got."""
    lines = [line.split() for line in run(netns, "cat", "/proc/net/snmp").stdout.splitlines()]
    names, values = (line for line in lines if line[0] == "Udp:")
    return int(values[names.index("InDatagrams")])


@pytest.mark.parametrize("guarded", [False, True])
async def test_source_guard(host: Host, guarded: bool) -> None:
    """Neither ARP, nor neighbour discovery, nor packets in another's name; without the option they get there."""
    ipam = IPAM(config=[IPAMConfig(subnet="fd00:77::/64")])
    options = {"source_guard": "true"} if guarded else {}
    await host.service.create_network(
        NetworkCreateRequest(name="front", enable_ipv6=True, ipam=ipam, options=options)
    )
    boxes = [await host.connect(name, mode="front") for name in ("victim", "peer", "attacker")]
    victim, peer, attacker = (place(box) for box in boxes)
    (target, claimed, _), own, theirs = [address_of(box) for box in boxes], mac_of(attacker), mac_of(victim)
    target6, claimed6 = ("fd00:77::2", "fd00:77::3")

    async def attack() -> None:
        assert pings(victim, claimed) and pings(victim, claimed6) and pings(attacker, target)
        send_frame(attacker, arp_reply(own, claimed, theirs, target), pause=0.6)
        send_frame(attacker, neighbor_advertisement(own, claimed6, theirs, target6))
        for address in (claimed, claimed6):
            expected = mac_of(peer) if guarded else own
            wait_until(lambda address=address, expected=expected: _known_mac(victim, address) == expected, 30)
        with serving_udp(victim, 53):
            before = received(victim)
            send_frame(attacker, datagram(own, claimed, theirs, target, 53))
            send_frame(attacker, datagram(b"\x02\0\0\0\0\x07", address_of(boxes[2]), theirs, target, 53))
            assert ask_udp(attacker, target, 53) == "question!"  # in its own name it may
            wait_until(lambda: received(victim) - before == (1 if guarded else 7), 30)

    await attack()
    if guarded:
        tables = ("nft", "list", "tables")
        command("nft", "delete", "table", "bridge", "orlop")
        async with asyncio.timeout(30 * PACE):
            while "bridge orlop" not in command(*tables):  # noqa: ASYNC110 - the service hears of it from the kernel
                await asyncio.sleep(0.1)
        await host.restart()
        await attack()
        for name in ("victim", "peer", "attacker"):
            await host.service.release(name)
        assert "bridge orlop" not in command(*tables)


async def test_a_container_does_not_get_frames_for_anothers_mac(host: Host) -> None:
    """MAC spoofing: the bridge goes on sending where the container is."""
    box = await host.connect("victim")
    victim, attacker = place(box), place(await host.connect("attacker"))
    asker = place(await host.connect("asker"))
    assert pings(asker, address_of(box))
    stolen = mac_of(victim)
    send_frame(attacker, b"\xff" * 6 + stolen + b"\x88\xb5" + b"\0" * 46)
    for _ in range(3):
        assert pings(asker, address_of(box))
        assert pings("/proc/thread-self/ns/net", address_of(box))
        send_frame(attacker, mac_of(asker) + stolen + b"\x88\xb5" + b"\0" * 46)


async def test_what_is_known_of_a_container_goes_with_it(host: Host) -> None:
    await dual(host.service)
    await host.connect("one", mode="dual")
    known = command("ip", "neigh", "show", "nud", "permanent")
    assert "172.18.0.2" in known and "fd00:77::2" in known
    await host.service.release("one")
    left = command("ip", "neigh", "show", "nud", "permanent")
    assert "172.18.0.2" not in left and "fd00:77::2" not in left


@pytest.fixture(params=[True, False], ids=["proxy", "no-proxy"])
def userland_proxy(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_ports_of_the_loopback_address_are_not_the_lans(
    neighbour: Neighbour, tmp_path: Path, userland_proxy: bool
) -> None:
    """CVE-2025-54388, CVE-2020-8558's shape: packets for 127.0.0.1 are sent to the host's MAC address, its other
    addresses are asked, or the container's."""
    host = Host(tmp_path, userland_proxy=userland_proxy)
    await host.service.start()
    try:
        binding = PortBinding(host_ip="127.0.0.1", host_port="8080")
        inside = await host.connect("inside", port_bindings={"80/tcp": [binding]})
        other = place(await host.connect("other"))
        await host.service.create_network(NetworkCreateRequest(name="apart"))
        apart = place(await host.connect("apart", mode="apart"))
        for netns, device, gateway in (
            (neighbour.netns, "wire1", HOST_ADDRESS),
            (other, "eth0", "172.17.0.1"),
            (apart, "eth0", "172.18.0.1"),
        ):
            run(netns, "sh", "-c", f"echo 1 > /proc/sys/net/ipv4/conf/{device}/route_localnet")
            run(netns, "ip", "route", "del", "table", "local", "127.0.0.0/8", "dev", "lo", check=False)
            run(netns, "ip", "route", "del", "table", "local", "127.0.0.1", "dev", "lo", check=False)
            run(
                netns,
                "ip",
                "route",
                "add",
                "127.0.0.1/32",
                "via",
                gateway,
                "dev",
                device,
                "src",
                _source(netns, device),
            )
        with serving(place(inside), 80), _listening_on_loopback(9090):
            assert echo("127.0.0.1", 8080, b"host") == b"host" == echo("127.0.0.1", 9090, b"host")
            tries = [
                (to, port, netns)
                for netns in (neighbour.netns, other, apart)
                for to in ("127.0.0.1", HOST_ADDRESS)
                for port in (8080, 9090)
            ]
            tries += [(address_of(inside), 80, netns) for netns in (neighbour.netns, apart)]
            with ThreadPoolExecutor(len(tries)) as threads:
                found = threads.map(lambda each: echo(each[0], each[1], b"x", each[2]), tries)
                assert [each for each, answer in zip(tries, found, strict=True) if answer] == []
    finally:
        await host.close(["inside", "other", "apart"])


async def test_loopback_traffic_is_led_back_only_as_long_as_it_is_guarded(netns: None, tmp_path: Path) -> None:
    """CVE-2020-8558: route_localnet without the rule that goes with it opens the host's loopback to containers."""
    ip("link add mine type bridge")
    host = Host(tmp_path, userland_proxy=False)
    await host.service.start()
    try:
        assert _leads_loopback("orlop0")
        options = {"com.docker.network.bridge.name": "mine"}
        await host.service.create_network(NetworkCreateRequest(name="own", options=options))
        inner = NetworkCreateRequest(name="inner", internal=True)
        bridge = f"br-{(await host.service.create_network(inner))['Id'][:12]}"
        assert _leads_loopback("mine") and not _leads_loopback(bridge)
        await host.service.remove_network("own")  # the bridge stays: it was there before
        assert not _leads_loopback("mine")
        command("nft", "flush", "ruleset")
        async with asyncio.timeout(30):
            while _leads_loopback("orlop0"):  # noqa: ASYNC110 - the kernel's settings give the test no event
                await asyncio.sleep(0)
            while not _leads_loopback("orlop0"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert "drop" in command("nft", "list", "chain", "ip", "orlop", "guard")
    finally:
        await host.close([])


def _leads_loopback(bridge: str) -> bool:
    return Path(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet").read_text().strip() == "1"


def _source(netns: str, device: str) -> str:
    return run(netns, "ip", "-4", "-o", "addr", "show", device).stdout.split()[3].partition("/")[0]


_ECHO = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("listening", flush=True)
    while True:
        with server.accept()[0] as client:
            client.sendall(client.recv(99))
"""


@contextlib.contextmanager
def _listening_on_loopback(port: int) -> Iterator[None]:
    """A service of the host's own that only the host shall reach."""
    argv = [sys.executable, "-S", "-c", _ECHO, str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout and server.stdout.readline()
            yield
        finally:
            server.kill()


async def test_metadata_addresses_are_not_reached_from_internal_networks(host: Host, neighbour: Neighbour) -> None:
    """169.254.169.254: as far away as the rest of the world. Other networks reach it, as in Docker."""
    run(neighbour.netns, "ip", "addr", "add", "169.254.169.254/32", "dev", "lo")
    command("ip", "route", "add", "169.254.169.254/32", "via", "198.51.100.2")
    await host.service.create_network(NetworkCreateRequest(name="inner", internal=True))
    inner, outer = place(await host.connect("inner", mode="inner")), place(await host.connect("outer"))
    with serving(neighbour.netns, 80):
        assert echo("169.254.169.254", 80, b"credentials", outer) == b"credentials"
        assert echo("169.254.169.254", 80, b"credentials", inner) == b""
        run(inner, "ip", "route", "add", "default", "via", "172.18.0.1")  # it helps itself
        assert echo("169.254.169.254", 80, b"credentials", inner) == b""


async def test_queries_of_internal_networks_stay_inside(
    host: Host, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2024-29018: data does not leave in names, whichever servers there are."""
    await host.service.create_network(NetworkCreateRequest(name="inner", internal=True))
    given = place(await host.connect("given", mode="inner", dns=("198.51.100.2", "127.0.0.53", HOST_ADDRESS)))
    with _dns_servers(neighbour) as heard:
        answer = run(
            given, "busybox", "timeout", "9", "busybox", "nslookup", "secret.example", "127.0.0.11", check=False
        )
        assert "Address: 192.0.2.1" not in answer.stdout
        assert "given" in run(given, "busybox", "nslookup", "-type=a", "given", "127.0.0.11").stdout
        assert heard() == []


_LISTEN = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
print("bound", flush=True)
while True:
    print(server.recv(999).hex(), flush=True)
"""


@contextlib.contextmanager
def _dns_servers(neighbour: Neighbour) -> Iterator[Callable[[], list[bytes]]]:
    """Somebody listens at port 53, on the neighbour and on the host's own loopback address; nobody answers."""
    with contextlib.ExitStack() as stack:
        outputs = []
        for netns in (neighbour.netns, "/proc/thread-self/ns/net"):
            argv = ["nsenter", f"--net={netns}", sys.executable, "-S", "-c", _LISTEN]
            server = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0))
            stack.callback(server.kill)
            assert server.stdout and server.stdout.readline() == b"bound\n"
            os.set_blocking(server.stdout.fileno(), False)
            outputs.append(server.stdout)
        yield lambda: [data for output in outputs if (data := output.read())]
