# SPDX-License-Identifier: Apache-2.0
"""What `linux.resources` and `update` set, as the kernel shows it; properties.tsv tells which test sees what."""

from __future__ import annotations

import contextlib
import json
import os

import pytest
from support.bundles import Bundle, Runtime, give_real_time

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.isdir("/sys/fs/cgroup/memory"), reason="no control groups of version 1 here"),
]

MIB = 1 << 20
_PARENT = "/sys/fs/cgroup/{}/orlop-oci"


def _value(container: str, file: str) -> str:
    with open(f"{_PARENT.format(file.partition('.')[0])}/{container}/{file}", encoding="utf-8") as opened:
        return opened.read().strip()


def _values(container: str, files: dict[str, str]) -> dict[str, str]:
    return {file: _value(container, file) for file in files}


def test_each_limit_is_in_its_file(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["resources"] |= {
        "cpu": {"shares": 333, "period": 50000, "quota": 25000, "burst": 1000, "cpus": "0", "mems": "0"},
        "memory": {"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB, "swappiness": 7,
                   "disableOOMKiller": True, "useHierarchy": True, "checkBeforeUpdate": True},
        "pids": {"limit": 44},
        "blockIO": {"weight": 77},
    }  # fmt: skip
    if runtime.name == "crun":
        del bundle.linux["resources"]["blockIO"]  # it writes to a file that kernels had until 5.0
    wanted = {
        "cpu.shares": "333", "cpu.cfs_period_us": "50000", "cpu.cfs_quota_us": "25000", "cpu.cfs_burst_us": "1000",
        "cpuset.cpus": "0", "cpuset.mems": "0", "memory.limit_in_bytes": str(64 * MIB),
        "memory.soft_limit_in_bytes": str(32 * MIB), "memory.memsw.limit_in_bytes": str(96 * MIB),
        "memory.swappiness": "7", "pids.max": "44", "blkio.bfq.weight": "77",
    }  # fmt: skip
    if runtime.name == "crun":
        del wanted["blkio.bfq.weight"]
    container = runtime.start(bundle.args("sleep", "100"))
    found = _values(container, wanted)
    if not runtime.is_ours and found["cpu.cfs_burst_us"] == "0":
        del found["cpu.cfs_burst_us"], wanted["cpu.cfs_burst_us"]  # an older original, which does not know it
    assert found == wanted
    assert _value(container, "memory.oom_control").split()[:2] == ["oom_kill_disable", "1"]


@pytest.mark.parametrize("files", [{"memory.high": "10000000"}, {"memory.high": "1\0"}, {"memory.high\0": "1"}])
def test_files_of_version_2_are_refused(runtime: Runtime, bundle: Bundle, files: dict[str, str]) -> None:
    bundle.linux["resources"]["unified"] = files
    result = runtime.run(bundle.args("true", ""))
    assert result.status == 1
    assert "cannot use unified on cgroup v1" in result.message
    if runtime.is_ours:
        assert "linux.resources.unified" in result.message
        assert os.path.isdir(_PARENT.format("memory") + f"/{runtime.ids[-1]}") is False
        container = runtime.start(runtime.bundle().args("sleep", "100"))
        update = runtime("update", "-r", "-", container, stdin=json.dumps({"unified": files}))
        assert (update.status, "linux.resources.unified" in update.message) == (1, True)
    elif runtime.name == "crun":  # which leaves the groups
        for directory in os.listdir("/sys/fs/cgroup"):
            with contextlib.suppress(OSError):
                os.rmdir(_PARENT.format(directory) + f"/{runtime.ids[-1]}")


def test_idle_time_alone(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["resources"]["cpu"] = {"idle": 1}
    container = runtime.start(bundle.args("sleep", "100"))
    if not runtime.is_ours and _value(container, "cpu.idle") == "0":
        pytest.skip(f"this {runtime.name} does not know cpu.idle")
    assert _value(container, "cpu.idle") == "1"


def test_real_time(runtime: Runtime, bundle: Bundle) -> None:
    """A group gets a part of what its parent has, and a process in it may then be one of real time."""
    if not os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):
        pytest.skip("the kernel does not share real time between groups")
    bundle.linux["resources"]["cpu"] = {"realtimePeriod": 500000, "realtimeRuntime": 5000}
    give_real_time()
    container = runtime.start(bundle.args("sleep", "100"))
    assert _value(container, "cpu.rt_period_us") == "500000"
    assert _value(container, "cpu.rt_runtime_us") == "5000"
    if runtime.name != "crun":
        flags = ("--cpu-rt-period", "400000", "--cpu-rt-runtime", "4000")
        runtime("update", *flags, container).ok()
        assert _value(container, "cpu.rt_period_us") == "400000"
        assert _value(container, "cpu.rt_runtime_us") == "4000"


def test_devices_by_rules(runtime: Runtime, bundle: Bundle) -> None:
    """By type, numbers, a wildcard and kind of access; the last rule decides. A node may be made in any case."""
    bundle.linux["resources"]["devices"] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "access": "rw"},
        {"allow": True, "type": "b", "major": 7, "minor": 5, "access": "rw"},
        {"allow": False, "type": "b", "major": 7, "minor": 5, "access": "w"},
    ]
    nodes = (("fuse", "c", 10, 229), ("loop", "b", 7, 5), ("mem", "c", 1, 1))
    bundle.linux["devices"] = [
        {"path": f"/dev/{name}", "type": kind, "major": major, "minor": minor}
        for name, kind, major, minor in nodes
    ]
    script = """for node in fuse loop mem; do
        (: < /dev/$node) 2>/dev/null && echo r $node
        (: > /dev/$node) 2>/dev/null && echo w $node
    done; echo x > /dev/null && echo null"""
    assert runtime.run(bundle.args(script)).out.split("\n") == ["r fuse", "w fuse", "r loop", "null", ""]


