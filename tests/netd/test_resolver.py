# SPDX-License-Identifier: Apache-2.0
"""The DNS server in containers' namespaces: messages (read by another implementation), tables, upstreams."""

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import dnslib
import pytest
import pytest_asyncio
from support.networks import end, fresh_netns, inner_netns

from orlop.errdefs import InvalidArgumentError
from orlop.netd import dns, resolver
from orlop.netd.client import NetdClient
from orlop.netd.names import Entry, Member, Names, Upstream, View
from orlop.netd.poller import Poller
from orlop.netd.protocol import entry_of, resolver_of
from orlop.netd.resolver import ADDRESS, Resolver
from orlop.unix.process import CLONE_NEWNET, setns

PORT = 61153
FRONT = Member("n1", "front")


def query(name: str, kind: str = "A", **header: Any) -> bytes:
    return bytes(
        dnslib.DNSRecord(dnslib.DNSHeader(**header), q=dnslib.DNSQuestion(name, dnslib.QTYPE.reverse[kind])).pack()
    )


def answers(reply: bytes) -> list[str]:
    return sorted(str(record.rdata) for record in dnslib.DNSRecord.parse(reply).rr)


# -- messages and tables


def test_question_and_answer_as_another_implementation_reads_them() -> None:
    asked = dns.parse(query("Web.Front", id=77, rd=1))
    assert (asked.id, asked.name, asked.type, asked.udp_size) == (77, "web.front", dns.A, 512)
    reply = dnslib.DNSRecord.parse(dns.answer(asked, [b"\x0a\0\0\1", b"\x0a\0\0\2"]))
    assert (reply.header.id, reply.header.qr, reply.header.ra, reply.header.rd, reply.header.tc) == (
        77,
        1,
        1,
        1,
        0,
    )
    assert str(reply.q.qname) == "Web.Front." and str(reply.rr[0].rname) == "Web.Front."
    assert [(str(record.rdata), record.ttl) for record in reply.rr] == [("10.0.0.1", 600), ("10.0.0.2", 600)]
    failed = dnslib.DNSRecord.parse(dns.failure(asked, dns.SERVER_FAILURE))
    assert failed.header.rcode == dns.SERVER_FAILURE and str(failed.q.qname) == "Web.Front."


def test_answers_are_cut_to_what_the_asker_takes() -> None:
    plain = dns.parse(query("web"))
    records = [bytes([10, 0, 0, number]) for number in range(100)]
    cut = dns.answer(plain, records, limit=plain.udp_size)
    assert len(cut) <= 512 and dnslib.DNSRecord.parse(cut).header.tc == 1
    message = dnslib.DNSRecord.question("web")
    message.add_ar(dnslib.EDNS0(udp_len=4096))
    large = dns.parse(bytes(message.pack()))
    assert large.udp_size == 4096
    assert len(answers(dns.answer(large, records, limit=large.udp_size))) == 100


