# SPDX-License-Identifier: Apache-2.0
"""What the network service computes without touching the kernel: addresses, ports, rules, files."""

import errno
import sqlite3
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network

import msgspec
import pytest

from orlop.dockerd.network import default_bridge, files, foreign, ipam, ports
from orlop.dockerd.network.firewall import BridgeRules, Firewall, SubnetRules
from orlop.dockerd.network.publisher import Publisher
from orlop.dockerd.network.store import NetworkStore, init_schema
from orlop.dockerd.network.types import Endpoint, Network, NetworkConfig, PortMapping
from orlop.engine.types import PortBinding
from orlop.errdefs import InternalError, InvalidArgumentError, ResourceExhaustedError
from orlop.netd.client import NetdClient, PortUnavailableError
from orlop.netd.protocol import HeldPort

BOTH = ("0.0.0.0", "::")


def mapping(host_port: int, host_ip: str = "0.0.0.0", protocol: str = "tcp") -> PortMapping:
    return PortMapping(protocol=protocol, host_ip=host_ip, host_port=host_port, address="172.17.0.2", port=80)


class OneTaken(NetdClient):
    """An orlop-netd on whose machine somebody else has port 8150; `asked` are the sizes of the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[int] = []
        self.asked: list[int] = []

    async def hold(self, owner: str, ports: list[HeldPort]) -> None:
        self.asked.append(len(ports))
        for port in ports:
            if port.host_port == 8150:
                raise PortUnavailableError("0.0.0.0:8150/tcp: address already in use", port, errno.EADDRINUSE)
        self.got += [port.host_port for port in ports]


async def test_a_port_that_is_lost_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    """After orlop-netd's death: all ports of a container are held again, a hundred at a time."""
    endpoint = Endpoint(id="e", network_id="n", container_id="c", container_name="web", sandbox_id="s")
    endpoint.ports = [mapping(port) for port in range(8000, 8250)]
    netd = OneTaken()
    await Publisher(netd, NetworkConfig(), lambda: [endpoint]).hold_live()
    assert netd.got == [port for port in range(8000, 8250) if port != 8150]
    assert netd.asked == [100, 100, *[1] * 100, 50]
    assert caplog.text.count("port of container web is lost: 0.0.0.0:8150/tcp") == 1


def test_subnets_are_taken_in_dockers_order() -> None:
    assert ipam.next_subnet([]) == IPv4Network("172.17.0.0/16")
    taken = [IPv4Network("172.17.3.0/24"), IPv4Network("172.18.0.0/15"), IPv4Network("172.20.0.1/32")]
    assert ipam.next_subnet(taken) == IPv4Network("172.21.0.0/16")
    assert ipam.next_subnet([IPv4Network("172.16.0.0/12")]) == IPv4Network("192.168.0.0/20")
    with pytest.raises(InvalidArgumentError, match="fully subnetted"):
        ipam.next_subnet([IPv4Network("0.0.0.0/0")])


