# SPDX-License-Identifier: Apache-2.0
"""Control groups in this kernel: version 1, and version 2 in the unified hierarchy where there is one."""

import ctypes
import mmap
import os
import select
import signal
import time
from contextlib import contextmanager, suppress

import pytest

from orlop import cgroups
from orlop.cgroups import hierarchies
from orlop.cgroups.v2 import ManagerV2
from orlop.errdefs import FailedPreconditionError, InvalidArgumentError
from orlop.oci.runtime import CPU, DeviceCgroup, Memory, Pids, Resources

MIB = 1 << 20
PARENT = f"orlop-test-{os.getpid()}"

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.getuid() != 0, reason="needs root")]
needs_v1 = pytest.mark.skipif(cgroups.mode() == "v2", reason="no version 1 here")


def unified_mount():
    return next((point for controllers, point, _ in hierarchies.mounts() if not controllers), None)


needs_v2 = pytest.mark.skipif(unified_mount() is None, reason="no version 2 hierarchy here")


@pytest.fixture
def manager():
    made = cgroups.new_manager(f"/{PARENT}/one")
    yield made
    made.destroy()
    cgroups.new_manager(f"/{PARENT}").destroy()


@pytest.fixture
def unified():
    made = ManagerV2({"": f"{unified_mount()}/{PARENT}/one"})
    yield made
    made.destroy()
    ManagerV2({"": f"{unified_mount()}/{PARENT}"}).destroy()


def value(manager, controller, file):
    with open(f"{manager.paths()[controller]}/{file}") as opened:
        return opened.read().strip()


@contextmanager
def child(body, enter):
    """A process that calls `enter`, tells so, then runs `body` until it ends or is killed.

    Forked past the handlers of fork(2): those of grpc, which other tests load, start threads in the child, and
    every thread counts in its group.
    """
    reader, writer = os.pipe()
    pid = ctypes.PyDLL(None)._Fork()
    if pid == 0:
        status = 99
        try:
            enter()
            os.write(writer, b"x")
            status = body() or 0
        finally:
            os._exit(status)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"x"
        yield pid
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def sleep_on():
    signal.pause()


@needs_v1
def test_life_of_a_group(manager):
    manager.create()
    manager.apply(Resources(pids=Pids(limit=7), memory=Memory(limit=32 * MIB, swap=48 * MIB), cpu=CPU(cpus="0")))
    assert value(manager, "pids", "pids.max") == "7"
    assert value(manager, "memory", "memory.memsw.limit_in_bytes") == str(48 * MIB)
    assert value(manager, "cpuset", "cpuset.cpus") == "0"
    with child(sleep_on, manager.join) as pid:
        assert manager.pids() == [pid]
        with open(f"/proc/{pid}/cgroup") as lines:
            groups = lines.read().splitlines()
        assert sum(line.endswith(f"/{PARENT}/one") for line in groups) == len(set(manager.paths().values()))
        again = cgroups.load_manager(manager.paths())
        assert again.pids() == [pid] and again.exists()
        measured = again.stats()
        again.close()
        assert measured.pids.current == 1 and measured.pids.limit == 7
        assert measured.memory.usage.limit == 32 * MIB and measured.cpu.total > 0
        with pytest.raises(FailedPreconditionError, match="is not empty: 1 process"):
            cgroups.new_manager(f"/{PARENT}/one").create()
    manager.destroy()
    assert not manager.exists()
    manager.destroy()


@needs_v1
def test_add_moves_another_process(manager):
    manager.create()
    with child(sleep_on, lambda: None) as pid:
        manager.add(pid)
        assert manager.pids() == [pid]


@needs_v1
@pytest.mark.parametrize("limits", [[(32, 64), (128, 256), (16, 32)], [(64, 64), (16, 16), (-1, -1), (16, 40)]])
def test_updates_go_either_way(manager, limits):
    manager.create()
    for memory, swap in limits:
        scale = MIB if memory > 0 else 1
        manager.apply(Resources(memory=Memory(limit=memory * scale, swap=swap * scale)))
        if memory > 0:
            assert value(manager, "memory", "memory.limit_in_bytes") == str(memory * MIB)
            assert value(manager, "memory", "memory.memsw.limit_in_bytes") == str(swap * MIB)


@needs_v1
def test_period_and_quota_in_either_order(manager):
    manager.create()
    for period, quota in ((100000, 200000), (20000, 10000), (500000, 400000)):
        manager.apply(Resources(cpu=CPU(period=period, quota=quota)))
        assert value(manager, "cpu", "cpu.cfs_quota_us") == str(quota)
        assert value(manager, "cpu", "cpu.cfs_period_us") == str(period)


