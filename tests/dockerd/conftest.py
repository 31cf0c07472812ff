# SPDX-License-Identifier: Apache-2.0
"""A whole stack a module; every test leaves it without containers and volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = pytest.param(("orlop", "orlop"), id="orlop")
FOREIGN = pytest.param(("original", "runc"), id="original", marks=pytest.mark.original)
"""Debian's containerd with its runc shim: dockerd copies FIFOs."""


@pytest.fixture(scope="module", params=[OURS, FOREIGN])
def shared_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The stack of a module, on each containerd."""
    kind, runtime = request.param
    with Stack(kind, runtime=runtime) as stack:
        stack.load("busybox")
        yield stack


@pytest.fixture
def stack(shared_stack: Stack) -> Iterator[Stack]:
    """The module's stack, swept after the test."""
    yield shared_stack
    left = shared_stack.docker("ps", "-aq").out.split()
    if left:
        shared_stack.docker("rm", "-fv", *left)
    volumes = shared_stack.docker("volume", "ls", "-q").out.split()
    if volumes:
        shared_stack.docker("volume", "rm", *volumes)


@pytest.fixture
def own_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack for one test that lets its daemons die; parametrize indirectly with (containerd, runtime)."""
    kind, runtime = getattr(request, "param", ("orlop", "orlop"))
    with Stack(kind, runtime=runtime) as stack:
        stack.load("busybox")
        yield stack
