# SPDX-License-Identifier: Apache-2.0
"""Overlay networks: two machines, each with a network service of its own, and a wire between them."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.machine import Machine
from support.networks import echo, echoing, fresh_netns, ip, pings, run

pytestmark = pytest.mark.root

FIRST, SECOND, STRANGER = "192.0.2.1", "192.0.2.2", "192.0.2.9"
Pair = tuple[Machine, Machine]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Pair]:
    """Two machines on one switch, which is this test's namespace."""
    with fresh_netns():
        ip("link add switch type bridge")
        ip(f"addr add {STRANGER}/24 dev switch")
        ip("link set switch up")
        both = Machine(tmp_path / "1", f"{FIRST}/24"), Machine(tmp_path / "2", f"{SECOND}/24")
        for machine in both:
            ip(f"link set {machine.wire} master switch")
        yield both
        for machine in both:
            machine.close()


def overlay(name: str = "far", subnet: str = "10.50.0.0/24", **opts: str) -> dict[str, Any]:
    options = {"peers": f"{FIRST},{SECOND}"} | opts
    return {"Name": name, "Driver": "overlay", "Options": options, "IPAM": {"Config": [{"Subnet": subnet}]}}


def test_containers_of_two_machines(machines: Pair) -> None:
    made = [machine.call("create", **overlay()) for machine in machines]
    ranges = [each["IPAM"]["Config"][0] for each in made]
    assert [each["IPRange"] for each in ranges] == ["10.50.0.0/25", "10.50.0.128/25"]
    assert [each["Gateway"] for each in ranges] == ["10.50.0.1", "10.50.0.1"]
    one, two = (
        machines[0].call("connect", name="one", network="far"),
        machines[1].call("connect", name="two", network="far"),
    )
    assert (one["address"], two["address"]) == ("10.50.0.2", "10.50.0.128")
    assert "mtu 1450" in run(one["netns"], "ip", "link", "show", "eth0").stdout
    assert pings(one["netns"], two["address"]) and pings(two["netns"], one["address"])
    with echoing(two["netns"], 80):
        data = bytes(200_000)
        assert echo(two["address"], 80, data[:1000], one["netns"]) == data[:1000]
    for box, machine in ((one, machines[0]), (two, machines[1])):  # each leaves through its own host
        assert pings(box["netns"], "10.50.0.1") and pings(box["netns"], STRANGER)
        neighbours = run(box["netns"], "ip", "neigh").stdout
        assert "10.50.0.1 dev eth0 lladdr 02:42:0a:32:00:01" in neighbours
        machine.call("restart")
    assert pings(one["netns"], two["address"])


def test_full_packets_pass(machines: Pair) -> None:
    for machine in machines:
        machine.call("create", **overlay())
    one, two = (
        machines[0].call("connect", name="one", network="far"),
        machines[1].call("connect", name="two", network="far"),
    )
    large = run(one["netns"], "busybox", "ping", "-c1", "-W2", "-s", "1422", two["address"], check=False)
    assert "1 packets received" in large.stdout


def test_strangers_and_other_networks_are_kept_out(machines: Pair) -> None:
    for machine in machines:
        machine.call("create", **overlay(id="77"))
        machine.call("create", **overlay("other", "10.51.0.0/24"))
    two = machines[1].call("connect", name="two", network="far")
    three = machines[0].call("connect", name="three", network="other")
    assert not pings(three["netns"], two["address"])
    # a third machine that knows number and port, and claims an address of the network
    ip(f"link add vx0 type vxlan id 77 dstport 4789 local {STRANGER} remote {SECOND} nolearning")
    ip("addr add 10.50.0.99/24 dev vx0")
    ip("link set vx0 up")
    assert not pings("/proc/thread-self/ns/net", two["address"])
    listed = run(machines[1].netns, "nft", "list", "ruleset").stdout
    assert f"udp dport 4789 @th,96,24 0x4d ip saddr != {FIRST} drop" in listed
    run(machines[1].netns, "nft", "flush", "ruleset")
    machines[1].call("restart")
    assert run(machines[1].netns, "nft", "list", "ruleset").stdout == listed


def test_removal_leaves_nothing(machines: Pair) -> None:
    before = run(machines[0].netns, "ip", "-o", "link").stdout.count("\n")
    machines[0].call("create", **overlay())
    machines[0].call("remove", name="far")
    assert run(machines[0].netns, "ip", "-o", "link").stdout.count("\n") == before
    assert "vx-" not in run(machines[0].netns, "nft", "list", "ruleset").stdout


