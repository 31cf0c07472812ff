# SPDX-License-Identifier: Apache-2.0
"""What becomes of requests when orlopd is told to stop: streams end, what changes something is finished."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from support.containerd import wait_until
from support.pace import PACE
from support.stack import Stack

pytestmark = pytest.mark.root

STUBBORN = 'trap "echo told" TERM; while :; do sleep 0.1; done'
STREAMS = (
    "GET /events",
    "GET /containers/box/stats?stream=1",
    "GET /containers/box/logs?follow=1&stdout=1",
    "POST /containers/box/attach?stream=1&stdout=1&stdin=1",
    "POST /containers/box/wait",
    "GET /containers/box/attach/ws?stream=1&stdout=1",
)
_HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


@pytest.fixture(scope="module")
def module_stack() -> Iterator[Stack]:
    with Stack() as running:
        running.load("busybox")
        yield running


@pytest.fixture
def stack(module_stack: Stack) -> Iterator[Stack]:
    """A stack whose dockerd a test stops."""
    yield module_stack
    if module_stack.process is None:
        module_stack.start()
    if left := module_stack.docker("ps", "-aq").ok().split():
        module_stack.docker("rm", "-f", *left).ok()


def begin(stack: Stack, request: str) -> socket.socket:
    """Ask for a stream, and read the head of the answer."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(30 * PACE)
    client.connect(stack.socket)
    client.sendall(f"{request} HTTP/1.1\r\nHost: d\r\n{_HANDSHAKE if '/ws' in request else ''}\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    assert int(head.split()[1]) in (HTTPStatus.OK, HTTPStatus.SWITCHING_PROTOCOLS), head
    return client


def being_stopped(stack: Stack, seconds: int) -> subprocess.Popen[bytes]:
    """A `docker stop` in progress, of a container that waits for its SIGKILL."""
    stack.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", STUBBORN).ok()
    asked = stack.popen("stop", "-t", str(seconds), "box")
    wait_until(lambda: "told" in stack.docker("logs", "box").ok(), 30)
    return asked


def status(stack: Stack) -> str:
    return stack.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "box").ok().strip()


def test_streams_end_at_once(stack: Stack) -> None:
    stack.docker("run", "-di", "--name", "box", "busybox", "sh", "-c", "echo hi; sleep 1000").ok()
    stack.start_again("--shutdown-timeout", "600")
    clients = [begin(stack, request) for request in STREAMS]
    assert stack.stop() == 0  # within a minute
    for client in clients:
        while client.recv(65536):
            pass
        client.close()


def test_a_request_in_progress_is_finished(stack: Stack) -> None:
    asked = being_stopped(stack, 3)
    assert stack.stop() == 0
    out, err = asked.communicate(timeout=30 * PACE)
    assert (asked.returncode, out) == (0, b"box\n"), err
    stack.start()
    assert status(stack) == "exited 137"


def test_a_request_is_cut_in_the_end(stack: Stack) -> None:
    stack.start_again("--shutdown-timeout", "1")
    asked = being_stopped(stack, 1000)
    assert stack.stop() == 0
    _, err = asked.communicate(timeout=30 * PACE)
    assert asked.returncode == 1 and err
    stack.start()
    assert status(stack) == "running 0"


def test_the_third_signal_ends_it(stack: Stack) -> None:
    stack.start_again("--shutdown-timeout", "-1")
    asked = being_stopped(stack, 1000)
    process = stack.process
    assert process is not None
    deadline = time.monotonic() + 60 * PACE
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # signals of one kind that wait are one
    assert process.returncode == 128 + signal.SIGTERM
    stack.process = None
    asked.communicate(timeout=30 * PACE)
    assert asked.returncode == 1