def test_addresses_are_the_lowest_free_ones() -> None:
    subnet = IPv4Network("10.0.0.0/29")
    assert ipam.next_address(subnet, None, {"10.0.0.1", "10.0.0.3"}) == IPv4Address("10.0.0.2")
    assert ipam.next_address(subnet, IPv4Network("10.0.0.4/30"), set()) == IPv4Address("10.0.0.4")
    with pytest.raises(ResourceExhaustedError, match=r"no available IPv4 addresses.*10\.0\.0\.0/29"):
        ipam.next_address(subnet, None, {f"10.0.0.{number}" for number in range(1, 7)})
    assert ipam.mac_of(IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"


def test_addresses_are_counted() -> None:
    """The numbers of moby's own example: the network's, the broadcast and the gateway's address are in use."""
    assert ipam.usage(IPv4Network("172.16.0.0/16"), None, {"172.16.0.1"}) == (3, 65533)
    half = IPv4Network("10.0.0.0/25")
    assert ipam.usage(IPv4Network("10.0.0.0/24"), half, {"10.0.0.1", "10.0.0.200", "10.9.0.1", "fd00::1"}) == (
        4,
        126,
    )
    assert ipam.usage(IPv6Network("fd00::/64"), None, {"fd00::1"}) == (2, (1 << 64) - 2)
    assert ipam.usage(IPv6Network("fd00::/48"), None, set()) == (1, (1 << 64) - 1)  # as large as the field is


def test_links_of_two_addresses() -> None:
    """RFC 3021: both are given."""
    pair = IPv4Network("10.0.0.2/31")
    assert str(ipam.next_address(pair, None, set())) == "10.0.0.2"
    assert str(ipam.next_address(pair, None, {"10.0.0.2"})) == "10.0.0.3"
    assert ipam.usage(pair, None, {"10.0.0.2"}) == (1, 1)


def test_bridge_subnet_order_of_preference() -> None:
    there = IPv4Interface("10.9.0.1/16")

    def chosen(bip: str = "", existing: Sequence[IPv4Interface] = (), taken: Sequence[IPv4Network] = ()) -> str:
        return str(default_bridge.choose(bip, "172.19.0.0/16", "172.19.0.1", existing, taken, ipam.DEFAULT_POOLS))

    assert chosen("192.168.5.1/24", [there]) == "192.168.5.1/24"
    assert chosen(existing=[there]) == "10.9.0.1/16"
    assert chosen() == "172.19.0.1/16"
    assert chosen(taken=[IPv4Network("172.19.0.0/24"), IPv4Network("172.17.0.0/16")]) == "172.18.0.1/16"
    with pytest.raises(InvalidArgumentError, match=r"invalid bip: '192\.168\.5\.1': the prefix length is missing"):
        chosen("192.168.5.1")


def test_port_plan_puts_fixed_ports_first() -> None:
    bindings: dict[str, list[PortBinding] | None] = {
        "53/udp": [PortBinding()],
        "443/tcp": [PortBinding(host_ip="127.0.0.1", host_port="8000-8010")],
        "80": [PortBinding(host_port="8080"), PortBinding(host_ip="::1", host_port="8080")],
        "81/tcp": None,
    }
    planned = ports.plan(bindings, ["81/tcp", "80/tcp"], publish_all=True, default_ips=BOTH)
    assert planned == [
        ports.PortRequest("tcp", 80, BOTH, 8080, 8080),
        ports.PortRequest("tcp", 80, ("::1",), 8080, 8080),
        ports.PortRequest("tcp", 443, ("127.0.0.1",), 8000, 8010),
        ports.PortRequest("udp", 53, BOTH, 0, 0),
        ports.PortRequest("tcp", 81, BOTH, 0, 0),
    ]


@pytest.mark.parametrize(
    ("port", "binding", "message"),
    [
        ("http/tcp", PortBinding(), "invalid port specification: 'http/tcp'"),
        ("80/icmp", PortBinding(), "unknown protocol 'icmp'"),
        ("0/tcp", PortBinding(), "invalid port specification: '0/tcp'"),
        ("80/tcp", PortBinding(host_port="70000"), "invalid host port '70000' for port 80/tcp"),
        ("80/tcp", PortBinding(host_port="20-10"), "invalid host port '20-10' for port 80/tcp"),
        ("80/tcp", PortBinding(host_ip="example"), "invalid host ip 'example' for port 80/tcp"),
    ],
)
def test_bad_ports_are_named(port: str, binding: PortBinding, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        ports.plan({port: [binding]}, [], publish_all=False, default_ips=BOTH)
    assert message in str(error.value)


def test_port_table_knows_wildcards() -> None:
    table = ports.PortTable()
    table.take([mapping(80, "127.0.0.1"), mapping(81), mapping(82, "::")])

    def first(port: int, *ips: str, last: int = 0) -> int:
        return next(table.candidates(ports.PortRequest("tcp", 1, ips, port, last or port), (1000, 1002)))

    for port, ip in ((80, "0.0.0.0"), (80, "127.0.0.1"), (81, "127.0.0.2"), (82, "::1")):
        with pytest.raises(InternalError) as error:
            first(port, ip)
        assert str(error.value) == f"Bind for {ip}:{port} failed: port is already allocated"
    assert first(80, "127.0.0.2") == 80
    assert first(80, "::") == 80
    assert first(82, "0.0.0.0") == 82
    assert first(80, "0.0.0.0", last=90) == 82
    assert [first(0, "0.0.0.0") for _ in range(2)] == [1000, 1001]
    table.free([mapping(81)])
    assert first(81, "0.0.0.0") == 81


def test_inspect_shows_exposed_and_published_ports() -> None:
    shown = ports.inspect(["81/tcp", "80"], [mapping(8080), mapping(8080, "::")])
    assert shown == {
        "80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080"), PortBinding(host_ip="::", host_port="8080")],
        "81/tcp": None,
    }


