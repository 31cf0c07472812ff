# SPDX-License-Identifier: Apache-2.0
"""Ports that are published, and no more, while a container runs."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import containerd

from orlop.dockerd.containers.live_ports import changed
from orlop.engine.types import PortBinding
from orlop.errdefs import NotFoundError

if TYPE_CHECKING:
    from support.stack import Stack

pytestmark = pytest.mark.root
ORLOP = str(Path(sys.executable).with_name("orlop"))


def update(stack: Stack, *flags: str) -> containerd.Result:
    return containerd.run([ORLOP, "update", *flags, "web"], env=stack.environment())


def inspect(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.docker("inspect", "web").ok())[0]
    return found


def start(stack: Stack, *options: str) -> None:
    stack.docker("run", "-d", "--name", "web", *options, "busybox", "httpd", "-f", "-p", "80").ok()


def connect(stack: Stack, port: int) -> socket.socket:
    with stack.network():
        return socket.create_connection(("127.0.0.1", port), 5)


def answers(stack: Stack, port: int) -> bool:
    """Whether an HTTP server is behind a port of the host."""
    try:
        with connect(stack, port) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.recv(64).startswith(b"HTTP/1")
    except OSError:
        return False


def await_answer(stack: Stack, port: int) -> None:
    """A container's server may need its time until it listens."""
    containerd.wait_until(lambda: answers(stack, port), 30)


def test_ports_come_and_go(stack: Stack) -> None:
    start(stack)
    assert not answers(stack, 8080)
    update(stack, "--publish-add", "8080:80", "--publish-add", "8081:80").ok()
    await_answer(stack, 8080)
    await_answer(stack, 8081)
    shown = inspect(stack)
    assert {each["HostPort"] for each in shown["NetworkSettings"]["Ports"]["80/tcp"]} == {"8080", "8081"}
    assert [each["HostPort"] for each in shown["HostConfig"]["PortBindings"]["80/tcp"]] == ["8080", "8081"]
    assert "8080->80/tcp" in stack.docker("ps").ok()
    update(stack, "--publish-rm", "8080:80").ok()
    assert not answers(stack, 8080)
    await_answer(stack, 8081)
    stack.docker("restart", "-t", "0", "web").ok()
    await_answer(stack, 8081)
    assert not answers(stack, 8080)
    update(stack, "--publish-rm", "80").ok()
    assert not answers(stack, 8081)
    assert inspect(stack)["HostConfig"]["PortBindings"] == {}


def test_the_other_ports_are_not_disturbed(stack: Stack) -> None:
    start(stack, "-p", "8080:80")
    await_answer(stack, 8080)
    with connect(stack, 8080) as kept:
        update(stack, "--publish-add", "8081:80").ok()
        update(stack, "--publish-rm", "8081:80").ok()
        kept.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert kept.recv(64).startswith(b"HTTP/1")
    stack.docker("rm", "-f", "web").ok()
    start(stack, "-p", "8080:80", "-p", "8081:80")  # nothing holds them any more


def test_errors_leave_everything_as_it_was(stack: Stack) -> None:
    start(stack, "-p", "8080:80")
    with stack.network():
        taken = socket.create_server(("0.0.0.0", 8085))
    with taken:
        refused = update(stack, "--publish-rm", "8080:80", "--publish-add", "8084:80", "--publish-add", "8085:80")
    assert refused.status == 1
    assert "8085" in refused.err
    assert "address already in use" in refused.err
    await_answer(stack, 8080)
    assert not answers(stack, 8084)
    assert set(inspect(stack)["NetworkSettings"]["Ports"]) == {"80/tcp"}
    refused = update(stack, "--publish-rm", "9999:80")
    assert "port 80/tcp is not published at :9999" in refused.err
    stack.docker("run", "-d", "--name", "other", "-p", "8084:80", "busybox", "sleep", "100").ok()


def test_it_survives_the_daemon(stack: Stack) -> None:
    start(stack)
    update(stack, "--publish-add", "8080:80").ok()
    stack.kill()
    await_answer(stack, 8080)
    stack.start()
    await_answer(stack, 8080)
    update(stack, "--publish-rm", "80").ok()
    assert not answers(stack, 8080)


def test_where_nothing_can_be_published(stack: Stack) -> None:
    start(stack, "--network", "none")
    refused = update(stack, "--publish-add", "8080:80")
    assert "has the network none: no port can be published there" in refused.err


def test_a_stopped_container_gets_it_at_its_start(stack: Stack) -> None:
    stack.docker("create", "--name", "web", "busybox", "httpd", "-f", "-p", "80").ok()
    update(stack, "--publish-add", "8080:80").ok()
    stack.docker("start", "web").ok()
    await_answer(stack, 8080)


def test_bindings_after_a_change() -> None:
    one, two = PortBinding(host_port="1"), PortBinding(host_ip="127.0.0.1", host_port="2")
    assert changed({"80": [one]}, {"80/tcp": [two]}, {}) == {"80/tcp": [one, two]}
    assert changed({"80/tcp": [one, two]}, {}, {"80/tcp": [PortBinding(host_port="2")]}) == {"80/tcp": [one]}
    assert changed({"80/tcp": [one, two]}, {"53/udp": None}, {"80/tcp": None}) == {"53/udp": []}
    with pytest.raises(NotFoundError, match="port 81/tcp is not published"):
        changed({"80/tcp": [one]}, {}, {"81/tcp": None})