@needs_v1
def test_a_refused_value_is_named(manager):
    manager.create()
    with pytest.raises(InvalidArgumentError, match=r"cannot set .*cpuset.cpus to '77': "):
        manager.apply(Resources(cpu=CPU(cpus="77")))
    with pytest.raises(FailedPreconditionError, match="the no_such controller is not mounted"):
        manager._where("no_such")


@needs_v1
def test_devices_are_denied_and_updated_without_a_gap(manager):
    manager.create()
    manager.apply(Resources(devices=[DeviceCgroup(allow=False, access="rwm")]))
    assert "a *:* rwm" not in value(manager, "devices", "devices.list")
    assert "c 10:229 rwm" not in value(manager, "devices", "devices.list")
    manager.apply(Resources())
    manager.apply(Resources(devices=[DeviceCgroup(allow=True, type="c", major=10, minor=229, access="rw")]))
    assert "c 10:229 rw" in value(manager, "devices", "devices.list").splitlines()
    assert "c 1:3 rwm" in value(manager, "devices", "devices.list").splitlines()

    def body():
        os.close(os.open("/dev/null", os.O_RDWR))
        try:
            os.close(os.open("/dev/kmsg", os.O_RDONLY))
        except PermissionError:
            return 7
        return 1

    with child(body, manager.join) as pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@needs_v1
def test_freezing_stops_the_clock(manager):
    manager.create()

    def spin():
        while True:
            pass

    with child(spin, manager.join) as pid:
        manager.freeze()
        assert manager.frozen()
        before = manager.stats().cpu.total
        time.sleep(0.05)
        assert manager.stats().cpu.total == before
        manager.thaw()
        assert not manager.frozen()
        manager.freeze()
        manager.kill()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@needs_v1
def test_destroying_names_what_remains(manager, monkeypatch):
    monkeypatch.setattr("orlop.cgroups.manager._REMOVE_WITHIN", 0.02)
    manager.create()
    os.mkdir(f"{manager.paths()['pids']}/below")
    with child(sleep_on, manager.join) as pid:
        with open(f"{manager.paths()['pids']}/below/cgroup.procs", "w") as procs:
            procs.write(str(pid))
        assert manager.pids() == [pid]
        with pytest.raises(FailedPreconditionError, match=rf"processes \[{pid}\] remain"):
            manager.destroy()


@needs_v1
def test_running_out_of_memory_is_reported(manager):
    manager.create()
    manager.apply(Resources(memory=Memory(limit=8 * MIB, swap=8 * MIB)))
    before = manager.oom_kills()
    event = manager.oom_fd()
    try:
        assert not select.select([event], [], [], 0)[0]

        def eat():
            with mmap.mmap(-1, 64 * MIB) as memory:
                for page in range(0, 64 * MIB, 4096):
                    memory[page] = 1

        with child(eat, manager.join) as pid:
            assert select.select([event], [], [], 10)[0]
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        cgroups.drain_oom(event)
        assert manager.oom_kills() == before + 1
    finally:
        os.close(event)


@needs_v2
def test_version_2_device_program_decides(unified):
    unified.create()

    def opens(path, flags):
        try:
            os.close(os.open(path, flags))
        except PermissionError:
            return False
        return True

    def body():
        return (
            (1 if opens("/dev/null", os.O_RDWR) else 0)
            | (2 if opens("/dev/kmsg", os.O_RDONLY) else 0)
            | (4 if opens("/dev/kmsg", os.O_WRONLY) else 0)
        )

    kmsg = DeviceCgroup(allow=True, type="c", major=1, minor=11, access="r")
    deny = DeviceCgroup(allow=False, access="rwm")
    cases = [
        ([deny], 1),
        ([deny, kmsg], 3),
        ([deny, DeviceCgroup(allow=True, type="a", access="rwm")], 7),
        (
            [DeviceCgroup(allow=True, type="a", access="rwm"),
             DeviceCgroup(allow=False, type="c", major=1, minor=11, access="w")], 3,
        ),
    ]  # fmt: skip
    for rules, expected in cases:
        unified.apply(Resources(devices=rules))
        with child(body, unified.join) as pid:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == expected, rules


@needs_v2
def test_version_2_freeze_kill_destroy(unified):
    unified.create()
    assert unified.fd() is not None
    with child(sleep_on, unified.join) as pid:
        assert unified.pids() == [pid]
        assert unified.stats().pids.current == 1
        unified.freeze()
        assert unified.frozen()
        unified.thaw()
        with pytest.raises(FailedPreconditionError, match="is not empty"):
            ManagerV2(unified.paths()).create()
        unified.kill()
        unified.destroy()
        assert not unified.exists()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here")
def test_without_systemd_its_driver_says_so():
    with pytest.raises(FailedPreconditionError, match="does not run systemd"):
        cgroups.new_manager("system.slice:docker:x", systemd=True)
