# SPDX-License-Identifier: Apache-2.0
"""Network namespaces for tests: the test's own, a neighbour on its wire, programs inside of containers'."""

import contextlib
import os
import select
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orlop.dockerd.network import NetworkConfig, NetworkService, Sandbox, SandboxRequest, init_schema
from orlop.dockerd.plugins.client import Plugins
from orlop.netd.client import NetdClient
from orlop.unix.process import CLONE_NEWNET, setns, unshare

HOST_ADDRESS = "198.51.100.1"
NEIGHBOUR_ADDRESS = "198.51.100.2"


@contextlib.contextmanager
def fresh_netns() -> Iterator[None]:
    """Put the calling (main) thread, and what it starts, into a new network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        unshare(CLONE_NEWNET)
        ip("link set lo up")
        # Whatever this machine is, the test's is no router before the service makes it one.
        command("sysctl", "-q", "-w", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
        yield
    finally:
        setns(home, CLONE_NEWNET)
        os.close(home)


@contextlib.contextmanager
def inner_netns() -> Iterator[str]:
    """Path of a container's network namespace with its loopback up."""
    process = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec cat"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin and process.stdout and process.stdout.readline()
    try:
        yield f"/proc/{process.pid}/ns/net"
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def ip(command: str) -> str:
    """Run ip(8) in the current namespace."""
    return subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True).stdout


def command(*argv: str) -> str:
    """Run a program in the current namespace and return its output."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def pings(netns: str, address: str) -> bool:
    """Whether an address answers to a namespace."""
    return run(netns, "busybox", "ping", "-c1", "-W1", address, check=False).returncode == 0


class Neighbour:
    """A machine on the test host's outer wire, with its own network namespace; the host is its router."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        self.netns = f"/proc/{self._process.pid}/ns/net"
        while os.readlink(self.netns) == os.readlink("/proc/thread-self/ns/net"):
            time.sleep(0.002)  # unshare(1) gives no sign when it has changed
        ip(f"link add wire0 type veth peer name wire1 netns {self._process.pid}")
        ip(f"addr add {HOST_ADDRESS}/24 dev wire0")
        ip("link set wire0 up")
        run(self.netns, "ip", "addr", "add", f"{NEIGHBOUR_ADDRESS}/24", "dev", "wire1")
        run(self.netns, "ip", "link", "set", "wire1", "up")
        run(self.netns, "ip", "route", "add", "default", "via", HOST_ADDRESS)

    def close(self) -> None:
        """End the machine."""
        self._process.kill()
        self._process.wait()


def run(netns: str, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program in a namespace to its end."""
    return subprocess.run(
        ["nsenter", f"--net={netns}", *argv], check=check, capture_output=True, text=True, timeout=20
    )


@contextlib.contextmanager
def serving(netns: str, port: int, program: str = "/bin/cat") -> Iterator[None]:
    """A TCP server in a namespace that runs `program` on each connection (cat: an echo server)."""
    argv = ["nsenter", f"--net={netns}", "busybox", "nc", "-ll", "-p", str(port), "-e", program]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        while f":{port:04X} " not in run(netns, "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout:
            time.sleep(0.005)  # nc gives no sign when it listens
        yield
    finally:
        server.kill()
        server.wait()


def echo(address: str, port: int, data: bytes = b"hello", netns: str = "") -> bytes:
    """Send data, half-close, and return what comes back until the end; from a namespace if given."""
    if netns:
        argv = ["nsenter", f"--net={netns}", "busybox", "timeout", "2", "busybox", "nc", address, str(port)]
        return subprocess.run(
            argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        ).stdout
    with socket.create_connection((address, port), timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


_ECHO_SERVER = """
import socketserver, socket, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, address_family, daemon_threads = True, socket.AF_INET6, True
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
servers = [Server(("::", int(port)), Echo) for port in sys.argv[1:]]
print("listening", flush=True)
import threading
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
"""


@contextlib.contextmanager
def echoing(netns: str, *ports: int) -> Iterator[None]:
    """A TCP echo server in a namespace, of both families."""
    argv = ["nsenter", f"--net={netns}", "/usr/bin/python3", "-S", "-c", _ECHO_SERVER, *map(str, ports)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout and server.stdout.readline()
            yield
        finally:
            server.kill()


_UDP_SERVER = """
import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.bind(("::", PORT))
print("bound", flush=True)
while True:
    data, address = server.recvfrom(9999)
    server.sendto(data + b"!", address)
"""
_UDP_CLIENT = """
import socket, sys
client = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(3)
client.bind(("", int(sys.argv[3])))
client.connect((sys.argv[1], int(sys.argv[2])))
client.send(b"question")
print(client.recv(99).decode())
"""


@contextlib.contextmanager
def serving_udp(netns: str, port: int) -> Iterator[None]:
    """A UDP server in a namespace that answers with what it got and an exclamation mark."""
    script = _UDP_SERVER.replace("PORT", str(port))
    argv = ["nsenter", f"--net={netns}", "/usr/bin/python3", "-S", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout and server.stdout.readline()
            yield
        finally:
            server.kill()


def ask_udp(netns: str, address: str, port: int, source: int = 0) -> str:
    """What that server answers to a question from a namespace, over a connected socket."""
    argv = ("/usr/bin/python3", "-S", "-c", _UDP_CLIENT, address, str(port), str(source))
    return run(netns, *argv, check=False).stdout.strip()


@contextlib.contextmanager
def lingering(netns: str) -> Iterator[None]:
    """A process that stays in a namespace."""
    argv = ["nsenter", f"--net={netns}", "cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b"in\n")
        process.stdin.flush()
        process.stdout.readline()
        yield


class Host:
    """A network service on files of its own, which can be thrown away and started again."""

    def __init__(self, directory: Path, *, plugins: Plugins | None = None, **config: Any) -> None:
        self.directory = directory
        self._plugins = plugins
        self.config = NetworkConfig(**config)
        self.netd_socket = str(directory / "run" / "netd.sock")
        self._open()

    def _open(self) -> None:
        self.connection = sqlite3.connect(self.directory / "dockerd.db")
        init_schema(self.connection)
        self.netd = NetdClient(self.netd_socket, str(self.directory / "netd.log"))
        self.service = NetworkService(
            self.connection, self.netd, self.config, str(self.directory / "run"), self._plugins
        )

    async def connect(self, name: str, **request: Any) -> Sandbox:
        """A sandbox for a container of that name and id."""
        return await self.service.connect(SandboxRequest(container_id=name, name=name, hostname=name, **request))

    async def restart(self) -> None:
        """Another dockerd takes over; the old one ends without a word."""
        await self.netd.close()
        await self.service.close()
        self.connection.close()
        self._open()
        await self.service.start()

    def pins(self) -> list[str]:
        """The namespaces that are pinned."""
        return sorted(os.listdir(self.directory / "run" / "netns"))

    async def close(self, containers: list[str]) -> None:
        """Release everything; also end orlop-netd."""
        for name in containers:
            await self.service.release(name)
        await self.service.close()
        pid = await self.netd.ping() if os.path.exists(self.netd_socket) else 0
        await self.netd.close()
        self.connection.close()
        if pid:
            end(pid)


def end(pid: int, number: int = signal.SIGTERM) -> None:
    """End a process that is not a child, and wait for it."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, number)
        select.select([pidfd], [], [], 10)
    finally:
        os.close(pidfd)
