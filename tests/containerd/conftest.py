# SPDX-License-Identifier: Apache-2.0
"""Daemons and root file systems for the tests of containerd."""

import shutil
import tempfile
from collections.abc import Iterator

import pytest
from support.containerd import Daemon, unpack_rootfs


@pytest.fixture(scope="session")
def rootfs() -> Iterator[str]:
    """A busybox root file system in a directory."""
    directory = tempfile.mkdtemp(prefix="oc-rootfs-", dir="/tmp")
    yield unpack_rootfs(directory)
    shutil.rmtree(directory)


@pytest.fixture
def orlop() -> Iterator[Daemon]:
    """orlop-containerd, running."""
    daemon = Daemon("orlop").start()
    yield daemon
    daemon.remove()


@pytest.fixture(params=["orlop", pytest.param("original", marks=pytest.mark.original)])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Each implementation of containerd, running."""
    daemon = Daemon(request.param).start()
    yield daemon
    daemon.remove()


@pytest.fixture(scope="module", params=["orlop", pytest.param("original", marks=pytest.mark.original)])
def daemon_shared(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """As `daemon`, one for all tests of a module: for tests that leave nothing in it."""
    daemon = Daemon(request.param).start()
    yield daemon
    daemon.remove()
