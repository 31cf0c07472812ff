# SPDX-License-Identifier: Apache-2.0
"""orlop-netd as a process: its protocol, its ports, and that it goes on when its clients go."""

import asyncio
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.networks import end, fresh_netns, inner_netns, run

from orlop.errdefs import InternalError, InvalidArgumentError, UnavailableError
from orlop.netd import client as client_module
from orlop.netd.client import NetdClient, PortUnavailableError
from orlop.netd.names import Entry, Member, View
from orlop.netd.protocol import HeldPort, decode, port_from

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def netns() -> Iterator[None]:
    """No port of the machine's is touched."""
    with fresh_netns():
        yield


@pytest.fixture
def container(netns: None) -> Iterator[str]:
    """Path of a network namespace with its loopback up."""
    with inner_netns() as path:
        yield path


@pytest_asyncio.fixture
async def netd(tmp_path: Path) -> AsyncIterator[NetdClient]:
    """A client whose daemon starts by itself, and is ended afterwards."""
    client = NetdClient(str(tmp_path / "netd.sock"), str(tmp_path / "netd.log"))
    pid = await client.ping()
    yield client
    if not client._closed:
        pid = await client.ping()
    await client.close()
    end(pid)
    assert not (tmp_path / "netd.sock").exists()
    assert (tmp_path / "netd.log").read_text() == ""


def tcp(host_port: int, host_ip: str = "127.0.0.1", port: int = 80) -> HeldPort:
    return HeldPort("tcp", host_ip, host_port, "127.0.0.1", port)


def raw(path: str, *lines: bytes) -> list[dict[str, object]]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"".join(line + b"\n" for line in lines))
        with client.makefile("rb") as answers:
            return [decode(answers.readline()) for _ in lines]


