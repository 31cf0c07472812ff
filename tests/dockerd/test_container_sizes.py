# SPDX-License-Identifier: Apache-2.0
"""Disk space of containers: shared layers are asked for once, and what is gone meanwhile counts as nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from orlop.dockerd.containers.sizes import Sizes, sizes
from orlop.errdefs import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.containerd.client import Client

PARENTS = {"base": "", "top": "base", "a": "top", "b": "base", "c": ""}
BYTES = {"base": 1000, "top": 100, "a": 10, "b": 20, "c": 30}


class Snapshots:
    """What containerd would answer; `gone` disappears between the list and the question for its size."""

    def __init__(self, gone: str = "") -> None:
        self.calls: Counter[str] = Counter()
        self._gone = gone

    async def list(self) -> AsyncIterator[SimpleNamespace]:
        self.calls["list"] += 1
        for name, parent in PARENTS.items():
            yield SimpleNamespace(name=name, parent=parent)

    async def stat(self, key: str) -> SimpleNamespace:
        self.calls["stat"] += 1
        if key not in PARENTS:
            raise NotFoundError(key)
        return SimpleNamespace(parent=PARENTS[key])

    async def usage(self, key: str) -> SimpleNamespace:
        self.calls["usage"] += 1
        if key == self._gone or key not in BYTES:
            raise NotFoundError(key)
        return SimpleNamespace(size=BYTES[key])


def ask(snapshots: Snapshots, *ids: str) -> list[Sizes]:
    client = SimpleNamespace(snapshots=lambda name: snapshots)
    containers: list[Any] = [SimpleNamespace(id=id_, record=SimpleNamespace(snapshotter="x")) for id_ in ids]
    return asyncio.run(sizes(cast("Client", client), containers))


def test_shared_layers_are_asked_for_once() -> None:
    snapshots = Snapshots()
    assert ask(snapshots, "b", "a", "c") == [(20, 1020), (10, 1110), (30, 30)]
    assert snapshots.calls == {"list": 1, "usage": 5}


def test_of_one_container_no_list_is_needed() -> None:
    snapshots = Snapshots()
    assert ask(snapshots, "a") == [(10, 1110)]
    assert snapshots.calls == {"stat": 3, "usage": 3}


@pytest.mark.parametrize("ids", [("z",), ("z", "y")])
def test_what_is_gone_is_nothing(ids: tuple[str, ...]) -> None:
    assert ask(Snapshots(), *ids) == [(0, 0)] * len(ids)


@pytest.mark.parametrize(("gone", "found"), [("a", [(0, 0), (20, 1020)]), ("base", [(0, 0), (0, 0)])])
def test_what_goes_meanwhile_is_nothing(gone: str, found: list[Sizes]) -> None:
    assert ask(Snapshots(gone), "a", "b") == found


def test_of_none() -> None:
    assert ask(Snapshots()) == []
