# SPDX-License-Identifier: Apache-2.0
"""Commands of orlop-ctr that Debian's ctr does not have or that need a daemon of ours: shim, sandboxes, pprof."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import images
from support.containerd import Daemon, Result, run, wait_until
from support.registry import Registry, registry

__all__ = ["registry"]

pytestmark = pytest.mark.root

IMAGE = "docker.io/library/busybox:latest"


class Ctr:
    """orlop-ctr on an orlop-containerd with a debug socket."""

    def __init__(self) -> None:
        self.daemon = Daemon("orlop")
        config = Path(f"{self.daemon.base}/config.toml")
        config.write_text(f'version = 2\n[debug]\naddress = "{self.daemon.base}/debug.sock"\n')
        self.daemon.start("-c", str(config))

    def __call__(self, *words: str) -> Result:
        command = [sys.executable, "-P", "-m", "orlop.ctr.main", "-a", self.daemon.address]
        return run([*command, "-n", self.daemon.namespace, *words], stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def ctr() -> Iterator[Ctr]:
    made = Ctr()
    made("images", "import", images.archive("busybox")).ok()
    yield made
    made("images", "rm", "--sync", IMAGE).ok()
    made.daemon.remove()


def test_shim(ctr: Ctr) -> None:
    ctr("containers", "create", "--runtime", "io.containerd.orlop.v2", IMAGE, "box", "sleep", "1000").ok()
    ctr("tasks", "start", "-d", "--null-io", "box").ok()
    state = json.loads(ctr("shim", "--id", "box", "state").ok())
    assert (state["id"], state["status"]) == ("box", 2)
    assert json.loads(ctr("shim", "--id", "box", "state", "--api-version", "2").ok()) == state
    kept = Path(f"{ctr.daemon.base}/kept")
    words = ["--env", "A=b", "--cwd", "/bin", "--stdout", f"file://{kept}", "/bin/sh", "-c", "echo $A; pwd"]
    assert ctr("shim", "--id", "box", "exec", *words).ok().startswith("exec running with pid ")
    wait_until(lambda: kept.read_text() == "b\n/bin\n")
    assert ctr("shim", "--id", "box", "delete").status == 1
    ctr("shim", "--id", "box", "shutdown").ok()  # it still has a task, and stays
    assert json.loads(ctr("shim", "--id", "box", "state").ok())["status"] == 2
    ctr("tasks", "rm", "-f", "box")
    ctr("containers", "rm", "box").ok()
    assert "container id must be specified" in ctr("shim", "state").err
    assert ctr("shim", "--id", "box", "state").status == 1


def test_sandboxes(ctr: Ctr, tmp_path: Path) -> None:
    assert ctr("sandboxes", "ls").ok().split() == ["NAME", "CREATED", "RUNTIME"]
    config = tmp_path / "pod.json"
    config.write_text("{}")
    # Our shim, as that of runc, has no sandboxes: nothing is left of the attempt.
    assert ctr("sandboxes", "run", "--runtime", "io.containerd.orlop.v2", str(config), "pod").status == 1
    assert len(ctr("sb", "ls").ok().splitlines()) == 1
    assert "not found" in ctr("s", "info", "pod").err
    config.write_text("{")
    assert "pod.json" in ctr("sandboxes", "create", str(config), "pod").err


def test_pprof(ctr: Ctr) -> None:
    socket = f"{ctr.daemon.base}/debug.sock"
    assert "asyncio" in ctr("pprof", "--debug-socket", socket, "goroutines").ok()
    assert ctr("pprof", "-d", socket, "heap").ok()
    assert ctr("pprof", "--debug-socket", socket, "threadcreate").status == 1  # of Go alone


def test_namespace_without_its_cgroup(ctr: Ctr) -> None:
    ctr("ns", "create", "other").ok()
    assert ctr("ns", "rm", "--cgroup", "other").ok() == "other\n"
    assert "without slashes" in ctr("ns", "rm", "--cgroup", "../x").err


@pytest.mark.parametrize("runtime", ["io.containerd.orlop.v2", "io.containerd.runc.v2"])
def test_inspect_runtime(ctr: Ctr, runtime: str) -> None:
    done = ctr("plugins", "inspect-runtime", "--runtime", runtime)
    if runtime.endswith("runc.v2"):  # Debian's shim is older than -info
        assert done.status == 1
    else:
        info = json.loads(done.ok())
        assert info["Name"] == runtime
        assert info["Features"]["linux"]["cgroup"]["v1"] is True


def test_pull_prints_the_chain(ctr: Ctr, registry: Registry) -> None:
    name = registry.push(images.busybox(), "test/chain:1")
    out = ctr("images", "pull", "--local", "--plain-http", "--print-chainid", name).ok()
    chain = out.splitlines()[-1].removeprefix("image chain ID: ")
    assert chain in ctr("snapshots", "ls").ok()
    ctr("images", "rm", "--sync", name).ok()