@pytest.mark.parametrize(
    ("message", "rcode"),
    [
        (b"", None),
        (b"\0" * 11, None),
        (query("web", qr=1), None),
        (query("web", opcode=2), dns.NOT_IMPLEMENTED),
        (b"\0\1\1\0" + b"\0" * 8, dns.FORMAT_ERROR),
        (query("web")[:14], dns.FORMAT_ERROR),
        (query("web")[:-1], dns.FORMAT_ERROR),
        (b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", dns.FORMAT_ERROR),
        (b"\0\1\1\0\0\1\0\0\0\0\0\0" + (b"\x3f" + b"x" * 63) * 5 + b"\0\0\1\0\1", dns.FORMAT_ERROR),
    ],
)
def test_malformed_queries(message: bytes, rcode: int | None) -> None:
    with pytest.raises(dns.MalformedError) as error:
        dns.parse(message)
    assert error.value.rcode == rcode
    if rcode is not None:
        assert dnslib.DNSRecord.parse(dns.refusal(message, rcode)).header.rcode == rcode


def test_any_bytes_are_a_question_or_malformed() -> None:
    good = query("web.front", id=9)
    for position in range(len(good)):
        for value in (0, 1, 63, 64, 192, 255):
            with contextlib.suppress(dns.MalformedError):
                dns.parse(good[:position] + bytes([value]) + good[position + 1 :])


def test_reverse_names() -> None:
    assert dns.reversed_address("2.0.18.172.in-addr.arpa") == bytes([172, 18, 0, 2])
    assert dns.reversed_address("1." + "0." * 30 + "2.ip6.arpa") == b"\x20" + b"\0" * 14 + b"\x01"
    for other in ("256.0.0.1.in-addr.arpa", "1.in-addr.arpa", "x.example", "-1.0.0.1.in-addr.arpa"):
        assert dns.reversed_address(other) is None, other


def test_names_in_networks() -> None:
    names = Names()
    names.put("e1", Entry("n1", ("web", "Alias", "0123456789ab"), ("10.0.0.1",)))
    names.put("e2", Entry("n1", ("web2", "alias"), ("10.0.0.2",)))
    names.put("e3", Entry("n2", ("web",), ("10.1.0.1",)))
    seen = (FRONT, Member("n2", "my.back", {"database": "web"}))

    def find(name: str, networks: tuple[Member, ...] = seen, size: int = 4) -> list[str] | None:
        found = names.find(networks, name, size)
        return None if found is None else sorted(socket.inet_ntoa(each) for each in found)

    assert find("web") == ["10.0.0.1"] and find("alias") == ["10.0.0.1", "10.0.0.2"]
    assert find("web.front") == ["10.0.0.1"] and find("web.my.back") == ["10.1.0.1"]
    assert find("database") == ["10.1.0.1"] and find("database", (FRONT,)) is None
    assert find("web2.my.back") is None and find("nobody") is None and find("") is None
    assert find("web", size=16) == []  # it has the name, and no such address
    assert names.name_of(seen, socket.inet_aton("10.1.0.1")) == "web.my.back"
    assert names.name_of((FRONT,), socket.inet_aton("10.1.0.1")) == ""
    orders = {tuple(names.find(seen, "alias", 4) or ()) for _ in range(60)}
    assert len(orders) == 2
    names.remove("e1")
    names.remove("e1")
    assert find("alias") == ["10.0.0.2"] and find("0123456789ab") is None and names.endpoints() == ["e2", "e3"]


def test_bad_requests_name_the_field() -> None:
    good = {"endpoint": "e", "network": "n", "names": ["web"], "addresses": ["10.0.0.1"]}
    assert entry_of(good) == Entry("n", ("web",), ("10.0.0.1",))
    for field, value in (
        ("network", ""),
        ("names", []),
        ("names", [1]),
        ("addresses", ["x"]),
        ("addresses", None),
    ):
        with pytest.raises(InvalidArgumentError, match=f"invalid {field}"):
            entry_of({**good, field: value})
    row = {"netns": "/x", "port": 53, "networks": [], "upstreams": [{"address": "10.0.0.1"}]}
    assert resolver_of({"resolver": row}) == ("/x", 53, View(upstreams=(Upstream("10.0.0.1"),)))
    for field, bad in (("netns", 1), ("port", 0), ("networks", [1]), ("upstreams", "x"), ("forward", 1)):
        with pytest.raises(InvalidArgumentError, match=f"invalid {field}"):
            resolver_of({"resolver": {**row, field: bad}})


# -- in a namespace


@pytest.fixture
def host() -> Iterator[None]:
    """A network namespace for the host."""
    with fresh_netns():
        yield


@pytest.fixture
def container(host: None) -> Iterator[str]:
    """Path of a container's network namespace with its loopback up."""
    with inner_netns() as path:
        yield path


def made_in(netns: str, kind: socket.SocketKind) -> socket.socket:
    """A socket of another namespace."""
    found: list[socket.socket] = []

    def make() -> None:
        fd = os.open(netns, os.O_RDONLY)
        setns(fd, CLONE_NEWNET)
        os.close(fd)
        found.append(socket.socket(socket.AF_INET, kind))

    thread = threading.Thread(target=make)  # which ends, and its namespace is nobody's business
    thread.start()
    thread.join()
    return found[0]


async def ask(netns: str, message: bytes, kind: socket.SocketKind = socket.SOCK_DGRAM) -> bytes:
    """What the resolver answers to a query from its namespace."""
    loop = asyncio.get_running_loop()
    with made_in(netns, kind) as client:
        client.setblocking(False)
        await loop.sock_connect(client, (ADDRESS, PORT))
        if kind == socket.SOCK_DGRAM:
            await loop.sock_sendall(client, message)
            return await loop.sock_recv(client, 65535)
        await loop.sock_sendall(client, struct.pack(">H", len(message)) + message)
        size, reply = struct.unpack(">H", await loop.sock_recv(client, 2))[0], b""
        while len(reply) < size:
            reply += await loop.sock_recv(client, 65535)
        return reply


Behaviour = Callable[[bytes], bytes | None]


@contextlib.contextmanager
def upstream(address: str, behave: Behaviour, netns: str = "/proc/thread-self/ns/net") -> Iterator[list[bytes]]:
    """A DNS server, UDP and TCP, in a namespace; yields the queries that it sees."""
    seen: list[bytes] = []
    datagrams, streams = made_in(netns, socket.SOCK_DGRAM), made_in(netns, socket.SOCK_STREAM)
    streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    datagrams.bind((address, 53))
    streams.bind((address, 53))
    streams.listen()

    def serve_datagrams() -> None:
        while data := datagrams.recvfrom(65535):
            if data[0] == b"stop":
                return
            seen.append(data[0])
            if (reply := behave(data[0])) is not None:
                datagrams.sendto(reply, data[1])

    def serve_streams() -> None:
        while True:
            with streams.accept()[0] as connection:
                data = connection.recv(65535)
                if not data:
                    return
                seen.append(data[2:])
                reply = behave(data[2:])
                if reply is not None:
                    connection.sendall(struct.pack(">H", len(reply)) + reply)

    threads = [threading.Thread(target=serve_datagrams), threading.Thread(target=serve_streams)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        with made_in(netns, socket.SOCK_DGRAM) as last, made_in(netns, socket.SOCK_STREAM) as stream:
            last.sendto(b"stop", (address, 53))
            stream.connect((address, 53))
        for thread in threads:
            thread.join()
        datagrams.close()
        streams.close()


def saying(address: str) -> Behaviour:
    def behave(message: bytes) -> bytes:
        reply = dnslib.DNSRecord.parse(message).reply()
        reply.add_answer(dnslib.RR(reply.q.qname, dnslib.QTYPE.A, rdata=dnslib.A(address)))
        return bytes(reply.pack())

    return behave


def failing(message: bytes) -> bytes:
    reply = dnslib.DNSRecord.parse(message).reply()
    reply.header.rcode = dnslib.RCODE.SERVFAIL
    return bytes(reply.pack())


def rcode(reply: bytes) -> str:
    return str(dnslib.RCODE[dnslib.DNSRecord.parse(reply).header.rcode])


@contextlib.asynccontextmanager
async def serving(netns: str, view: View, names: Names | None = None) -> AsyncIterator[Resolver]:
    poller, loop = Poller(), asyncio.get_running_loop()
    loop.add_reader(poller.fileno(), poller.select, 0)  # where it is not the loop's own selector
    try:
        server = Resolver(poller, names or Names(), netns, PORT, view)
        await server.start()
        try:
            yield server
        finally:
            server.close()
    finally:
        loop.remove_reader(poller.fileno())
        poller.close()


TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.mark.root
@pytest.mark.parametrize("kind", [UDP, TCP])
async def test_names_are_answered_and_others_asked_of_upstream(container: str, kind: socket.SocketKind) -> None:
    names = Names()
    names.put("e1", Entry("n1", ("web",), ("10.0.0.1",)))
    view = View((FRONT,), (Upstream("127.0.0.3"), Upstream("127.0.0.2")))
    with upstream("127.0.0.2", saying("192.0.2.1"), container) as seen:
        async with serving(container, view, names):
            assert answers(await ask(container, query("web"), kind)) == ["10.0.0.1"]
            none = await ask(container, query("web", "AAAA"), kind)
            assert answers(none) == [] and rcode(none) == "NOERROR"
            assert rcode(await ask(container, query("web", "MX"), kind)) == "NOERROR"
            assert answers(await ask(container, query("1.0.0.10.in-addr.arpa", "PTR"), kind)) == ["web.front."]
            assert seen == []
            # 127.0.0.3 refuses: the next one is asked
            assert answers(await ask(container, query("www.example"), kind)) == ["192.0.2.1"]
            assert answers(await ask(container, query("other"), kind)) == ["192.0.2.1"]
            assert len(seen) == 2
            assert rcode(await ask(container, query("x", opcode=2), kind)) == "NOTIMP"


@pytest.mark.root
async def test_answers_are_remembered_until_something_changes(container: str) -> None:
    names = Names()
    names.put("e1", Entry("n1", ("web",), ("10.0.0.1",)))
    async with serving(container, View((FRONT,)), names) as server:
        for number in (1, 2):
            reply = await ask(container, query("web", id=number))
            assert answers(reply) == ["10.0.0.1"] and dnslib.DNSRecord.parse(reply).header.id == number
        names.put("e2", Entry("n1", ("web",), ("10.0.0.2",)))
        replies = [await ask(container, query("web")) for _ in range(40)]
        assert answers(replies[0]) == ["10.0.0.1", "10.0.0.2"]
        assert len({reply[12:] for reply in replies}) == 2  # both orders
        names.remove("e1")
        assert answers(await ask(container, query("web"))) == ["10.0.0.2"]
        server.view = View()
        assert rcode(await ask(container, query("web"))) == "SERVFAIL"


@pytest.mark.root
async def test_the_host_is_asked_only_where_there_is_a_way_out(container: str) -> None:
    view = View((FRONT,), (Upstream("127.0.0.53", from_host=True),))
    with upstream("127.0.0.53", saying("192.0.2.1")) as seen:
        async with serving(container, view) as server:
            assert answers(await ask(container, query("www.example"))) == ["192.0.2.1"]
            server.view = view._replace(forward=False)
            assert rcode(await ask(container, query("www.example"))) == "SERVFAIL"
            server.view = view._replace(qualified=True)
            assert answers(await ask(container, query("single"))) == []
            assert len(seen) == 1


@pytest.mark.root
async def test_bad_upstreams(container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "UPSTREAM_SECONDS", 0.2)

    def lying(message: bytes) -> bytes:
        return bytes([message[0] ^ 1]) + saying("192.0.2.66")(message)[1:]  # another id

    upstreams = (Upstream("127.0.0.2"), Upstream("127.0.0.3"), Upstream("127.0.0.4"))
    with upstream("127.0.0.2", failing, container), upstream("127.0.0.3", lying, container):
        async with serving(container, View((), upstreams)):
            with upstream("127.0.0.4", saying("192.0.2.1"), container):
                for kind in (UDP, TCP):
                    assert answers(await ask(container, query("www.example"), kind)) == ["192.0.2.1"]
            with upstream("127.0.0.4", lambda _: None, container):
                for kind in (UDP, TCP):
                    assert rcode(await ask(container, query("www.example"), kind)) == "SERVFAIL"
    async with serving(container, View()):
        assert rcode(await ask(container, query("www.example"))) == "SERVFAIL"


@pytest.mark.root
async def test_truncated_answers_are_passed_on_and_tcp_has_them_all(container: str) -> None:
    names = Names()
    for number in range(100):
        names.put(f"e{number}", Entry("n1", ("web",), (f"10.0.0.{number}",)))
    async with serving(container, View((FRONT,)), names):
        short = await ask(container, query("web"))
        assert len(short) <= 512 and dnslib.DNSRecord.parse(short).header.tc == 1
        assert len(answers(await ask(container, query("web"), TCP))) == 100


@pytest.mark.root
async def test_large_answers(container: str) -> None:
    """Over UDP as large as the asker takes (EDNS); an upstream server's truncated answer makes it come by TCP."""
    names = Names()
    for number in range(60):
        names.put(f"e{number}", Entry("n1", ("web",), (f"10.0.0.{number}",)))
    many = [f"192.0.2.{number}" for number in range(100)]

    def upstream_answers(message: bytes) -> bytes:
        reply = dnslib.DNSRecord.parse(message).reply()
        for address in many:
            reply.add_answer(dnslib.RR(reply.q.qname, dnslib.QTYPE.A, rdata=dnslib.A(address)))
        packed = bytes(reply.pack())
        return packed if asked_by == TCP else bytes(reply.truncate().pack())

    edns = dnslib.DNSRecord.parse(query("web"))
    edns.add_ar(dnslib.EDNS0(udp_len=4096))
    view = View((FRONT,), (Upstream("127.0.0.2"),))
    with upstream("127.0.0.2", upstream_answers, container) as seen:
        async with serving(container, view, names):
            whole = await ask(container, bytes(edns.pack()))
            assert len(answers(whole)) == 60 and dnslib.DNSRecord.parse(whole).header.tc == 0
            asked_by = UDP
            assert dnslib.DNSRecord.parse(await ask(container, query("large.example"))).header.tc == 1
            asked_by = TCP
            assert len(answers(await ask(container, query("large.example"), TCP))) == 100
            options = dnslib.DNSRecord.parse(query("other.example"))
            options.add_ar(dnslib.EDNS0(flags="do", udp_len=1232))
            await ask(container, bytes(options.pack()), TCP)
            assert dnslib.DNSRecord.parse(seen[-1]).ar[0].rtype == dnslib.QTYPE.OPT  # passed on as it came


@pytest.mark.root
async def test_reverse_lookups_of_both_families(container: str) -> None:
    names = Names()
    names.put("e1", Entry("n1", ("web", "alias"), ("10.0.0.1", "fd00::1")))
    nibbles = ".".join(reversed("fd000000000000000000000000000001")) + ".ip6.arpa"
    async with serving(container, View((FRONT,)), names):
        for name in ("1.0.0.10.in-addr.arpa", nibbles):
            assert answers(await ask(container, query(name, "PTR"))) == ["web.front."]
        assert answers(await ask(container, query("web", "AAAA"))) == ["fd00::1"]
        assert answers(await ask(container, query("alias.front"))) == ["10.0.0.1"]
        assert rcode(await ask(container, query("2.0.0.10.in-addr.arpa", "PTR"))) == "SERVFAIL"  # nobody to ask


@pytest.mark.root
async def test_descriptors_are_given_back(container: str) -> None:
    def mine() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = mine()
    with contextlib.closing(Poller()) as poller:
        async with serving(container, View()):
            with pytest.raises(OSError, match="in use"):
                Resolver(poller, Names(), container, PORT, View())
            await ask(container, query("web"), TCP)
        with pytest.raises(FileNotFoundError):
            Resolver(poller, Names(), container + "x", PORT, View())
    async with asyncio.timeout(30):
        while mine() > before:  # noqa: ASYNC110 - a closed connection takes a few turns of the loop
            await asyncio.sleep(0)
    assert mine() == before


# -- through the daemon


@pytest_asyncio.fixture
async def netd(host: None, tmp_path: Path) -> AsyncIterator[NetdClient]:
    client = NetdClient(str(tmp_path / "netd.sock"), str(tmp_path / "netd.log"))
    yield client
    pid = await client.ping()
    await client.close()
    end(pid)
    assert (tmp_path / "netd.log").read_text() == ""


@pytest.mark.root
async def test_daemon_keeps_names_and_resolvers(netd: NetdClient, container: str) -> None:
    await netd.name("e1", Entry("n1", ("web",), ("10.0.0.1",)))
    await netd.resolve("c1", container, PORT, View((FRONT,)))
    await netd.resolve("c1", container, PORT, View((FRONT._replace(aliases={"www": "web"}),)))  # it learns more
    assert await netd.resolving() == (["c1"], ["e1"])
    other = NetdClient(netd.socket_path, "")
    assert await other.resolving() == (["c1"], ["e1"])
    await other.close()  # clients come and go
    assert answers(await ask(container, query("WWW"))) == ["10.0.0.1"]
    await netd.forget("e1")
    assert rcode(await ask(container, query("www"))) == "SERVFAIL"
    await netd.unresolve("c1")
    await netd.unresolve("c1")
    with pytest.raises(ConnectionRefusedError):
        await ask(container, query("www"))
    assert await netd.resolving() == ([], [])
