# SPDX-License-Identifier: Apache-2.0
"""Commands of orlop-ctr that Debian's ctr does not have or that need a daemon of ours: shim, sandboxes, pprof."""

from __future__ import annotations

import json
import os
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
        os.chmod(self.daemon.base, 0o711)  # containers with mapped ids have to get to their root file systems
        config = Path(f"{self.daemon.base}/config.toml")
        config.write_text(f'version = 2\n[debug]\naddress = "{self.daemon.base}/debug.sock"\n')
        self.daemon.start("-c", str(config))
        self.command = [sys.executable, "-P", "-m", "orlop.ctr.main", "-a", self.daemon.address]
        self.command += ["-n", self.daemon.namespace]

    def __call__(self, *words: str) -> Result:
        return run([*self.command, *words], stdin=subprocess.DEVNULL, timeout=120)


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
    attached = ctr("shim", "--id", "box", "exec", "--attach", "/bin/sh", "-c", "echo here; exit 4")
    assert (attached.status, attached.out) == (4, "here\n")
    assert "our own" in ctr("shim", "--id", "box", "exec", "-a", "--stdout", "x", "/bin/true").err
    assert "shim/debug.py" in ctr("shim", "--id", "box", "pprof", "goroutines").ok()
    assert "builtins.dict" in ctr("shim", "--id", "box", "pprof", "heap").ok()
    assert "501" in ctr("shim", "--id", "box", "pprof", "profile", "--seconds", "1s").err  # of Go alone
    assert "container id must be provided" in ctr("shim", "pprof", "goroutines").err
    assert "dial unix" in ctr("shim", "--id", "none", "pprof", "heap").err
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


BRIDGE = """{{
  "cniVersion": "0.4.0", "name": "tests", "plugins": [
    {{"type": "ptp", "ipam": {{"type": "host-local", "subnet": "10.91.0.0/24", "dataDir": "{data}"}}}},
    {{"type": "tuning", "sysctl": {{"net.ipv4.conf.eth0.arp_ignore": "1"}}}}]
}}"""


def test_cni(ctr: Ctr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's plugins connect a container to a network namespace of the test's, and take it off again."""
    (tmp_path / "10-tests.conflist").write_text(BRIDGE.format(data=tmp_path / "data"))
    monkeypatch.setenv("NETCONFPATH", str(tmp_path))
    outer = f"ctr{os.getpid()}"
    subprocess.run(["ip", "netns", "add", outer], check=True)
    try:
        words = ["run", "--rm", "--cni", "--runtime", "io.containerd.orlop.v2", IMAGE, "cni"]
        script = "ip -4 -o addr show eth0; cat /proc/sys/net/ipv4/conf/eth0/arp_ignore"
        done = run(["ip", "netns", "exec", outer, *ctr.command, *words, "sh", "-c", script], timeout=120)
        assert "inet 10.91.0." in done.ok() and done.out.splitlines()[-1] == "1"
        left = subprocess.run(["ip", "-n", outer, "-o", "link"], capture_output=True, text=True, check=True)
        assert "veth" not in left.stdout
        assert not [path for path in (tmp_path / "data/tests").iterdir() if path.name.startswith("10.")]
        assert "cannot be specified together" in ctr(*words[:3], "--net-host", *words[3:]).err
    finally:
        subprocess.run(["ip", "netns", "del", outer], check=True)


def test_what_stands_in_the_way_of_cni(ctr: Ctr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETCONFPATH", str(tmp_path))
    words = ("run", "--rm", "--cni", "--runtime", "io.containerd.orlop.v2", IMAGE, "cni", "true")
    assert f"no network config found in {tmp_path}" in ctr(*words).err
    (tmp_path / "net.conf").write_text('{"name": "tests", "type": "no-such-plugin"}')
    assert "failed to find plugin 'no-such-plugin'" in ctr(*words).err
    (tmp_path / "net.conf").write_text('{"type": "ptp"}')
    assert "net.conf: name: expected a text" in ctr(*words).err
    assert ctr("tasks", "ls", "-q").ok() + ctr("containers", "ls", "-q").ok() == ""


def test_mapped_ids(ctr: Ctr, tmp_path: Path) -> None:
    """The image's files belong to the container's root, by a change of owners or by the snapshotter."""
    flags = ("--runtime", "io.containerd.orlop.v2", "--uidmap", "0:70000:65536", "--gidmap", "0:80000:65536")
    for more in ((), ("--remap-labels",)):
        script = "stat -c %u:%g /bin/busybox; touch /mine; cat /proc/self/uid_map"
        done = ctr("run", "--rm", *flags, *more, IMAGE, "mapped", "sh", "-c", script)
        assert done.ok().split() == ["0:0", "0", "70000", "65536"]
    assert "expected both" in ctr("run", "--rm", *flags[:4], IMAGE, "mapped", "true").err
    config = tmp_path / "config.json"
    ctr("run", "--rm", *flags, "--dump-config", str(config), IMAGE, "mapped", "true").ok()
    assert json.loads(config.read_text())["linux"]["uidMappings"] == [
        {"containerID": 0, "hostID": 70000, "size": 65536}
    ]


def test_defaults(ctr: Ctr) -> None:
    """A namespace's label names its snapshotter, an image the signal that ends its containers."""
    ctr("ns", "label", ctr.daemon.namespace, "containerd.io/defaults/snapshotter=native").ok()
    ctr("containers", "create", IMAGE, "of-native", "true").ok()
    ctr("ns", "label", ctr.daemon.namespace, "containerd.io/defaults/snapshotter=").ok()
    assert json.loads(ctr("containers", "info", "of-native").ok())["Snapshotter"] == "native"
    ctr("containers", "rm", "of-native").ok()
    script = "trap 'exit 7' INT; echo ready; while :; do sleep 0.1; done"
    label = "io.containerd.image.config.stop-signal=SIGINT"
    kept = Path(f"{ctr.daemon.base}/trapped")
    flags = ("-d", "--runtime", "io.containerd.orlop.v2", "--log-uri", f"file://{kept}")
    ctr("run", *flags, IMAGE, "trap", "sh", "-c", script).ok()
    ctr("containers", "label", "trap", label).ok()
    wait_until(lambda: kept.exists() and "ready" in kept.read_text())
    ctr("tasks", "kill", "trap").ok()
    wait_until(lambda: "STOPPED" in ctr("tasks", "ls").ok())
    assert "non-zero exit code 7" in ctr("tasks", "rm", "trap").err
    ctr("containers", "rm", "trap").ok()


def test_refused_flags(ctr: Ctr) -> None:
    for flags, complaint in (
        (("--gpus", "0"), "gpus: no file in"),
        (("--device", "vendor.example/none=1"), "unresolvable CDI devices vendor.example/none=1"),
        (("--blockio-class", "slow"), "blockio-class"),
    ):
        done = ctr("run", "--rm", *flags, IMAGE, "no", "true")
        assert (done.status, complaint in done.err) == (1, True), done.err
    assert ctr("containers", "ls", "-q").ok() == ""
