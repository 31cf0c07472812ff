# SPDX-License-Identifier: Apache-2.0
"""`docker run --storage-opt size=`: what a container may write, where the root of containerd keeps quotas."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stack import Stack

pytestmark = pytest.mark.root
MIB = 1 << 20
# How to make each, how to mount it.
KINDS = {
    "ext4": (["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"], "loop,prjquota"),
    "xfs": (["mkfs.xfs", "-q"], "loop,pquota"),
}
# Down to the disk, where the blocks are: /proc/mounts shows an overlay alone.
WRITE = "dd if=/dev/zero of=/{name} bs=1M count={mib} conv=fsync"


@pytest.fixture(scope="module", params=KINDS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose containerd keeps its things on such a file system."""
    make, options = KINDS[request.param]
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    base: Path = tmp_path_factory.mktemp("disk")
    image, directory = base / "image", base / "root"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    subprocess.run([*make, str(image)], check=True)
    mount = ["mount", "-o", options, str(image), str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip(f"this kernel keeps no quotas on {request.param}: tests/vm/run has one that does")
    try:
        running = Stack()
        running.containerd.root = str(directory)
        with running:
            running.load("busybox")
            yield running
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_the_limit_holds(stack: Stack) -> None:
    """For each container its own; it is what the container sees as its disk."""
    for name in ("one", "two"):
        stack.docker("run", "-d", "--name", name, "--storage-opt", "size=20m", "busybox", "sleep", "1000").ok()
    try:
        assert stack.docker("inspect", "-f", "{{.HostConfig.StorageOpt.size}}", "one").ok() == "20m\n"
        stack.docker("exec", "one", "sh", "-c", WRITE.format(name="fits", mib=12)).ok()
        full = stack.docker("exec", "one", "sh", "-c", WRITE.format(name="more", mib=12))
        assert full.status == 1
        assert "quota" in full.err.lower() or "No space" in full.err
        stack.docker("exec", "two", "sh", "-c", WRITE.format(name="fits", mib=12)).ok()
        shown = stack.docker("exec", "two", "df", "-m", "/").ok().split()
        assert 18 <= int(shown[shown.index("/") - 4]) <= 20
        # Room that is given back can be had again, and after a restart the limit is the same.
        stack.docker("exec", "one", "rm", "/fits", "/more").ok()
        stack.docker("restart", "-t", "0", "one").ok()
        stack.docker("exec", "one", "sh", "-c", WRITE.format(name="fits", mib=12)).ok()
        assert stack.docker("exec", "one", "sh", "-c", WRITE.format(name="more", mib=12)).status == 1
    finally:
        stack.docker("rm", "-f", "one", "two").ok()


def test_without_a_limit_there_is_none(stack: Stack) -> None:
    stack.docker("run", "--rm", "busybox", "sh", "-c", WRITE.format(name="much", mib=40)).ok()


def test_sizes_that_are_none(stack: Stack) -> None:
    for given in ("size=much", "size=-1", "colour=red"):
        refused = stack.docker("run", "--rm", "--storage-opt", given, "busybox", "true")
        assert refused.status == 125, given
        assert stack.docker("ps", "-aq").ok() == ""