def worker_of(keeper: int) -> int:
    """The process that does the work of a daemon."""
    (worker,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    return int(worker)


async def test_holds_and_releases(netd: NetdClient) -> None:
    await netd.hold("one", [tcp(8080), tcp(8080, "::1"), HeldPort("udp", "0.0.0.0", 53, "127.0.0.1", 53)])
    await netd.hold("one", [tcp(8080)])  # again: no error
    await netd.hold("two", [tcp(8081)])
    held = await netd.held()
    assert [port.host for port in held["one"]] == ["127.0.0.1:8080/tcp", "[::1]:8080/tcp", "0.0.0.0:53/udp"]
    await netd.release("one")
    await netd.release("one")
    assert list(await netd.held()) == ["two"]
    with socket.create_server(("127.0.0.1", 8080)):
        assert stat.S_IMODE(os.stat(netd.socket_path).st_mode) == 0o600


async def test_all_ports_or_none(netd: NetdClient) -> None:
    with socket.create_server(("127.0.0.1", 8081)), pytest.raises(PortUnavailableError) as error:
        await netd.hold("one", [tcp(8080), tcp(8081)])
    assert str(error.value) == "127.0.0.1:8081/tcp: address already in use"
    assert error.value.port == tcp(8081)
    assert await netd.held() == {}
    with pytest.raises(PortUnavailableError, match=r"192\.0\.2\.1:80/tcp: cannot assign requested address"):
        await netd.hold("one", [tcp(80, "192.0.2.1")])


async def test_ports_outlive_the_client_and_a_second_daemon_gives_way(netd: NetdClient) -> None:
    await netd.hold("one", [tcp(8080)])
    pid = await netd.ping()
    await netd.close()
    argv = [sys.executable, "-m", "orlop.netd.main", "--detach", "--socket", netd.socket_path]
    assert subprocess.run(argv, check=False).returncode == 0  # noqa: ASYNC221
    other = NetdClient(netd.socket_path, "")
    assert await other.ping() == pid
    assert await other.held() == {"one": [tcp(8080)]}
    await other.close()


async def test_half_closes_and_resets_pass_through(netd: NetdClient) -> None:
    await netd.hold("one", [tcp(8080)])
    with socket.create_server(("127.0.0.1", 80)) as server:
        with socket.create_connection(("127.0.0.1", 8080)) as client:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            inside, _ = server.accept()
            with inside:
                assert inside.recv(99) == b"question" and inside.recv(99) == b""
                inside.sendall(b"answer after the end of the question")
            assert client.recv(99) == b"answer after the end of the question" and client.recv(99) == b""
        with socket.create_connection(("127.0.0.1", 8080)) as client:
            inside, _ = server.accept()
            inside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            inside.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    with socket.create_connection(("127.0.0.1", 8080)) as client, pytest.raises(ConnectionResetError):
        client.recv(1)  # nobody listens in the container


async def test_bulk_arrives_whole_in_both_directions_at_once(netd: NetdClient) -> None:
    """More than any buffer holds, to readers that begin late; then the end of each direction by itself."""
    await netd.hold("one", [tcp(8080)])
    there, back = os.urandom(24 << 20), os.urandom(20 << 20)

    def send(connection: socket.socket, data: bytes) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    def receive(connection: socket.socket) -> bytes:
        parts = [connection.recv(1)]
        while part := connection.recv(1 << 17):
            parts.append(part)
        return b"".join(parts)

    with socket.create_server(("127.0.0.1", 80)) as server:
        client = socket.create_connection(("127.0.0.1", 8080))
        inside, _ = server.accept()
        with client, inside:
            senders = [asyncio.to_thread(send, client, there), asyncio.to_thread(send, inside, back)]
            sending = asyncio.gather(*senders)
            received = await asyncio.gather(asyncio.to_thread(receive, inside), asyncio.to_thread(receive, client))
            await sending
            assert received[0] == there and received[1] == back
    pid = worker_of(await netd.ping())
    pipes = [fd for fd in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("pipe:")]
    assert len(pipes) == 1  # the keeper's


async def test_many_connections_leave_nothing(netd: NetdClient) -> None:
    await netd.hold("one", [tcp(8080)])
    pid = worker_of(await netd.ping())
    with socket.create_server(("127.0.0.1", 80), backlog=512) as server:
        before = len(os.listdir(f"/proc/{pid}/fd"))
        clients = [socket.create_connection(("127.0.0.1", 8080)) for _ in range(200)]
        insides = [server.accept()[0] for _ in clients]
        for number, (client, inside) in enumerate(zip(clients, insides, strict=True)):
            if number % 3 == 0:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            (client if number % 2 else inside).close()
        for each in (*clients, *insides):
            each.close()
        deadline = time.monotonic() + 10
        while len(os.listdir(f"/proc/{pid}/fd")) > before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_release_cuts_connections(netd: NetdClient) -> None:
    await netd.hold("one", [tcp(8080)])
    server = socket.create_server(("127.0.0.1", 80))
    with server, socket.create_connection(("127.0.0.1", 8080)) as client, server.accept()[0]:
        await netd.release("one")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


async def test_bad_requests_are_answered(netd: NetdClient) -> None:
    answers = raw(netd.socket_path, b"{", b"[]", b'{"op":"fly"}', b'{"op":"hold","owner":""}', b'{"op":"ping"}')
    assert [answer.get("error") for answer in answers[1:4]] == [
        "invalid message: not an object",
        "invalid op: 'fly' is not one of hold, release, name, forget, resolve, unresolve, keep, drop, list, ping",
        "invalid owner: a non-empty string is needed",
    ]
    assert str(answers[0]["error"]).startswith("invalid message: Expecting property name")
    assert answers[4]["ok"] is True


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("protocol", "icmp", "invalid ports[1].protocol: 'icmp' is not one of tcp, udp, sctp"),
        ("host_port", "80", "invalid ports[1].host_port: int is needed"),
        ("host_port", True, "invalid ports[1].host_port: int is needed"),
        ("port", 65536, "invalid ports[1].port: 65536 is not a port"),
        ("address", None, "invalid ports[1].address: str is needed"),
    ],
)
def test_bad_ports_are_named(field: str, value: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        port_from(tcp(1)._asdict() | {field: value}, "ports[1]")
    assert str(error.value) == message


async def test_supervised_daemon_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where `orlop daemon` or systemd starts orlop-netd, a client starts none and takes up with each new one."""
    monkeypatch.setenv(client_module.SUPERVISED, "1")
    monkeypatch.setattr(client_module, "_START_SECONDS", 0.1)
    monkeypatch.setattr(client_module, "_REVIVE_SECONDS", 0.05)
    client = NetdClient(str(tmp_path / "netd.sock"), "")
    with pytest.raises(UnavailableError, match=r"cannot reach orlop-netd at .*: No such file"):
        await client.ping()
    restarted = asyncio.Event()

    async def note() -> None:
        restarted.set()

    client.on_restart = note
    pids = []
    for _ in range(2):
        pids.append(start_daemon(client.socket_path))
        async with asyncio.timeout(5):
            if len(pids) > 1:
                await restarted.wait()
            assert await client.ping() == pids[-1]
        if len(pids) == 1:
            for pid in (worker_of(pids[0]), pids[0]):
                os.kill(pid, signal.SIGSTOP)  # neither sees the other go
            for pid in (worker_of(pids[0]), pids[0]):
                end(pid, signal.SIGKILL)
            await asyncio.sleep(0.3)
            assert not await answers(client.socket_path)  # nobody has started one
    await client.close()
    end(pids[-1])
    assert "published ports are not held, names not served: cannot reach orlop-netd" in caplog.text


def start_daemon(path: str) -> int:
    """Start a daemon by hand; returns its process id."""
    subprocess.run([sys.executable, "-m", "orlop.netd.main", "--detach", "--socket", path], check=True)
    return int(Path(f"{path}.lock").read_text())


async def answers(path: str) -> bool:
    """Whether a daemon answers on the socket."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


async def test_keeps_what_is_in_fifos(netd: NetdClient, tmp_path: Path) -> None:
    """Output outlives its writer, another orlop-netd is told again, and a removed FIFO is let go."""
    path = str(tmp_path / "out")
    os.mkfifo(path)
    await netd.keep("a", [path])
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(writer, b"last words")
    os.close(writer)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 100) == b"last words"
    assert os.read(reader, 100) == b""  # its end, though orlop-netd has it open
    os.close(reader)

    restarted = asyncio.Event()

    async def told() -> None:
        restarted.set()

    netd.on_restart = told
    end(await netd.ping())
    await asyncio.wait_for(restarted.wait(), 20)
    assert await netd.kept() == ["a"]

    (tmp_path / "file").write_text("")
    with pytest.raises(InternalError, match="no fifo"):
        await netd.keep("b", [path, str(tmp_path / "file")])
    await netd.drop("b")
    os.unlink(path)
    os.mkfifo(path)
    await netd.keep("c", [path])
    assert await netd.kept() == ["c"]
    await netd.drop("c")
    await netd.drop("a")
    assert await netd.kept() == []