BAD = (
    (
        overlay(peers=""),
        "This node is not a swarm manager: an overlay network without a swarm needs its members",
    ),
    (overlay(peers="x"), "invalid peers: 'x' is not an ip address"),
    (overlay(peers=f"{SECOND},::1"), "addresses of one family"),
    (overlay(peers=FIRST), "invalid peers: no other host than this one"),
    (overlay(peers=SECOND), "say its part of the subnet with --ip-range"),
    (overlay(id="16777216"), "invalid id: '16777216' is not a number from 1 to 16777215"),
    (overlay(port="0"), "invalid port: '0' is not a number"),
    (overlay(local="192.0.2.77"), "invalid local: 192.0.2.77 is no address of this host"),
    (overlay(peer="x"), 'unknown option "peer" of network driver overlay: did you mean "peers"?'),
    (overlay(subnet="10.50.0.0/30"), "subnet 10.50.0.0/30 is too small for 2 hosts"),
    ({**overlay(), "IPAM": {}}, "an overlay network needs the same --subnet on every host"),
)


def test_bad_overlays(machines: Pair) -> None:
    before = run(machines[0].netns, "ip", "-o", "link").stdout.count("\n")
    for request, message in BAD:
        with pytest.raises(RuntimeError) as raised:
            machines[0].call("create", **request)
        assert message in str(raised.value)
    assert run(machines[0].netns, "ip", "-o", "link").stdout.count("\n") == before


@pytest.fixture
def key(tmp_path: Path) -> str:
    """A secret that both machines know."""
    path = tmp_path / "key"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    path.chmod(0o600)
    return str(path)


def kernel_encrypts() -> bool:
    """Whether there is ESP with the algorithms of overlay networks; tried in a namespace of its own."""
    key = "0x" + "00" * 32
    script = (
        "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 mode transport "
        f"auth-trunc 'hmac(sha256)' {key} 128 enc 'cbc(aes)' {key}"
    )
    argv = ["unshare", "-n", "sh", "-c", script]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_encrypted(machines: Pair, key: str) -> None:
    if not kernel_encrypts():
        with pytest.raises(RuntimeError, match="the kernel cannot encrypt: it needs ESP, AES-CBC and"):
            machines[0].call("create", **overlay(encrypted="", **{"key-file": key}))
        assert "vx-" not in run(machines[0].netns, "ip", "-o", "link").stdout
        pytest.skip("no ESP in this kernel: tests/vm/run has one with it")
    for machine in machines:
        machine.call("create", **overlay(encrypted="", **{"key-file": key}))
    one = machines[0].call("connect", name="one", network="far")
    two = machines[1].call("connect", name="two", network="far")
    with contextlib.closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))) as wire:
        wire.bind((machines[0].wire, 0))
        wire.setblocking(False)
        assert pings(one["netns"], two["address"]) and pings(two["netns"], one["address"])
        protocols = set()
        with contextlib.suppress(BlockingIOError):
            while frame := wire.recv(2000):
                protocols.add(frame[23] if frame[12:14] == b"\x08\x00" else 0)
    assert socket.IPPROTO_ESP in protocols and socket.IPPROTO_UDP not in protocols
    large = run(one["netns"], "busybox", "ping", "-c1", "-W2", "-s", "1362", two["address"], check=False)
    assert "1 packets received" in large.stdout
    machines[0].call("restart")
    assert pings(one["netns"], two["address"])
    for machine in machines:  # neither says or hears anything as clear text when the settings are gone
        run(machine.netns, "ip", "xfrm", "policy", "flush")
        run(machine.netns, "ip", "xfrm", "state", "flush")
    assert not pings(one["netns"], two["address"])


def test_what_encryption_needs(machines: Pair, key: str, tmp_path: Path) -> None:
    open_to_all, short = tmp_path / "open", tmp_path / "short"
    open_to_all.write_text("0" * 64)
    short.write_text("0")
    short.chmod(0o600)
    for opts, message in (
        ({"encrypted": ""}, "encrypted and key-file=PATH go together"),
        ({"key-file": key}, "encrypted and key-file=PATH go together"),
        ({"encrypted": "", "key-file": "/nope"}, "invalid key-file: /nope: No such file or directory"),
        ({"encrypted": "", "key-file": str(open_to_all)}, "others than its owner may read"),
        ({"encrypted": "", "key-file": str(short)}, "has less than 32 bytes"),
    ):
        with pytest.raises(RuntimeError) as raised:
            machines[0].call("create", **overlay(**opts))
        assert message in str(raised.value)
    machines[0].call("create", **overlay())
    with pytest.raises(RuntimeError, match="an encrypted network has a port of its own: -o port="):
        machines[0].call("create", **overlay("more", "10.51.0.0/24", encrypted="true", **{"key-file": key}))


def test_one_number_for_one_network(machines: Pair) -> None:
    machines[0].call("create", **overlay(id="7"))
    with pytest.raises(RuntimeError, match="both have the VXLAN id 7 at port 4789"):
        machines[0].call("create", **overlay("near", "10.51.0.0/24", id="7"))
    machines[0].call("create", **overlay("near", "10.51.0.0/24", id="7", port="4790"))
