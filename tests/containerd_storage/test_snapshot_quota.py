# SPDX-License-Identifier: Apache-2.0
"""Snapshots that may only take so much: quotas of projects, on an ext4 of the test's own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.containerd.core.snapshots import SIZE_LABEL, Kind
from orlop.containerd.plugins.snapshots_native import NativeDriver
from orlop.containerd.plugins.snapshots_overlay import OverlayDriver
from orlop.errdefs import InvalidArgumentError, NotImplementedByUsError
from orlop.unix import quota

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture
def quotas(tmp_path: Path) -> Iterator[str]:
    """A directory on an ext4 that keeps quotas of projects."""
    image, directory = tmp_path / "image", tmp_path / "mounted"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(128 * MIB)
    made = ["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", str(image)]
    subprocess.run(made, check=True)
    mounted = subprocess.run(
        ["mount", "-o", "loop,prjquota", str(image), str(directory)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this kernel keeps no quotas (CONFIG_QFMT_V2): tests/vm/run has one that does")
    try:
        yield str(directory)
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def write(path: str, size: int) -> str:
    """Have blocks given out at once, without the capability that lets root overstep quotas: what went wrong."""
    command = ["setpriv", "--bounding-set=-sys_resource", "fallocate", "-l", str(size), path]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_limit_holds_and_ends_with_the_snapshot(quotas: str) -> None:
    driver = OverlayDriver(quotas)
    assert quota.supported(quotas)
    driver.create(7, Kind.ACTIVE, [], {SIZE_LABEL: str(10 * MIB)})
    driver.create(8, Kind.ACTIVE, [7], {})
    upper = driver.upper(7)
    os.mkdir(f"{upper}/below")
    assert write(f"{upper}/below/fits", 6 * MIB) == ""
    assert re.search("quota|No space", write(f"{upper}/below/too-much", 6 * MIB))
    assert write(f"{driver.upper(8)}/others-may", 20 * MIB) == ""
    # what the container sees as the size of its disk
    assert os.statvfs(upper).f_blocks * os.statvfs(upper).f_frsize == 10 * MIB

    driver.delete(7)
    again = f"{quotas}/again"
    os.mkdir(again)
    project = 2_000_000_007
    quota.limit_tree(again, project, 64 * MIB)
    quota.drop_limit(again, project)
    assert write(f"{again}/file", 20 * MIB) == ""
    driver.delete(8)
    assert driver.numbers() == set()


def test_what_cannot_be_limited(tmp_path: Path) -> None:
    """No limit that nobody watches: it is refused, and nothing is left."""
    if quota.supported(str(tmp_path)):
        pytest.skip("this file system keeps quotas")
    for made in (OverlayDriver(str(tmp_path / "overlay")), NativeDriver(str(tmp_path / "native"))):
        with pytest.raises(NotImplementedByUsError, match="limit"):
            made.create(1, Kind.ACTIVE, [], {SIZE_LABEL: "1000"})
        with pytest.raises(InvalidArgumentError, match=r"io\.orlop\.snapshot\.size: expected a number"):
            made.create(1, Kind.ACTIVE, [], {SIZE_LABEL: "-1"})
        assert made.numbers() == set()
        made.create(1, Kind.ACTIVE, [], {})
        made.delete(1)
        assert made.numbers() == set()
