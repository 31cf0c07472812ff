# SPDX-License-Identifier: Apache-2.0
"""The image store below a size: what goes, in which order, and what never does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

import pytest
from support.containerd import wait_until
from support.stack import Stack

from orlop.dockerd.images.keeper import Held, Policy, choose
from orlop.dockerd.images.store import ImageRecord
from orlop.oci.image import Descriptor, Image

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR = 3600 * 10**9
NOW = 1000 * HOUR


def held(name: str, hours_ago: int, **parts: int) -> Held:
    nothing = Descriptor(media_type="", digest="", size=0)
    return Held(ImageRecord(name, Image(), nothing, nothing, [], "", ()), parts, NOW - hours_ago * HOUR)


@pytest.mark.parametrize(("size", "in_use", "going"), [
    (100, set(), []),
    (60, set(), []),
    (59, set(), ["old"]),
    (39, set(), ["old", "middle"]),
    (30, set(), ["old", "middle"]),
    (59, {"old"}, ["middle"]),
    (1, set(), ["old", "middle"]),
    (1, {"middle"}, ["old"]),
])  # fmt: skip
def test_what_goes(size: int, in_use: set[str], going: list[str]) -> None:
    images = [held("new", 1, a=20), held("old", 100, b=20), held("middle", 50, c=20)]
    assert choose(images, Policy(size, 2 * HOUR), NOW, in_use) == going


def test_shared_parts_count_once_and_go_last() -> None:
    images = [held("a", 30, base=50, a=1), held("b", 20, base=50, b=1), held("c", 10, base=50, c=1)]
    assert choose(images, Policy(53, 0), NOW, set()) == []
    assert choose(images, Policy(52, 0), NOW, set()) == ["a"]
    assert choose(images, Policy(50, 0), NOW, set()) == ["a", "b", "c"]


@pytest.fixture
def stack() -> Iterator[Stack]:
    with Stack(configuration=json.dumps({"image-store-max-size": "4m", "image-store-min-age": "0s"})) as made:
        yield made


def import_one(stack: Stack, name: str) -> None:
    """An image of some 700 KiB that does not compress, kept twice: as a blob and unpacked."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 700 << 10
        tar.addfile(member, io.BytesIO(os.urandom(member.size)))
    command = ["docker", "import", "-", name]
    subprocess.run(command, input=out.getvalue(), env=stack.environment(), capture_output=True, check=True)


@pytest.mark.root
def test_the_least_recently_used_goes(stack: Stack) -> None:
    def names() -> set[str]:
        return set(stack.docker("images", "--format", "{{.Repository}}").ok().split())

    for name in ("first", "second"):
        import_one(stack, name)
    stack.docker("create", "--name", "user", "first", "/none").ok()
    import_one(stack, "third")
    wait_until(lambda: names() == {"first", "third"})  # a container was made of the first
    stack.docker("rm", "user").ok()  # so that its use is later than the third's
    import_one(stack, "fourth")
    wait_until(lambda: names() == {"first", "fourth"})
    deleted = stack.docker(
        "events", "--since", "1m", "--until", str(int(time.time()) + 1), "--filter", "event=delete"
    ).ok()
    assert len(deleted.splitlines()) == 2


@pytest.mark.root
def test_without_a_policy_nothing_goes() -> None:
    with Stack() as stack:
        for name in ("first", "second", "third"):
            import_one(stack, name)
        assert len(stack.docker("images", "-q").ok().split()) == 3