_UPDATED = {
    "cpu.shares": "222", "cpu.cfs_period_us": "40000", "cpu.cfs_quota_us": "30000", "cpuset.cpus": "0",
    "cpuset.mems": "0", "memory.limit_in_bytes": str(48 * MIB), "memory.soft_limit_in_bytes": str(24 * MIB),
    "memory.memsw.limit_in_bytes": str(80 * MIB), "pids.max": "33", "blkio.bfq.weight": "55",
}  # fmt: skip


def test_update_by_flags(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    runtime(
        "update", "--cpu-share", "222", "--cpu-period", "40000", "--cpu-quota", "30000", "--cpuset-cpus", "0",
        "--cpuset-mems", "0", "--memory", str(48 * MIB), "--memory-reservation", str(24 * MIB),
        "--memory-swap", str(80 * MIB), "--pids-limit", "33", container,
    ).ok()  # fmt: skip
    wanted = dict(_UPDATED)
    if runtime.name == "crun":
        del wanted["blkio.bfq.weight"]  # it writes to a file that kernels had until 5.0
    else:
        runtime("update", "--blkio-weight", "55", container).ok()
    assert _values(container, wanted) == wanted


def test_update_by_a_file(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    resources = {
        "cpu": {"shares": 222, "period": 40000, "quota": 30000, "cpus": "0", "mems": "0"},
        "memory": {"limit": 48 * MIB, "reservation": 24 * MIB, "swap": 80 * MIB},
        "pids": {"limit": 33},
    }  # fmt: skip
    wanted = dict(_UPDATED)
    if runtime.name == "crun":
        del wanted["blkio.bfq.weight"]
    else:
        resources["blockIO"] = {"weight": 55}
    path = f"{bundle.path}/resources.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(resources, file)
    runtime("update", "--resources", path, container).ok()
    assert _values(container, wanted) == wanted
    if runtime.name != "crun":
        resources["pids"]["limit"] = 22
        runtime("update", "-r", "-", container, stdin=json.dumps(resources)).ok()
        assert _value(container, "pids.max") == "22"


def test_update_by_flags_of_runc_1_2(ours: Runtime, bundle: Bundle) -> None:
    container = ours.start(bundle.args("sleep", "100"))
    ours("update", "--cpu-quota", "30000", "--cpu-burst", "2000", container).ok()
    assert _value(container, "cpu.cfs_burst_us") == "2000"
    ours("update", "--cpu-idle", "1", container).ok()
    assert _value(container, "cpu.idle") == "1"
    result = ours("update", "--kernel-memory", "1048576", "--kernel-memory-tcp", "1048576", container)
    result.ok()
    assert "Kernel memory settings are ignored" in result.message
