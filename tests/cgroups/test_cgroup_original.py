# SPDX-License-Identifier: Apache-2.0
"""Debian's runc and our manager, given the same limits, leave the same values in the kernel."""

import json
import os
import shutil
import subprocess

import pytest

from orlop import cgroups
from orlop.oci.runtime import decode_spec

RUNC = shutil.which("runc")
BUSYBOX = "/bin/busybox"
pytestmark = [
    pytest.mark.root,
    pytest.mark.original,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
    pytest.mark.skipif(RUNC is None or not os.path.exists(BUSYBOX), reason="needs runc and a static busybox"),
    pytest.mark.skipif(cgroups.mode() == "v2", reason="no version 1 here"),
]

MIB = 1 << 20
RESOURCES = {
    "devices": [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "major": 7, "access": "r"},
        {"allow": True, "type": "c", "major": 4, "minor": 64, "access": "rwm"},
        {"allow": False, "type": "c", "major": 4, "minor": 64, "access": "w"},
    ],
    "memory": {
        "limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB, "swappiness": 17, "disableOOMKiller": True,
    },
    "cpu": {"shares": 333, "quota": 40000, "period": 90000, "cpus": "0", "mems": "0"},
    "pids": {"limit": 23},
}  # fmt: skip
FILES = {
    "cpu": ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "cpuset": ("cpuset.cpus", "cpuset.mems"),
    "memory": (
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.soft_limit_in_bytes",
        "memory.swappiness",
        "memory.oom_control",
    ),
    "pids": ("pids.max",),
    "devices": ("devices.list",),
}
UPDATE = {
    "memory": {"limit": 16 * MIB, "swap": 20 * MIB},
    "cpu": {"quota": 9000, "period": 30000},
    "pids": {"limit": -1},
}


def values(paths):
    found = {}
    for controller, files in FILES.items():
        for name in files:
            with open(f"{paths[controller]}/{name}") as file:
                found[name] = sorted(file.read().split("\n"))
    return found


def specification(path, resources):
    spec = {
        "ociVersion": "1.0.2",
        "process": {"cwd": "/", "args": ["/busybox", "sleep", "60"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": path,
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
            "resources": resources,
        },
    }
    return json.dumps(spec)


@pytest.fixture
def runc(tmp_path):
    (tmp_path / "bundle" / "rootfs" / "proc").mkdir(parents=True)
    shutil.copy(BUSYBOX, tmp_path / "bundle" / "rootfs" / "busybox")

    def call(*arguments):
        command = [RUNC, "--root", str(tmp_path / "state"), *arguments]
        quiet = subprocess.DEVNULL
        done = subprocess.run(command, check=False, timeout=60, stdin=quiet, stdout=quiet, stderr=quiet)
        assert done.returncode == 0, command

    yield call
    call("delete", "--force", f"theirs-{os.getpid()}")


def test_the_same_values(runc, tmp_path):
    parent = f"/orlop-compare-{os.getpid()}"
    theirs, ours = (cgroups.new_manager(f"{parent}/{name}") for name in ("theirs", "ours"))
    (tmp_path / "bundle" / "config.json").write_text(specification(f"{parent}/theirs", RESOURCES))
    name = f"theirs-{os.getpid()}"
    try:
        runc("run", "--detach", "--bundle", str(tmp_path / "bundle"), name)
        ours.create()
        ours.apply(decode_spec(specification("/x", RESOURCES)).linux.resources)
        assert values(ours.paths()) == values(theirs.paths())
        (tmp_path / "update.json").write_text(json.dumps(UPDATE))
        runc("update", "--resources", str(tmp_path / "update.json"), name)
        ours.apply(decode_spec(specification("/x", UPDATE)).linux.resources)
        assert values(ours.paths()) == values(theirs.paths())
        runc("kill", name, "KILL")
        runc("delete", "--force", name)
    finally:
        ours.destroy()
        theirs.destroy()
        cgroups.new_manager(parent).destroy()
        if os.path.exists(f"/sys/fs/cgroup/unified{parent}"):  # runc's on a hybrid system
            cgroups.load_manager({"": f"/sys/fs/cgroup/unified{parent}"}).destroy()
