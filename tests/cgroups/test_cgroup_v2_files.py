# SPDX-License-Identifier: Apache-2.0
"""Version 2 limits and counters: over files that look like a group, and in a real group where there is one."""

import mmap
import os
import select
import signal

import pytest

from orlop import cgroups
from orlop.cgroups import hierarchies
from orlop.cgroups.v2 import ManagerV2
from orlop.errdefs import FailedPreconditionError, InvalidArgumentError
from orlop.oci.runtime import CPU, BlockIO, HugepageLimit, Memory, Pids, Resources, ThrottleDevice

MIB = 1 << 20
CONTENT = {
    "cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma\n",
    "cgroup.freeze": "0\n",
    "cpu.stat": "usage_usec 1000\nuser_usec 600\nsystem_usec 400\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n"
    "nr_bursts 1\nburst_usec 3\n",
    "cpu.pressure": "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "memory.stat": "anon 100\nfile 200\nworkingset_refault_anon 9\n",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.peak": "8192\n",
    "memory.events": "low 0\nhigh 0\nmax 6\noom 2\noom_kill 1\noom_group_kill 0\n",
    "memory.swap.current": "10\n",
    "memory.swap.max": "20\n",
    "pids.current": "3\n",
    "pids.max": "max\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
    "rdma.current": "mlx hca_handle=1 hca_object=2\n",
    "rdma.max": "mlx hca_handle=max hca_object=5\n",
    "cpu.max": "max 100000\n",
    "cpu.weight": "100\n",
    "io.weight": "default 100\n",
    "io.max": "",
    "memory.low": "0\n",
}


@pytest.fixture
def group(tmp_path, monkeypatch):
    for name, text in CONTENT.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("orlop.cgroups.stats_v2.page_sizes", list)
    manager = ManagerV2({"": str(tmp_path)})
    yield manager
    manager.close()


def test_limits_are_written(group, tmp_path):
    for name in CONTENT:
        (tmp_path / name).write_text("")  # writes do not truncate: the kernel needs no such thing
    group.apply(
        Resources(
            cpu=CPU(shares=512, quota=50000, burst=1000),
            memory=Memory(limit=64 * MIB, swap=96 * MIB, reservation=MIB),
            pids=Pids(limit=9),
            block_io=BlockIO(weight=500, throttle_read_bps_device=[ThrottleDevice(major=8, minor=0, rate=5)]),
        )
    )
    found = {name: (tmp_path / name).read_text() for name in CONTENT}
    assert found["cpu.max"] == "50000 100000" and found["cpu.weight"] == "59"
    assert found["memory.max"] == str(64 * MIB) and found["memory.swap.max"] == str(32 * MIB)
    assert found["memory.low"] == str(MIB) and found["pids.max"] == "9"
    assert found["io.weight"] == "4950" and found["io.max"] == "8:0 rbps=5"


def test_a_limit_below_what_is_used_is_refused_where_that_is_asked_for(group, tmp_path):
    for memory in (Memory(limit=4096), Memory(swap=4000, limit=8192)):
        memory.check_before_update = True
        with pytest.raises(InvalidArgumentError, match=r"rejecting memory.* limit 4\d+ <= usage 4096"):
            group.apply(Resources(memory=memory))
    assert (tmp_path / "memory.max").read_text() == "max\n"
    group.apply(Resources(memory=Memory(limit=4097, check_before_update=True)))
    group.apply(Resources(memory=Memory(limit=4096)))


def test_a_missing_file_is_named(group, tmp_path):
    (tmp_path / "memory.swap.max").unlink()
    group.apply(Resources(memory=Memory(limit=MIB, swap=MIB)))  # no swap to forbid
    with pytest.raises(FailedPreconditionError, match=r"the kernel has no .*/memory.swap.max"):
        group.apply(Resources(memory=Memory(limit=MIB, swap=2 * MIB)))
    with pytest.raises(FailedPreconditionError, match=r"hugetlb.2MB.max"):
        group.apply(Resources(hugepage_limits=[HugepageLimit(page_size="2MB", limit=0)]))


