# SPDX-License-Identifier: Apache-2.0
"""Containers whose control groups systemd makes: ours beside Debian's runc, with a systemd in namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from support.bundles import BUSYBOX, COMMANDS, eventually
from support.systemd import Systemd, why_not

pytestmark = pytest.mark.root
MIB = 1 << 20
RESOURCES = {
    "devices": [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
    ],
    "memory": {"limit": 64 * MIB, "swap": 96 * MIB},
    "cpu": {"shares": 512, "quota": 12500, "period": 50000, "cpus": "0", "mems": "0"},
    "pids": {"limit": 1},
}
SHOWN = (
    "ActiveState", "Slice", "Delegate", "ControlGroup", "MemoryLimit", "MemoryMax", "MemorySwapMax", "TasksMax",
    "CPUShares", "CPUWeight", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "DevicePolicy", "DefaultDependencies",
    "AllowedCPUs", "AllowedMemoryNodes", "MemoryAccounting", "TasksAccounting",
)  # fmt: skip
FILES = (
    "memory/{}/memory.limit_in_bytes", "memory/{}/memory.memsw.limit_in_bytes", "pids/{}/pids.max",
    "cpu/{}/cpu.shares", "cpu/{}/cpu.cfs_quota_us", "cpu/{}/cpu.cfs_period_us", "cpuset/{}/cpuset.cpus",
    "{}/memory.max", "{}/memory.swap.max", "{}/pids.max", "{}/cpu.max", "{}/cpu.weight", "{}/cpuset.cpus",
)  # fmt: skip


@pytest.fixture(scope="module", params=["hybrid", "unified"])
def systemd(request: pytest.FixtureRequest) -> Iterator[Systemd]:
    if reason := why_not(request.param):
        pytest.skip(reason)
    made = Systemd(request.param)
    yield made
    made.close()


@pytest.fixture(params=["orlop-runc", pytest.param("runc", marks=pytest.mark.original)])
def runtime(request: pytest.FixtureRequest) -> str:
    if not os.path.exists(COMMANDS[request.param]):
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


class Bench:
    """Containers of one runtime in one systemd."""

    def __init__(self, systemd: Systemd, runtime: str) -> None:
        self.systemd, self.runtime = systemd, runtime
        self.bundle = "/tmp/bundle"
        self.rootfs = f"{systemd.root}{self.bundle}/rootfs"
        if not os.path.isdir(self.rootfs):
            for name in ("bin", "proc", "dev", "sys"):
                os.makedirs(f"{self.rootfs}/{name}")
            systemd("cp", BUSYBOX, f"{self.bundle}/rootfs/bin/busybox")
            for name in ("sh", "sleep", "cat", "dd"):
                os.symlink("busybox", f"{self.rootfs}/bin/{name}")

    def __call__(self, *words: str, check: bool = True) -> Any:
        return self.systemd(
            COMMANDS[self.runtime], "--root", "/run/containers", "--systemd-cgroup", *words, check=check
        )

    def write(self, path: str, *args: str, resources: dict[str, Any] | None = None, **annotations: str) -> None:
        spec = {
            "ociVersion": "1.0.2",
            "annotations": {f"org.systemd.property.{name}": value for name, value in annotations.items()},
            "process": {"cwd": "/", "args": args, "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "cgroupsPath": path,
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup")],
                "resources": resources or {},
            },
        }
        with open(f"{self.systemd.root}{self.bundle}/config.json", "w", encoding="utf-8") as file:
            json.dump(spec, file)

    def group_values(self, group: str) -> dict[str, str]:
        found = {}
        for name in FILES:
            with contextlib.suppress(OSError):
                path = f"{self.systemd.root}/sys/fs/cgroup/{name.format(group.strip('/'))}"
                with open(path, encoding="ascii") as file:
                    found[name] = file.read().strip()
        return found

    def groups_left(self, unit: str) -> str:
        return str(self.systemd("find", "/sys/fs/cgroup", "-name", unit, check=False).out)


def fitting(systemd: Systemd) -> dict[str, Any]:
    """The limits that the control groups of this systemd have controllers for."""
    if systemd.mode == "hybrid" or os.path.exists(f"{systemd.root}/sys/fs/cgroup/memory.stat"):
        return RESOURCES
    return {"devices": RESOURCES["devices"]}


def test_life_of_a_scope(systemd: Systemd, runtime: str) -> None:
    bench = Bench(systemd, runtime)
    bench.write("system.slice:box:life", "sleep", "100", resources=fitting(systemd))
    bench("create", "--bundle", bench.bundle, "life")
    try:
        assert systemd.show("box-life.scope", "ActiveState", "ControlGroup", "Slice") == {
            "ActiveState": "active", "ControlGroup": "/system.slice/box-life.scope", "Slice": "system.slice",
        }  # fmt: skip
        bench("start", "life")
        pid = json.loads(bench("state", "life").out)["pid"]
        # Its cgroup namespace begins at the scope, and it is all that is in there.
        groups = [line.split(":") for line in systemd.read(f"/proc/{pid}/cgroup").splitlines()]
        inside = {path for _, names, path in groups if systemd.mode == "hybrid" or not names}
        assert inside == {"/system.slice/box-life.scope"}
        assert json.loads(bench("ps", "--format", "json", "life").out) == [pid]
        if "pids" in fitting(systemd):
            bench("update", "--pids-limit", "20", "--memory", str(80 * MIB), "life")
            assert systemd.show("box-life.scope", "TasksMax") == {"TasksMax": "20"}
        systemd("systemctl", "daemon-reload")
        assert bench("exec", "life", "cat", "/proc/self/cgroup").out.count(":/\n") >= 1
        bench("pause", "life")
        assert json.loads(bench("state", "life").out)["status"] == "paused"
        bench("resume", "life")
        systemd("systemctl", "kill", "--signal=KILL", "box-life.scope")
        eventually(lambda: json.loads(bench("state", "life").out)["status"] == "stopped", "it still runs")
    finally:
        bench("delete", "--force", "life")
    assert systemd.show("box-life.scope", "LoadState") == {"LoadState": "not-found"}
    assert bench.groups_left("box-life.scope") == ""


def test_the_same_properties_and_values_as_runc(systemd: Systemd) -> None:
    found = []
    for name in ("runc", "orlop-runc"):
        if not os.path.exists(COMMANDS[name]):
            pytest.skip(f"{name} is not installed")
        bench = Bench(systemd, name)
        bench.write("a-b.slice:box:same", "sleep", "100", resources=fitting(systemd))
        bench("run", "--detach", "--bundle", bench.bundle, "same")
        try:
            shown = systemd.show("box-same.scope", *SHOWN)
            found.append([shown, bench.group_values(shown["ControlGroup"])])
            if "pids" in fitting(systemd):
                bench("update", "--pids-limit", "-1", "--cpu-quota", "25000", "same")
                found[-1] += [systemd.show("box-same.scope", *SHOWN), bench.group_values(shown["ControlGroup"])]
        finally:
            bench("delete", "--force", "same")
    theirs, ours = found
    assert theirs[0]["ControlGroup"] == "/a.slice/a-b.slice/box-same.scope"
    if systemd.mode == "unified":
        # On version 2 our own program decides alone; systemd's beside it could say less than ours.
        assert {values.pop("DevicePolicy") for values in ours[::2]} == {"auto"}
        assert {values.pop("DevicePolicy") for values in theirs[::2]} == {"strict"}
        for values in (*ours, *theirs):  # Debian's runc has the line that newer ones have bent into a curve
            values.pop("CPUWeight", None)
            values.pop("{}/cpu.weight", None)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == other


ANNOTATIONS = {
    "TimeoutStopSec": "12", "RuntimeMaxUSec": "uint64 600000000", "CollectMode": "'inactive-or-failed'",
    "After": "['dbus.socket']", "SendSIGHUP": "true", "Description": "'a box'", "TasksMax": "@t 33",
    "Documentation": "@as []", "IPAccounting": "boolean false",
}  # fmt: skip


def test_annotations_are_properties(systemd: Systemd, runtime: str) -> None:
    bench = Bench(systemd, runtime)
    bench.write("system.slice:box:noted", "sleep", "100", **ANNOTATIONS)
    bench("run", "--detach", "--bundle", bench.bundle, "noted")
    try:
        shown = systemd.show("box-noted.scope", "TimeoutStopUSec", "RuntimeMaxUSec", "CollectMode", "After",
                             "SendSIGHUP", "Description", "TasksMax")  # fmt: skip
        assert "dbus.socket" in shown.pop("After").split()
        assert shown == {
            "TimeoutStopUSec": "12s", "RuntimeMaxUSec": "10min", "CollectMode": "inactive-or-failed",
            "SendSIGHUP": "yes", "Description": "a box", "TasksMax": "33",
        }  # fmt: skip
    finally:
        bench("delete", "--force", "noted")


@pytest.mark.parametrize(("name", "value"), [("NoSuchThing", "true"), ("TasksMax", "'many'"), ("TasksMax", "[")])
def test_annotations_that_systemd_does_not_know_are_refused(
    systemd: Systemd, runtime: str, name: str, value: str
) -> None:
    bench = Bench(systemd, runtime)
    bench.write("system.slice:box:noted", "sleep", "100", **{name: value})
    refused = bench("run", "--detach", "--bundle", bench.bundle, "noted", check=False)
    assert refused.status == 1
    # runc does not tell which property is of the wrong type.
    assert name in refused.err or runtime == "runc"
    assert systemd.show("box-noted.scope", "LoadState") == {"LoadState": "not-found"}
    assert bench.groups_left("box-noted.scope") == ""


def test_a_creation_that_fails_leaves_no_unit(systemd: Systemd) -> None:
    bench = Bench(systemd, "orlop-runc")
    bench.write(":box:bad", "/no/such/program")
    result = bench("create", "--bundle", bench.bundle, "bad", check=False)
    assert result.status == 1 and "no such file" in result.err
    assert systemd.show("box-bad.scope", "LoadState") == {"LoadState": "not-found"}
    assert bench.groups_left("box-bad.scope") == ""
    for path, text in (("/docker/x", "slice:prefix:name"), ("no:box:bad", "invalid slice name: no")):
        bench.write(path, "sleep", "100")
        assert text in bench("create", "--bundle", bench.bundle, "bad", check=False).err


def test_a_name_in_use_is_refused_and_left_alone(systemd: Systemd) -> None:
    bench = Bench(systemd, "orlop-runc")
    bench.write(":box:twice", "sleep", "100")
    bench("run", "--detach", "--bundle", bench.bundle, "one")
    try:
        result = bench("run", "--detach", "--bundle", bench.bundle, "two", check=False)
        assert result.status == 1 and "cannot start systemd unit box-twice.scope" in result.err
        assert json.loads(bench("state", "one").out)["status"] == "running"
    finally:
        bench("delete", "--force", "one")


def test_what_a_failed_scope_leaves_is_cleared(systemd: Systemd) -> None:
    if "memory" not in fitting(systemd):
        pytest.skip("no memory controller in this mode")
    bench = Bench(systemd, "orlop-runc")
    limits = {"memory": {"limit": 8 * MIB, "swap": 8 * MIB}}
    bench.write(":box:oom", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", resources=limits)
    result = bench("run", "--bundle", bench.bundle, "oom", check=False)
    assert result.status == 128 + signal.SIGKILL
    assert systemd.show("box-oom.scope", "LoadState") == {"LoadState": "not-found"}
    bench.write(":box:oom", "sh", "-c", "echo again")
    assert bench("run", "--bundle", bench.bundle, "oom").out == "again\n"


def test_a_hook_that_kills_the_runtime_leaves_what_delete_removes(systemd: Systemd) -> None:
    """The holder goes with the runtime, and the container's first process too: nothing keeps the scope."""
    bench = Bench(systemd, "orlop-runc")
    bench.write(":box:dead", "sleep", "100")
    path = f"{systemd.root}{bench.bundle}/config.json"
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"]}]}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file)
    assert bench("create", "--bundle", bench.bundle, "dead", check=False).status == -signal.SIGKILL
    eventually(
        lambda: systemd.show("box-dead.scope", "ActiveState")["ActiveState"] != "active",
        "something is in the scope",
    )
    bench("delete", "--force", "dead")
    assert bench.groups_left("box-dead.scope") == ""
