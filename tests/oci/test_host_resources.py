# SPDX-License-Identifier: Apache-2.0
"""What a container takes from the host: network devices, classes of cache and memory bandwidth; personality."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from support.bundles import BUSYBOX, COMMANDS, Bundle, Runtime

from orlop.codec import convert
from orlop.errdefs import FailedPreconditionError, InvalidArgumentError
from orlop.libcontainer import Container, CreateOptions, intel_rdt
from orlop.oci.runtime import Resources, Spec

pytestmark = pytest.mark.root

_DEVICES = """
ip link add name left type veth peer name right
ip addr add 10.9.8.7/24 dev left
ip -6 addr add fd00:9::7/64 dev left
ip link set left up
"""


def _in_a_network(ours: Runtime, bundle: Bundle, after: str = "true") -> subprocess.CompletedProcess[str]:
    """Run the container from a network namespace that has a pair of devices; then `after` in that namespace."""
    container = ours.new_id(bundle)
    bundle.write()
    run = f"{COMMANDS['orlop-runc']} --root {ours.root} run --bundle {bundle.path} {container}"
    script = f"set -e{_DEVICES}status=0; {run} || status=$?\n{after}\nexit $status"
    return subprocess.run(
        ["unshare", "--net", "sh", "-c", script.replace("\nip ", f"\n{BUSYBOX} ip ")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("user_namespace", [False, True])
def test_a_network_device_moves_with_its_addresses(ours: Runtime, bundle: Bundle, user_namespace: bool) -> None:
    bundle.linux["netDevices"] = {"left": {"name": "eth0"}}
    if user_namespace:
        bundle.linux["namespaces"].append({"type": "user"})
        for kind in ("uidMappings", "gidMappings"):
            bundle.linux[kind] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    done = _in_a_network(ours, bundle.args("ip -o link show eth0; ip -o addr show eth0"))
    assert done.returncode == 0, done.stderr
    assert "eth0" in done.stdout
    assert ",UP" in done.stdout
    assert "inet 10.9.8.7/24" in done.stdout
    assert "inet6 fd00:9::7/64" in done.stdout


def test_a_network_device_keeps_its_name_and_leaves_the_host(ours: Runtime, bundle: Bundle) -> None:
    bundle.linux["netDevices"] = {"left": {}}
    # A veth goes with its network namespace: both ends are gone once the container is.
    done = _in_a_network(ours, bundle.args("ls /sys/class/net"), "! ls /sys/class/net | grep left")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["left", "lo"]


def test_a_name_that_is_taken_is_an_error(ours: Runtime, bundle: Bundle) -> None:
    bundle.linux["netDevices"] = {"left": {"name": "lo"}}
    done = _in_a_network(ours, bundle.args("true", ""))
    assert done.returncode == 1
    assert "linux.netDevices: cannot move left as lo: file exists" in done.stderr


@pytest.fixture
def resctrl(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[str]:
    """A directory that looks like a resctrl filesystem: a new class has its files at once and goes as a whole."""
    root = tmp_path / "resctrl"
    (root / "info" / "L3").mkdir(parents=True)
    (root / "info" / "MB").mkdir()
    (root / "info" / "last_cmd_status").write_text("ok\n")
    mkdir, makedirs = os.mkdir, os.makedirs

    def fill(path: str) -> None:
        for name in ("tasks", "schemata"):
            with open(f"{path}/{name}", "w", encoding="utf-8"):
                pass

    def make(path: str, *args: int, **options: int) -> None:
        mkdir(path, *args, **options)
        if str(path).startswith(str(root)):
            fill(path)

    def make_all(path: str, *args: int, **options: bool) -> None:
        makedirs(path, *args, **options)
        if str(path).startswith(str(root)):
            fill(path)

    rmdir = os.rmdir

    def remove(path: str, **options: int) -> None:
        if str(path).startswith(str(root)):
            for name in os.listdir(path):
                entry = f"{path}/{name}"
                remove(entry) if os.path.isdir(entry) else os.unlink(entry)
        rmdir(path, **options)

    monkeypatch.setattr(intel_rdt, "mountpoint", lambda: str(root))
    monkeypatch.setattr(os, "mkdir", make)
    monkeypatch.setattr(os, "makedirs", make_all)
    monkeypatch.setattr(os, "rmdir", remove)
    yield str(root)
    monkeypatch.undo()


def _create(ours: Runtime, bundle: Bundle) -> Container:
    container_id = ours.new_id(bundle.args("sleep", "100"))
    return Container.create(ours.root, container_id, bundle.path, convert(bundle.spec, Spec), CreateOptions())


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _end(container: Container) -> None:
    pid = container.init_pid
    container.delete(force=True)
    os.waitpid(pid, 0)


def test_a_class_of_its_own(ours: Runtime, bundle: Bundle, resctrl: str) -> None:
    bundle.linux["intelRdt"] = {
        "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20", "schemata": ["L2:0=3"], "enableMonitoring": True,
    }  # fmt: skip
    container = _create(ours, bundle)
    path = f"{resctrl}/{container.id}"
    assert _read(f"{path}/schemata") == "L3:0=f\nMB:0=20\nL2:0=3\n"
    assert _read(f"{path}/tasks") == str(container.init_pid)
    assert _read(f"{path}/mon_groups/{container.id}/tasks") == str(container.init_pid)
    Container.load(ours.root, container.id).update(Resources(), "L3:0=1")
    assert _read(f"{path}/schemata").startswith("L3:0=1\n")
    _end(container)
    assert not os.path.exists(path)


def test_a_class_that_is_named_stays(ours: Runtime, bundle: Bundle, resctrl: str) -> None:
    os.mkdir(f"{resctrl}/gold")
    bundle.linux["intelRdt"] = {"closID": "gold"}
    container = _create(ours, bundle)
    assert _read(f"{resctrl}/gold/tasks") == str(container.init_pid)
    _end(container)
    assert os.path.isdir(f"{resctrl}/gold")


def test_a_named_class_without_schemata_must_be_there(ours: Runtime, bundle: Bundle, resctrl: str) -> None:
    bundle.linux["intelRdt"] = {"closID": "silver"}
    with pytest.raises(InvalidArgumentError, match=r"linux\.intelRdt\.closID: .*/silver has to be there"):
        _create(ours, bundle)
    assert not os.path.exists(f"{resctrl}/silver")
    assert os.listdir(ours.root) == []


def test_the_kernels_words_about_schemata_are_passed_on(
    ours: Runtime, bundle: Bundle, resctrl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(f"{resctrl}/info/last_cmd_status", "w", encoding="utf-8") as file:
        file.write("Mask 0 has no bits\n")

    def refuse(path: str, text: str) -> None:
        raise OSError(22, "Invalid argument", path)

    monkeypatch.setattr(intel_rdt, "_write", refuse)
    bundle.linux["intelRdt"] = {"l3CacheSchema": "L3:0=0"}
    with pytest.raises(InvalidArgumentError, match=r"linux\.intelRdt: L3:0=0: Mask 0 has no bits"):
        _create(ours, bundle)
    assert os.listdir(resctrl) == ["info"]


def test_without_resctrl_it_is_said(ours: Runtime, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intel_rdt, "mountpoint", lambda: "")
    bundle.linux["intelRdt"] = {"l3CacheSchema": "L3:0=f"}
    with pytest.raises(FailedPreconditionError, match=r"linux\.intelRdt: resctrl is not mounted"):
        _create(ours, bundle)
    assert os.listdir(ours.root) == []


def test_personality(ours: Runtime, bundle: Bundle) -> None:
    bundle.linux["personality"] = {"domain": "LINUX32"}
    assert ours.run(bundle.args("cat /proc/self/personality")).ok() == "00000008\n"


def test_personality_flags_are_warned_about(ours: Runtime, bundle: Bundle) -> None:
    bundle.linux["personality"] = {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}
    result = ours.run(bundle.args("cat /proc/self/personality"))
    assert result.ok() == "00000000\n"
    assert "linux.personality.flags: ignored: ADDR_NO_RANDOMIZE" in result.message