def test_firewall_elements() -> None:
    rules = Firewall("orlop", userland_proxy=True)
    published = [mapping(80), mapping(53, "192.0.2.7", "udp"), mapping(81, "127.0.0.1"), mapping(82, "::")]
    assert rules.publish(published) == (
        "add element ip orlop published { tcp . 80 : 172.17.0.2 . 80 }\n"
        "add element ip orlop published_at { 192.0.2.7 . udp . 53 : 172.17.0.2 . 80 }\n"
    )
    assert rules.publish([mapping(81, "127.0.0.1"), mapping(82, "::")]) == ""
    without_proxy = Firewall("orlop", userland_proxy=False)
    assert without_proxy.publish([mapping(81, "127.0.0.1"), mapping(81, "::1")]) == (
        "add element ip orlop published_at { 127.0.0.1 . tcp . 81 : 172.17.0.2 . 80 }\n"
    )
    assert Firewall("orlop", userland_proxy=True, redirect=False).publish(published) == ""
    assert "delete element ip orlop published { tcp . 80 }" in rules.unpublish(published)


def test_firewall_base_rules() -> None:
    quiet = BridgeRules("br1", False, SubnetRules("10.0.0.0/24", masquerade=False))
    loud = BridgeRules("br0", True, SubnetRules("10.1.0.0/24"))
    text = Firewall("t", userland_proxy=True).install([loud, quiet], [])
    assert text.startswith("add table ip t\ndelete table ip t\ntable ip t {\n") and "table ip6 t {" not in text
    assert 'add element ip t bridges { "br1" }' in text
    assert '"br0" . "br0"' in text and '"br1" . "br1"' not in text
    assert "masqueraded { 10.1.0.0/24 }" in text and "10.0.0.0/24" not in text


def test_passage_through_chains_of_others() -> None:
    bridge = BridgeRules("br0", True, SubnetRules("10.1.0.0/24"))
    four, six = foreign.IPTABLES
    incoming = foreign.FIREWALLD[1]
    inserted = foreign.accept(four, bridge, "")
    assert inserted.count('insert rule ip filter FORWARD iifname "br0" counter accept comment "orlop br0"') == 1
    mine = (
        'iifname "br0" counter accept comment "orlop br0" # handle 7\noifname "br0" comment "orlop br0" # handle 8'
    )
    assert foreign.accept(four, bridge, mine) == "" and foreign.accept(six, bridge, "") == ""
    # docker's dockerd came later: what its administrators' chain drops stays dropped
    again = foreign.accept(four, bridge, f"jump DOCKER-USER # handle 9\n{mine}").splitlines()
    assert again[:2] == [f"delete rule ip filter FORWARD handle {number}" for number in (7, 8)]
    assert "accept" in again[2] and "jump DOCKER-USER" in again[-1] and len(again) == 6
    assert foreign.accept(incoming, bridge, "").startswith("insert rule inet firewalld filter_INPUT iifname")
    assert foreign.accept(incoming, bridge, "").count("\n") == 1
    assert foreign.withdraw(four, "br1", mine) == ""


