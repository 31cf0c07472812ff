# SPDX-License-Identifier: Apache-2.0
"""The machine's own firewall, other engines' rules, and a machine without nftables."""

import asyncio
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.networks import (
    HOST_ADDRESS,
    NEIGHBOUR_ADDRESS,
    Host,
    Neighbour,
    command,
    echo,
    echoing,
    inner_netns,
    pings,
    run,
)
from support.pace import PACE

from orlop.dockerd.network.explanations import explain
from orlop.engine.types import NetworkCreateRequest, PortBinding
from orlop.errdefs import InternalError
from orlop.unix import nftables
from orlop.unix.nftables import NftablesError

pytestmark = pytest.mark.root

PORTS: dict[str, list[PortBinding] | None] = {"80/tcp": [PortBinding(host_port="8080")]}
DOCKERD = "/usr/sbin/dockerd"
HERE = "/proc/thread-self/ns/net"


def reached(neighbour: Neighbour, port: int = 8080) -> bool:
    return echo(HOST_ADDRESS, port, b"x", neighbour.netns) == b"x"


def nft(text: str) -> str:
    return subprocess.run(["nft", "-f", "-"], input=text, check=True, capture_output=True, text=True).stdout


async def passes(host: Host, neighbour: Neighbour) -> None:
    """Wait until a container gets out: the service is told of new chains by the kernel, and nobody tells us."""
    box = host.service.sandbox("one")
    assert box and box.netns_path
    async with asyncio.timeout(15):
        while not await asyncio.to_thread(pings, box.netns_path, NEIGHBOUR_ADDRESS):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_the_machines_own_rules_judge_published_ports(neighbour: Neighbour, tmp_path: Path) -> None:
    host = Host(tmp_path, host_firewall=True)
    await host.service.start()
    one = await host.connect("one", port_bindings=PORTS)
    assert one.netns_path
    with echoing(one.netns_path, 80):
        assert reached(neighbour) and echo("127.0.0.1", 8080) == b"hello"
        assert Path("/proc/sys/net/ipv4/conf/orlop0/route_localnet").read_text() == "0\n"
        nft("table inet admin { chain input { type filter hook input priority filter; policy drop; "
            'iifname "lo" accept; ct state established,related accept; }; }')  # fmt: skip
        assert not reached(neighbour)
        nft("add rule inet admin input tcp dport 8080 accept")
        assert reached(neighbour)
        assert pings(one.netns_path, NEIGHBOUR_ADDRESS)
    await host.close(["one"])


async def test_without_that_setting_they_do_not(host: Host, neighbour: Neighbour) -> None:
    """As with Docker: what is redirected does not come in. The administrator's chain sees it."""
    one = await host.connect("one", port_bindings=PORTS)
    assert one.netns_path
    nft("table inet admin { chain input { type filter hook input priority filter; policy drop; }; }")
    with echoing(one.netns_path, 80):
        assert reached(neighbour)
        command("nft", "add rule inet orlop_user forward meta l4proto tcp ct original proto-dst 8080 drop")
        assert not reached(neighbour)
        await host.restart()
        command("nft", "delete", "table", "ip", "orlop")
        async with asyncio.timeout(15):
            while "8080" not in run(HERE, "nft", "list", "table", "ip", "orlop", check=False).stdout:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # as above
        assert not reached(neighbour)  # ours came back, theirs stayed
        command("nft", "flush", "chain", "inet", "orlop_user", "forward")
        assert reached(neighbour)


async def test_dockers_chain_for_administrators_is_asked(host: Host, neighbour: Neighbour) -> None:
    one = await host.connect("one", port_bindings=PORTS)
    assert one.netns_path
    with echoing(one.netns_path, 80):
        command("iptables", "-P", "FORWARD", "DROP")
        await passes(host, neighbour)
        command("iptables", "-N", "DOCKER-USER")
        command("iptables", "-I", "FORWARD", "-j", "DOCKER-USER")
        command("iptables", "-A", "DOCKER-USER", "-d", "172.17.0.2", "-p", "tcp", "-j", "DROP")
        await host.restart()
        assert not reached(neighbour) and pings(one.netns_path, NEIGHBOUR_ADDRESS)
        command("iptables", "-F", "DOCKER-USER")
        assert reached(neighbour)
    made = await host.service.create_network(NetworkCreateRequest(name="front"))
    assert made["Id"][:12] in run("/proc/thread-self/ns/net", "iptables", "-S", "FORWARD").stdout
    await host.service.remove_network("front")
    assert made["Id"][:12] not in command("iptables", "-S", "FORWARD")