def test_counters_are_read(group):
    stats = group.stats()
    assert (stats.cpu.total, stats.cpu.user, stats.cpu.kernel) == (1_000_000, 600_000, 400_000)
    assert (stats.cpu.periods, stats.cpu.throttled_periods, stats.cpu.throttled_time) == (5, 2, 7000)
    assert (stats.cpu.bursts, stats.cpu.burst_time) == (1, 3000)
    assert (stats.memory.usage.usage, stats.memory.usage.limit, stats.memory.usage.max) == (4096, 2**64 - 1, 8192)
    assert (stats.memory.swap.usage, stats.memory.swap.limit) == (10, 20)
    assert stats.memory.stat["workingset_refault_anon"] == 9 and stats.memory.oom_kill == 1
    assert (stats.pids.current, stats.pids.limit) == (3, 0)
    assert stats.io[0].wios == 4 and stats.rdma_limit[0].hca_objects == 5
    assert stats.pressure["cpu"].some == (1.0, 2.0, 3.0, 4) and "io" not in stats.pressure
    assert group.oom_kills() == 1 and not group.frozen()


def _mountpoint():
    return next((point for controllers, point, _ in hierarchies.mounts() if not controllers), None)


def _offers(*controllers):
    mountpoint = _mountpoint()
    if mountpoint is None or os.getuid() != 0:
        return False
    with open(f"{mountpoint}/cgroup.controllers") as file:
        return set(controllers) <= set(file.read().split())


@pytest.fixture
def real():
    parent = f"{_mountpoint()}/orlop-test-{os.getpid()}"
    manager = ManagerV2({"": f"{parent}/deep/one"})
    yield manager
    manager.destroy()
    ManagerV2({"": parent}).destroy()


def read(manager, name):
    with open(f"{manager.paths()['']}/{name}") as file:
        return file.read().strip()


@pytest.mark.root
@pytest.mark.skipif(not _offers("hugetlb"), reason="no hugetlb in version 2 here")
def test_controllers_are_switched_on_all_the_way_down(real):
    real.create()
    assert "hugetlb" in read(real, "cgroup.controllers").split()
    real.apply(Resources(hugepage_limits=[HugepageLimit(page_size="2MB", limit=4 * MIB)]))
    assert read(real, "hugetlb.2MB.max") == read(real, "hugetlb.2MB.rsvd.max") == str(4 * MIB)
    assert [entry.max for entry in real.stats().hugetlb if entry.pagesize == "2MB"] == [4 * MIB]


@pytest.mark.root
@pytest.mark.skipif(not _offers("cpu", "memory", "pids"), reason="no cpu, memory and pids in version 2 here")
def test_limits_in_the_kernel(real):
    real.create()
    real.apply(
        Resources(
            cpu=CPU(shares=512, quota=50000, period=50000),
            memory=Memory(limit=16 * MIB, swap=16 * MIB),
            pids=Pids(limit=9),
        )
    )
    assert (read(real, "cpu.max"), read(real, "cpu.weight"), read(real, "pids.max")) == ("50000 50000", "59", "9")
    assert (read(real, "memory.max"), read(real, "memory.swap.max")) == (str(16 * MIB), "0")
    event = real.oom_fd()
    pid = os.fork()
    if pid == 0:
        try:
            real.join()
            with mmap.mmap(-1, 64 * MIB) as memory:
                for page in range(0, 64 * MIB, 4096):
                    memory[page] = 1
        finally:
            os._exit(1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert select.select([event], [], [], 10)[0]
        cgroups.drain_oom(event)
        assert real.oom_kills() == 1 and real.stats().memory.events["oom_kill"] == 1
    finally:
        os.close(event)
    real.apply(Resources(memory=Memory(limit=-1)))
    assert (read(real, "memory.max"), read(real, "memory.swap.max")) == ("max", "max")