# -- a part of the daemon is killed


async def kept(netd: NetdClient, container: str) -> int:
    """Give the daemon one of everything; its process id."""
    ports = [tcp(8080), tcp(8081, "::1"), HeldPort("udp", "127.0.0.1", 8082, "127.0.0.1", 82)]
    await netd.hold("one", ports)
    await netd.hold("two", [HeldPort("tcp", "127.0.0.1", 8083, "127.0.0.1", 83, False)])
    await netd.name("e1", Entry("n1", ("web",), ("10.0.0.1",)))
    await netd.resolve("c1", container, 61153, View((Member("n1", "front"),)))
    await netd.release("two")
    fifo = f"{netd.socket_path}.fifo"
    os.mkfifo(fifo)
    await netd.keep("f", [fifo])
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    os.write(writer, b"last words")
    os.close(writer)
    return await netd.ping()


async def ends(pid: int) -> None:
    """Kill a process and see it gone."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    await asyncio.to_thread(select.select, [pidfd], [], [], 10)
    os.close(pidfd)


async def serves_everything(netd: NetdClient, container: str) -> None:
    """What `kept` has given it works."""
    loop = asyncio.get_running_loop()
    assert list(await netd.held()) == ["one"] and await netd.resolving() == (["c1"], ["e1"])
    assert await netd.kept() == ["f"]
    reader = os.open(f"{netd.socket_path}.fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 99) == b"last words"
    os.close(reader)
    await netd.drop("f")
    with socket.create_server(("127.0.0.1", 80)) as server:
        for address in ("127.0.0.1", "::1"):
            client = socket.create_connection((address, 8080 if address != "::1" else 8081))
            with client, server.accept()[0] as inside:
                client.sendall(b"x")
                assert await loop.run_in_executor(None, inside.recv, 1) == b"x"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 82))
        client.sendto(b"y", ("127.0.0.1", 8082))
        assert await loop.run_in_executor(None, server.recv, 9) == b"y"
    found = await asyncio.to_thread(run, container, "busybox", "nslookup", "-type=a", "web", "127.0.0.11:61153")
    assert "Address: 10.0.0.1" in found.stdout


async def test_a_killed_worker_is_replaced_and_nobody_is_refused(netd: NetdClient, container: str) -> None:
    keeper = await kept(netd, container)
    with socket.create_server(("127.0.0.1", 80), backlog=512) as server:
        for _ in range(8):  # more often in a row than one may die before it serves
            os.kill(worker_of(keeper), signal.SIGKILL)
            clients = [socket.create_connection(("127.0.0.1", 8080)) for _ in range(50)]  # none is refused
            for client in clients:
                with client, server.accept()[0] as inside:
                    inside.sendall(b"served")
                    assert await asyncio.to_thread(client.recv, 6) == b"served"
    assert await netd.ping() == keeper
    await serves_everything(netd, container)
    await netd.release("one")
    with socket.create_server(("127.0.0.1", 8080)), socket.create_server(("127.0.0.1", 8083)):
        assert await netd.held() == {}


def test_the_end_is_heard_at_any_moment(tmp_path: Path) -> None:
    """SIGTERM while the keeper has not begun to listen, or while a worker is being replaced."""
    for number, pause in enumerate((0.0, 0.05, 0.15, 0.3)):
        pid = start_daemon(str(tmp_path / f"{number}.sock"))
        os.kill(worker_of(pid), signal.SIGKILL)
        time.sleep(pause / 10)
        end(pid)
        assert not (tmp_path / f"{number}.sock").exists()


async def test_a_killed_keeper_changes_nothing(netd: NetdClient, container: str) -> None:
    keeper = await kept(netd, container)
    worker = worker_of(keeper)
    with (
        socket.create_server(("127.0.0.1", 80)) as server,
        socket.create_connection(("127.0.0.1", 8080)) as client,
        server.accept()[0] as inside,
    ):
        await ends(keeper)
        client.sendall(b"still")
        assert await asyncio.to_thread(inside.recv, 9) == b"still"
    await serves_everything(netd, container)
    while await netd.ping() != worker:
        pass
    assert Path(f"{netd.socket_path}.lock").read_text() == f"{worker}\n"
    await netd.release("one")
    assert await netd.held() == {}
