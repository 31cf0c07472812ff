# SPDX-License-Identifier: Apache-2.0
"""dockerd with `native.cgroupdriver=systemd`: scopes as Docker names them, in a systemd of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from support.bundles import Result
from support.containerd import wait_until
from support.systemd import Systemd, why_not
from support.systemd_stack import Machine

pytestmark = pytest.mark.root
SETTINGS = {"exec-opts": ["native.cgroupdriver=systemd"]}


@pytest.fixture(scope="module", params=["hybrid", "unified"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if reason := why_not(request.param):
        pytest.skip(reason)
    if shutil.which("docker") is None:
        pytest.skip("the docker command is not installed")
    systemd = Systemd(request.param)
    try:
        machine = Machine(systemd)
        configure(machine, SETTINGS)
        machine.orlop("daemon", "install")
        machine.load_busybox()
        yield machine
        machine.orlop("daemon", "uninstall")
    finally:
        systemd.close()


def configure(machine: Machine, settings: dict[str, object]) -> None:
    machine("sh", "-c", f"mkdir -p /etc/orlop && echo '{json.dumps(settings)}' > /etc/orlop/daemon.json")


def docker(machine: Machine, *words: str, check: bool = True) -> Result:
    program = shutil.which("docker") or "docker"
    return machine("env", "DOCKER_HOST=unix:///run/orlop/docker.sock", program, *words, check=check)


def has_memory(machine: Machine) -> bool:
    """On a machine with version 1 the other version has next to no controllers."""
    controllers = machine("sh", "-c", "cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null || echo memory").out
    return "memory" in controllers.split()


def test_a_container_is_a_scope_of_the_system_slice(machine: Machine) -> None:
    assert docker(machine, "info", "-f", "{{.CgroupDriver}}").out == "systemd\n"
    limits = ("-m", "64m", "--cpus", "0.5", "--pids-limit", "20") if has_memory(machine) else ()
    name = docker(machine, "run", "-d", *limits, "busybox", "sleep", "1000").out.strip()
    try:
        unit = f"docker-{name}.scope"
        wanted = ("ActiveState", "Slice", "ControlGroup", "Delegate")
        assert machine.systemd.show(unit, *wanted) == {
            "ActiveState": "active", "Slice": "system.slice", "ControlGroup": f"/system.slice/{unit}",
            "Delegate": "yes",
        }  # fmt: skip
        memory = "MemoryMax" if machine.systemd.mode == "unified" else "MemoryLimit"
        if limits:
            shown = machine.systemd.show(unit, memory, "TasksMax", "CPUQuotaPerSecUSec")
            assert shown == {memory: str(64 << 20), "TasksMax": "20", "CPUQuotaPerSecUSec": "500ms"}
            docker(machine, "update", "--pids-limit", "30", name)
            assert machine.systemd.show(unit, "TasksMax") == {"TasksMax": "30"}
        pid = docker(machine, "inspect", "-f", "{{.State.Pid}}", name).out.strip()
        assert f"/system.slice/{unit}" in machine.systemd.read(f"/proc/{pid}/cgroup")
        docker(machine, "pause", name)
        docker(machine, "unpause", name)
        machine("systemctl", "restart", "orlop.service", "orlop-containerd.service")
        machine("systemctl", "daemon-reload")
        assert docker(machine, "exec", name, "echo", "here").out == "here\n"
        if limits:
            assert "64MiB" in docker(machine, "stats", "--no-stream", "--format", "{{.MemUsage}}", name).out
        docker(machine, "stop", "-t", "0", name)
        assert machine.systemd.show(unit, "LoadState") == {"LoadState": "not-found"}
        docker(machine, "start", name)
        assert machine.state(unit) == "active"
    finally:
        docker(machine, "rm", "-f", name)
    assert machine("find", "/sys/fs/cgroup", "-name", f"docker-{name}*").out == ""


def test_a_slice_as_the_parent(machine: Machine) -> None:
    parent = ("--cgroup-parent", "box-a.slice")
    name = docker(machine, "run", "-d", *parent, "busybox", "sleep", "1000").out.strip()
    try:
        group = machine.systemd.show(f"docker-{name}.scope", "ControlGroup")["ControlGroup"]
        assert group == f"/box.slice/box-a.slice/docker-{name}.scope"
    finally:
        docker(machine, "rm", "-f", name)


@pytest.mark.parametrize("parent", ["/docker", "box", ".slice"])
def test_a_parent_that_is_no_slice_is_refused(machine: Machine, parent: str) -> None:
    refused = docker(machine, "run", "--rm", "--cgroup-parent", parent, "busybox", "true", check=False)
    assert refused.status == 125
    assert 'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"' in refused.err


def test_memory_runs_out_in_a_scope(machine: Machine) -> None:
    if not has_memory(machine):
        pytest.skip("no memory controller in this mode")
    eat = "dd if=/dev/zero of=/dev/shm/x bs=1M count=48"
    limits = ("-m", "16m", "--memory-swap", "16m")
    result = docker(machine, "run", "--name", "oom", *limits, "busybox", "sh", "-c", eat, check=False)
    try:
        assert result.status == 137, result.err
        assert docker(machine, "inspect", "-f", "{{.State.OOMKilled}}", "oom").out == "true\n"
    finally:
        docker(machine, "rm", "-f", "oom")


def test_which_driver_is_the_default(machine: Machine) -> None:
    """On version 2 alone Docker asks systemd wherever it runs."""
    configure(machine, {"cgroup-parent": "no-slice"} if machine.systemd.mode == "hybrid" else {})
    try:
        machine("systemctl", "restart", "orlop.service")
        expected = "cgroupfs" if machine.systemd.mode == "hybrid" else "systemd"
        assert docker(machine, "info", "-f", "{{.CgroupDriver}}").out == f"{expected}\n"
    finally:
        configure(machine, SETTINGS)
        machine("systemctl", "restart", "orlop.service")


def test_the_journal_gets_every_line(machine: Machine) -> None:
    """systemd's own journald takes what the driver sends: fields, what is too long for a datagram, the end."""
    machine("systemctl", "start", "systemd-journald.socket", "systemd-journald.service")
    script = "echo one; echo two >&2; head -c 300000 /dev/zero | tr '\\0' x; echo; printf end"
    options = ["--log-driver", "journald", "--log-opt", "tag=t/{{.Name}}", "--log-opt", "labels=color"]
    docker(machine, "run", "--name", "noted", *options, "-l", "color=red", "busybox", "sh", "-c", script)

    def entries() -> list[dict[str, object]]:
        out = machine("journalctl", "--all", "-o", "json", "CONTAINER_NAME=noted").out
        return [json.loads(line) for line in out.splitlines()]

    wait_until(lambda: any(entry["MESSAGE"] == "end" for entry in entries()), 60)
    entire = entries()
    # Two pipes: which line of which comes first is not said.
    (error,) = (entry for entry in entire if entry["PRIORITY"] == "3")
    assert error["MESSAGE"] == "two"
    first, *rest = seen = [entry for entry in entire if entry["PRIORITY"] == "6"]
    assert [first[key] for key in ("MESSAGE", "PRIORITY", "COLOR", "CONTAINER_TAG")] == [
        "one",
        "6",
        "red",
        "t/noted",
    ]
    assert first["SYSLOG_IDENTIFIER"] == "t/noted"
    long = [str(entry["MESSAGE"]) for entry in rest[:-1]]
    assert "".join(long) == "x" * 300_000
    assert seen[-2]["CONTAINER_PARTIAL_LAST"] == "true" and len(seen[-2]["CONTAINER_PARTIAL_ID"]) == 64  # type: ignore[arg-type]
    assert docker(machine, "logs", "--tail", "1", "noted").out == "end"
    docker(machine, "rm", "noted")