def test_resolv_conf_leaves_out_what_a_container_cannot_reach() -> None:
    host = files.parse_resolv_conf(
        "; comment\nnameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 192.0.2.53\n"
        "domain ignored.example\nsearch a.example b.example\noptions ndots:2\noptions edns0\n"
    )
    text = files.resolv_conf(host, source="/etc/resolv.conf")
    assert text.splitlines()[3:] == [
        "nameserver 192.0.2.53",
        "search a.example b.example",
        "options ndots:2 edns0",
    ]
    local = files.ResolvConf(nameservers=("127.0.0.53",))
    assert "nameserver 8.8.8.8\nnameserver 8.8.4.4\n" in files.resolv_conf(local, source="x")
    assert "nameserver 127.0.0.53\n" in files.resolv_conf(local, source="x", own_namespace=False)
    mine = files.resolv_conf(host, source="x", dns=["127.0.0.1"], search=["."], options=["timeout:1"])
    assert mine.splitlines()[3:] == ["nameserver 127.0.0.1", "options timeout:1"]
    with pytest.raises(InvalidArgumentError, match=r"invalid dns: 'ns\.example' is not an ip address"):
        files.resolv_conf(host, source="x", dns=["ns.example"])


def test_hosts_file() -> None:
    extra = files.parse_extra_hosts(
        ["db:10.0.0.9", "six:[2001:db8::1]", "six=2001:db8::2", "gw:host-gateway"], "10.0.0.1"
    )
    assert extra == [("db", "10.0.0.9"), ("six", "2001:db8::1"), ("six", "2001:db8::2"), ("gw", "10.0.0.1")]
    text = files.hosts(hostname="web", domainname="example.org", addresses=["10.0.0.2"], extra=extra, ipv6=False)
    assert text == "127.0.0.1\tlocalhost\n10.0.0.9\tdb\n10.0.0.1\tgw\n10.0.0.2\tweb.example.org web\n"
    assert files.hosts(hostname="a.b", addresses=["10.0.0.2"]).endswith(
        "ff02::2\tip6-allrouters\n10.0.0.2\ta.b a\n"
    )
    with pytest.raises(InvalidArgumentError, match="invalid extra host 'db:x'"):
        files.parse_extra_hosts(["db:x"], "")
    with pytest.raises(InvalidArgumentError, match="host-gateway"):
        files.parse_extra_hosts(["gw:host-gateway"], "")


def test_store_keeps_addresses_apart() -> None:
    connection = sqlite3.connect(":memory:")
    init_schema(connection)
    init_schema(connection)
    store = NetworkStore(connection)
    store.put_network(Network(id="n", name="bridge", driver="bridge", created=""))

    def endpoint(name: str, address: str, address6: str = "") -> Endpoint:
        return Endpoint(
            id=name,
            network_id="n",
            container_id=name,
            container_name=name,
            sandbox_id="s",
            address=address,
            address6=address6,
        )

    store.put_endpoint(endpoint("one", "10.0.0.2"))
    store.put_endpoint(endpoint("none", ""))
    store.put_endpoint(endpoint("nothing", ""))
    with pytest.raises(sqlite3.IntegrityError):
        store.put_endpoint(endpoint("two", "10.0.0.2"))
    store.put_endpoint(endpoint("six", "10.0.0.3", "fd00::3"))
    with pytest.raises(sqlite3.IntegrityError):
        store.put_endpoint(endpoint("seven", "", "fd00::3"))
    assert store.addresses("n") == {"10.0.0.2", "10.0.0.3", "fd00::3"}
    assert [each.id for each in store.endpoints_of("one")] == ["one"]
    store.delete_endpoint("one")
    assert store.endpoints_of("one") == []
    connection.close()


def test_a_file_of_an_earlier_version_learns_its_ipv6_addresses() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL);"
        "CREATE TABLE endpoints (id TEXT PRIMARY KEY, network_id TEXT NOT NULL REFERENCES networks (id), "
        "container_id TEXT NOT NULL, address TEXT, record BLOB NOT NULL, UNIQUE (network_id, address), "
        "UNIQUE (network_id, container_id));"
    )
    old = Endpoint(id="e", network_id="n", container_id="c", container_name="c", sandbox_id="s", ready=True)
    old.address6 = "fd00::2"
    connection.execute("INSERT INTO networks VALUES ('n', 'n', '{}')")
    row = ("e", "n", "c", None, msgspec.json.encode(old))
    connection.execute("INSERT INTO endpoints VALUES (?, ?, ?, ?, ?)", row)
    init_schema(connection)
    init_schema(connection)
    store = NetworkStore(connection)
    assert store.addresses("n") == {"fd00::2"} and store.endpoints() == [old]
    connection.close()