@pytest.mark.skipif(shutil.which("iptables-legacy") is None, reason="no iptables-legacy here")
async def test_rules_of_iptables_legacy(host: Host, neighbour: Neighbour) -> None:
    """They are in tables of their own: an accept in nftables' does not help against them."""
    one = await host.connect("one")
    assert one.netns_path and pings(one.netns_path, NEIGHBOUR_ADDRESS)
    command("iptables-legacy", "-P", "FORWARD", "DROP")
    command("ip6tables-legacy", "-P", "FORWARD", "DROP")
    assert not pings(one.netns_path, NEIGHBOUR_ADDRESS)
    await host.restart()
    assert pings(one.netns_path, NEIGHBOUR_ADDRESS)
    rules = command("iptables-legacy", "-S", "FORWARD")
    await host.restart()
    assert command("iptables-legacy", "-S", "FORWARD") == rules  # nothing comes twice
    command("iptables-legacy", "-N", "DOCKER-USER")
    command("iptables-legacy", "-I", "FORWARD", "-j", "DOCKER-USER")
    command("iptables-legacy", "-A", "DOCKER-USER", "-p", "icmp", "-j", "DROP")
    await host.restart()
    assert not pings(one.netns_path, NEIGHBOUR_ADDRESS)  # the administrator's chain is asked before
    made = await host.service.create_network(NetworkCreateRequest(name="front", enable_ipv6=True))
    for program in ("iptables-legacy", "ip6tables-legacy"):
        assert made["Id"][:12] in command(program, "-S", "FORWARD")
    await host.service.remove_network("front")
    for program in ("iptables-legacy", "ip6tables-legacy"):
        assert made["Id"][:12] not in command(program, "-S", "FORWARD")


@pytest.mark.parametrize(("forwarded", "settings"), [(False, {}), (True, {"ip_forward_no_drop": True})])
async def test_the_machine_becomes_no_router(
    neighbour: Neighbour, tmp_path: Path, forwarded: bool, settings: dict[str, bool]
) -> None:
    """Where forwarding was off, it is on for containers only: not from one of the machine's wires to another."""
    host = Host(tmp_path, **settings)
    with inner_netns() as other:
        command(
            "ip", "link", "add", "wire2", "type", "veth", "peer", "name", "wire3", "netns", other.split("/")[2]
        )
        command("ip", "addr", "add", "203.0.113.1/24", "dev", "wire2")
        command("ip", "link", "set", "wire2", "up")
        run(other, "ip", "addr", "add", "203.0.113.2/24", "dev", "wire3")
        run(other, "ip", "link", "set", "wire3", "up")
        run(other, "ip", "route", "add", "default", "via", "203.0.113.1")
        assert not pings(neighbour.netns, "203.0.113.2")
        await host.service.start()
        one = await host.connect("one", port_bindings=PORTS)
        assert one.netns_path
        with echoing(one.netns_path, 80):
            assert pings(one.netns_path, NEIGHBOUR_ADDRESS) and pings(one.netns_path, "203.0.113.2")
            assert reached(neighbour)
        assert pings(neighbour.netns, "203.0.113.2") is forwarded
        await host.service.create_network(NetworkCreateRequest(name="six", enable_ipv6=True))
        policies = [f"{family} filter FORWARD" for family in ("ip", "ip6")]
        for place in policies:
            listing = run(HERE, "nft", "list", "chain", *place.split(), check=False).stdout
            assert ("policy drop" in listing) is not forwarded
        await host.restart()  # forwarding is on now, and what is dropped stays dropped
        assert pings(one.netns_path, NEIGHBOUR_ADDRESS)
        assert pings(neighbour.netns, "203.0.113.2") is forwarded
        await host.close(["one"])


_FIREWALLD = """\
table inet firewalld {
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state established,related accept
        iifname "lo" accept
        meta l4proto { icmp, ipv6-icmp } accept
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state established,related accept
        ct status dnat accept
        reject with icmpx admin-prohibited
    }
}
"""


async def test_firewalld_lets_containers_pass(host: Host, neighbour: Neighbour) -> None:
    """The chains that firewalld 1.3 (Debian 12) makes, and makes anew at a reload."""
    one, two = await host.connect("one", port_bindings=PORTS), await host.connect("two")
    assert one.netns_path and two.netns_path
    nft(_FIREWALLD)
    await passes(host, neighbour)
    with echoing(one.netns_path, 80):
        assert reached(neighbour)
        assert echo(HOST_ADDRESS, 8080, b"x", two.netns_path) == b"x"  # through the proxy: it comes in
    nft("delete table inet firewalld\n" + _FIREWALLD)
    await passes(host, neighbour)
    for name in ("one", "two"):
        await host.service.release(name)


