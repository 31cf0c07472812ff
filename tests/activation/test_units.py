# SPDX-License-Identifier: Apache-2.0
"""The daemons as units of a real systemd: installed, activated by a client, restarted, removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest
from support.bundles import eventually
from support.systemd import Systemd, why_not
from support.systemd_stack import BIN, Machine

pytestmark = pytest.mark.root
UNITS = ("orlop.socket", "orlop.service", "orlop-containerd.service", "orlop-netd.service")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    mode = "hybrid" if os.path.isdir("/sys/fs/cgroup/memory") else "unified"
    if reason := why_not(mode):
        pytest.skip(reason)
    systemd = Systemd(mode)
    try:
        yield Machine(systemd)
    finally:
        systemd.close()


@pytest.fixture
def installed(machine: Machine) -> Iterator[Machine]:
    """Units and a socket that listens; no daemon yet."""
    machine.orlop("daemon", "install")
    yield machine
    if machine("test", "-e", "/etc/systemd/system/orlop.socket", check=False).status == 0:
        machine.orlop("daemon", "uninstall")


def test_what_is_installed_is_sound(installed: Machine) -> None:
    paths = [f"/etc/systemd/system/{name}" for name in UNITS]
    verified = installed("systemd-analyze", "verify", "--man=no", *paths)
    assert [line for line in verified.err.splitlines() if "orlop" in line] == []
    enabled = installed("systemctl", "is-enabled", *UNITS[:2]).out.split()
    assert enabled == ["enabled", "enabled"]


def test_a_client_starts_the_daemons(installed: Machine) -> None:
    assert installed.state("orlop.socket") == "active"
    assert {installed.state(unit) for unit in UNITS[1:]} == {"inactive"}
    shown = installed.orlop("daemon", "status", check=False).out
    assert "dockerd      stopped, socket listening" in shown
    docker = shutil.which("docker") or str(BIN / "orlop")
    ps = installed("env", "DOCKER_HOST=unix:///run/orlop/docker.sock", docker, "ps")
    assert ps.out.startswith("CONTAINER ID")
    assert {installed.state(unit) for unit in UNITS} == {"active"}
    status = installed.orlop("daemon", "status").out
    assert status.count("running") == 3 and str(installed.pid("orlop.service")) in status


def test_restarts_leave_containers_alone(installed: Machine) -> None:
    installed.load_busybox()
    name = installed.orlop("run", "-d", "--restart", "no", "busybox", "sleep", "1000").out.strip()
    try:
        before = json.loads(installed.orlop("inspect", name).out)[0]["State"]
        for unit in ("orlop.service", "orlop-containerd.service", "orlop-netd.service"):
            pid = installed.pid(unit)
            installed("systemctl", "restart", unit)
            assert installed.pid(unit) not in (0, pid)
            assert json.loads(installed.orlop("inspect", name).out)[0]["State"] == before, unit
        # a crash of what systemd watches
        pid = installed.pid("orlop-containerd.service")
        installed("kill", "-9", str(pid))
        eventually(lambda: installed.pid("orlop-containerd.service") not in (0, pid), "it is not started again")
        installed.orlop("daemon", "start", "containerd")
        installed.orlop("daemon", "restart")
        assert installed.orlop("exec", name, "echo", "alive").out == "alive\n"
        installed.orlop("daemon", "stop")
        assert {installed.state(unit) for unit in UNITS} == {"inactive"}
        assert installed("test", "-d", f"/proc/{before['Pid']}", check=False).status == 0
        installed.orlop("daemon", "start")
        assert json.loads(installed.orlop("inspect", name).out)[0]["State"] == before
    finally:
        installed.orlop("rm", "-f", name)


def test_uninstalled_without_a_trace(installed: Machine) -> None:
    installed.orlop("ps")
    installed.orlop("daemon", "uninstall")
    assert {installed.systemd.show(unit, "LoadState")["LoadState"] for unit in UNITS} == {"not-found"}
    listed = installed("find", "/etc/systemd", "/run/orlop", "-name", "orlop*", "-o", "-name", "docker.sock").out
    assert [line for line in listed.splitlines() if line.endswith((".service", ".socket", "docker.sock"))] == []
    assert installed("systemctl", "list-units", "--all", "--no-legend", "orlop.*", "orlop-[cn]*").out == ""
    processes = installed("ps", "-eo", "args").out
    assert str(BIN) not in processes


def test_nothing_is_installed_where_other_units_are(machine: Machine) -> None:
    machine("sh", "-c", "echo [Service] > /etc/systemd/system/orlop.service")
    try:
        refused = machine.orlop("daemon", "install", check=False)
        assert refused.status == 1 and "orlop.service was not made by" in refused.err
        assert machine("test", "-e", "/etc/systemd/system/orlop.socket", check=False).status == 1
    finally:
        machine("rm", "/etc/systemd/system/orlop.service")
    refused = machine.orlop("daemon", "uninstall", check=False)
    assert refused.status == 1 and "nothing is installed" in refused.err


def test_the_supervisor_serves_where_nothing_is_installed(machine: Machine) -> None:
    """A machine with systemd, and only `orlop daemon start`."""
    machine.orlop("daemon", "start")
    try:
        refused = machine.orlop("daemon", "install", check=False)
        assert refused.status == 1 and "the daemons run without systemd" in refused.err
        assert machine.orlop("ps").out.startswith("CONTAINER ID")
    finally:
        machine.orlop("daemon", "stop")
