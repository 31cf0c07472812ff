# SPDX-License-Identifier: Apache-2.0
"""The event loop's selector: how long it stays awake for whoever is likely to ask again."""

import contextlib
import itertools
import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from orlop.netd.poller import IN, Poller

TICK_SECONDS = 60e-6


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The poller's clock goes on by a tick with every look at it: how many there were since the last call."""
    count = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(count) * TICK_SECONDS)
    monkeypatch.setattr("orlop.netd.poller.time", clock)
    seen = -1

    def since() -> int:
        nonlocal seen
        before, seen = seen, next(count)
        return seen - before - 1

    return since


def test_staying_awake_in_vain_is_rationed(looks: Callable[[], int]) -> None:
    with contextlib.closing(Poller()) as poller:
        for _ in range(20):
            poller.expecting = True
            poller.select(0.001)
        looks()
        poller.expecting = True
        poller.select(0.001)
        assert looks() == 1, "it was awake for nobody once more"


def test_what_comes_while_it_is_awake_is_served_and_counts_as_nothing(looks: Callable[[], int]) -> None:
    read, write = os.pipe()
    served = []

    def answer(fd: int) -> None:
        served.append(os.read(read, 1))
        poller.expecting = True

    with contextlib.closing(Poller()) as poller:
        poller.add(read, answer, IN)
        for _ in range(50):
            os.write(write, b"x")
            poller.select(None)
        assert len(served) == 50
        looks()
        poller.expecting = True
        poller.select(0)
        assert looks() == 0, "there is something else to do"
        poller.expecting = True
        poller.select(0.001)
        assert looks() >= 3, "there was somebody each time, and now it does not wait any more"
        poller.remove(read)
    os.close(read)
    os.close(write)