@contextmanager
def docker_io(directory: Path) -> Iterator[None]:
    """Debian's dockerd in the test's namespace, with its rules."""
    base = str(directory)
    (directory / "daemon.json").write_text("{}")
    argv = [DOCKERD, "--config-file", f"{base}/daemon.json", "-H", f"unix://{base}/s", "--pidfile", f"{base}/pid",
            "--data-root", f"{base}/data", "--exec-root", f"{base}/exec"]  # fmt: skip
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stderr is not None
        log = b""
        while b"API listen on" not in log:
            ready, _, _ = select.select([process.stderr], [], [], 40)
            data = process.stderr.read(65536) if ready else b""
            assert data, f"dockerd is not ready: {log.decode()}"
            log += data
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(40)
            drain.wait(10)
            for place in (f"{base}/exec/netns/default", f"{base}/data/overlay2"):
                subprocess.run(["umount", "-l", place], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def their_container(directory: Path) -> Iterator[None]:
    """An echo server in a container of that dockerd, with a published port."""
    docker = ("docker", "-H", f"unix://{directory}/s")
    (directory / "image").mkdir()
    shutil.copy("/usr/bin/busybox", directory / "image")
    command("tar", "-C", str(directory / "image"), "-cf", str(directory / "image.tar"), "busybox")
    command(*docker, "import", str(directory / "image.tar"), "box")
    server = ("/busybox", "nc", "-ll", "-p", "80", "-e", "/busybox", "cat")
    command(*docker, "run", "-d", "--name", "box", "-p", "8090:80", "box", *server)
    try:
        yield
    finally:
        command(*docker, "rm", "-f", "box")


@pytest.mark.original
async def test_both_engines_on_one_host(host: Host, neighbour: Neighbour) -> None:
    one = await host.connect("one", port_bindings=PORTS)
    assert one.netns_path
    # Later than ours, in a directory short enough for containerd's sockets.
    with TemporaryDirectory(prefix="od") as directory, docker_io(Path(directory)):
        assert "DOCKER-ISOLATION-STAGE-1" in command("iptables", "-S", "FORWARD")
        command("iptables", "-P", "FORWARD", "DROP")  # as it does itself where nobody had turned forwarding on
        await passes(host, neighbour)
        with echoing(one.netns_path, 80):
            assert reached(neighbour) and echo("127.0.0.1", 8080) == b"hello"
        shown = command("ip", "-o", "-4", "addr")
        assert "docker0" in shown and "172.18.0.1/16" in shown  # it found our subnet in use
        made = await host.service.create_network(NetworkCreateRequest(name="front"))
        assert made["IPAM"]["Config"][0]["Subnet"] == "172.19.0.0/16"  # and we its
        two = await host.connect("two", mode="front")
        assert two.netns_path and pings(two.netns_path, NEIGHBOUR_ADDRESS)
        assert not pings(two.netns_path, "172.17.0.2")
        with their_container(Path(directory)):
            await host.restart()
            await passes(host, neighbour)
            assert reached(neighbour, 8090) and echo("127.0.0.1", 8090) == b"hello"
            command("nft", "delete", "table", "ip", "orlop")
            async with asyncio.timeout(30 * PACE):
                while "8080" not in run(HERE, "nft", "list", "table", "ip", "orlop", check=False).stdout:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)  # as above
            with echoing(one.netns_path, 80):
                assert reached(neighbour) and reached(neighbour, 8090)
                pins = (Path(directory) / "exec" / "netns").iterdir()
                (their_netns,) = (str(each) for each in pins if each.name != "default")
                assert echo("172.17.0.2", 80, b"x", their_netns) == b""  # our bridges are kept apart
        with echoing(one.netns_path, 80):
            assert reached(neighbour)
    assert os.path.exists(one.netns_path)


async def test_without_nftables(netns: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise OSError("libnftables.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(nftables, "_load", missing)
    host = Host(tmp_path)
    with pytest.raises(InternalError) as raised:
        await host.service.start()
    text = str(raised.value)
    assert text.startswith("cannot install the firewall rules: nftables is missing (libnftables.so.1: cannot open")
    assert "No such file or directory): install it (Debian: apt install nftables)" in text
    await host.close([])
    host = Host(tmp_path, iptables=False)
    await host.service.start()
    one = await host.connect("one", port_bindings=PORTS)
    assert one.netns_path
    with echoing(one.netns_path, 80):
        assert echo("127.0.0.1", 8080) == b"hello"
    await host.close(["one"])


def test_a_kernel_without_nftables_is_told() -> None:
    text = explain(NftablesError(22, "netlink: Error: cache initialization failed: Protocol not supported"))
    assert text.startswith("the kernel has no nftables (modules nf_tables,")
    assert explain(NftablesError(22, "syntax error")) == "syntax error"
