# SPDX-License-Identifier: Apache-2.0
"""Cells with dockerd on a containerd: what only they have, a daemon in the middle and Docker's own questions."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.containerd import wait_until
from support.swap.cells import CELLS, Cell
from support.swap.docker import DockerLike

pytestmark = [pytest.mark.root, pytest.mark.original]

# Those of Debian's daemons alone are the control: what they do is their matter.
NUMBERS = {"1": (), "3": pytest.mark.long, "7-runc": pytest.mark.long, "9": pytest.mark.long}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(each, id=each.number, marks=NUMBERS[each.number]) for each in CELLS if each.number in NUMBERS
    ],
)
def docker(request: pytest.FixtureRequest) -> Iterator[DockerLike]:
    cell: Cell = request.param
    engine = cell.build()
    assert isinstance(engine, DockerLike)
    yield engine
    engine.close()


@pytest.fixture
def sleeper(docker: DockerLike) -> Iterator[str]:
    docker.start("sleeper", "sleep 1000")
    yield "sleeper"
    docker("rm", "-f", "sleeper").ok()


def test_limits_and_counts(docker: DockerLike, sleeper: str) -> None:
    docker("update", "--memory", "100m", "--memory-swap", "100m", sleeper).ok()
    limit = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", sleeper).ok()
    assert limit.strip().endswith("/ 100MiB")


def test_second_start(docker: DockerLike, sleeper: str) -> None:
    docker.kill(sleeper, "KILL")
    assert docker("wait", sleeper).ok() == "137\n"
    docker("start", sleeper).ok()
    assert docker.exec(sleeper, "echo inside").out == "inside\n"


def test_containerd_dies(docker: DockerLike, sleeper: str) -> None:
    pid = docker.pid(sleeper)
    docker.service.restart_containerd()
    assert docker.pid(sleeper) == pid
    assert os.path.exists(f"/proc/{pid}")
    # dockerd's connection comes back by itself within a second or two.
    wait_until(lambda: docker.exec(sleeper, "true").status == 0, 30)
    assert docker.exec(sleeper, "echo inside").out == "inside\n"
