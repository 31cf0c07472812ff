# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the shim's tests: a rootfs, a lab for each runtime, and a look at what a test has left behind."""

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import command_of
from support.shims import Lab, make_rootfs

from orlop import cgroups

RUNTIMES = ["", "runc", "crun", "orlop-runc"]


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("shim") / "rootfs")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="shim"))
    yield path
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    left = [mountpoint for mountpoint in mounts if mountpoint.startswith(f"{path}/")]
    for mountpoint in reversed(left):
        os.system(f"umount -l {mountpoint}")
    shutil.rmtree(path)
    assert not left


def _processes_of(path: Path) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            where = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            continue  # it has ended, or works in a directory whose path is too long for readlink
        if int(pid) != os.getpid() and (str(path) in words or where.startswith(str(path))):
            found.append(f"{pid} {words}")
    return found


@pytest.fixture
def lab(short_dir: Path, rootfs: Path) -> Iterator[Lab]:
    """A lab with the in-process driver."""
    yield from _lab(short_dir, rootfs, "")


def _script(path: Path, command: list[str]) -> Path:
    """A program that runs a command with its own arguments."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(params=RUNTIMES, ids=lambda name: name or "in-process")
def any_lab(request: pytest.FixtureRequest, short_dir: Path, rootfs: Path) -> Iterator[Lab]:
    """A lab for each driver and runtime."""
    runtime = request.param
    if runtime == "crun" and cgroups.mode() == "hybrid" and shutil.which(runtime):
        runtime = str(_script(short_dir / "crun", command_of(runtime)))
    if runtime and shutil.which(runtime) is None:
        venv = Path(os.sys.executable).parent / runtime  # type: ignore[attr-defined]
        if not venv.exists():
            pytest.skip(f"{runtime} is not installed")
        runtime = str(venv)
    yield from _lab(short_dir, rootfs, runtime)


def _lab(directory: Path, rootfs: Path, runtime: str) -> Iterator[Lab]:
    before = set(os.listdir("/sys/fs/cgroup/pids")) if os.path.isdir("/sys/fs/cgroup/pids") else set()
    lab = Lab(directory, rootfs, runtime)
    try:
        yield lab
    finally:
        lab.close()
    assert _processes_of(directory) == []
    after = set(os.listdir("/sys/fs/cgroup/pids")) if before else set()
    assert not {name for name in after - before if lab.name in name}
