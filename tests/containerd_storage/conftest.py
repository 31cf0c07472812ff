# SPDX-License-Identifier: Apache-2.0
"""Storage opened in process, and storage of running daemons."""

import itertools
import os
from collections.abc import Iterator

import grpc
import pytest
from support.containerd import Daemon
from support.storage import LocalStorage, RemoteContent, RemoteSnapshotter

from orlop.containerd.core.content import ContentStore
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.core.snapshots import Snapshotter

_ORIGINAL = pytest.mark.original
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """A test leaves no descriptor open and nothing mounted."""
    before, mounts = _descriptors(), _mounts()
    yield
    assert _mounts() == mounts
    assert _descriptors() - before == set()


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("/"):  # not gRPC's and the loop's sockets, pipes and eventfds
            found.add(f"{name} {target}")
    return found


def _mounts() -> int:
    """How many mounts there are below the directories of tests."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return sum("/orlop-storage-" in line for line in file)


@pytest.fixture
def local() -> Iterator[LocalStorage]:
    """A storage in process."""
    storage = LocalStorage()
    yield storage
    storage.remove()


@pytest.fixture(scope="session", params=["orlop", pytest.param("original", marks=_ORIGINAL)])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A running daemon of each implementation."""
    yield from _daemon(request.param)


def _daemon(kind: str) -> Iterator[Daemon]:
    daemon = Daemon(kind).start()
    yield daemon
    daemon.remove()


@pytest.fixture(scope="session")
def channel(daemon: Daemon) -> Iterator[grpc.Channel]:
    """A connection to the daemon."""
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        yield channel


@pytest.fixture
def scope() -> Scope:
    """A namespace of its own."""
    return Scope(f"storage-{os.getpid()}-{next(_numbers)}")


@pytest.fixture(params=["overlayfs", "native"])
def remote_snapshotter(request: pytest.FixtureRequest, channel: grpc.Channel, scope: Scope) -> Snapshotter:
    """Each snapshotter of a daemon."""
    return RemoteSnapshotter(channel, scope, request.param)


@pytest.fixture
def remote_content(channel: grpc.Channel, scope: Scope) -> ContentStore:
    """The content store of a daemon."""
    return RemoteContent(channel, scope)
