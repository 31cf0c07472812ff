# SPDX-License-Identifier: Apache-2.0
"""The translation of OCI resources to writes, without a kernel."""

import msgspec
import pytest

from orlop.cgroups import devices, hierarchies, plan, stats, stats_v1, stats_v2
from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import (
    CPU,
    BlockIO,
    DeviceCgroup,
    HugepageLimit,
    InterfacePriority,
    Memory,
    Network,
    Pids,
    Rdma,
    Resources,
    ThrottleDevice,
    WeightDevice,
)

MIB = 1 << 20
DENY_ALL = DeviceCgroup(allow=False, access="rwm")

EVERYTHING = Resources(
    cpu=CPU(shares=512, quota=50000, period=100000, burst=1000, cpus="0-1", mems="0", idle=1,
            realtime_runtime=950, realtime_period=1000),
    memory=Memory(limit=64 * MIB, swap=128 * MIB, reservation=32 * MIB, swappiness=10, disable_oom_killer=True),
    pids=Pids(limit=10),
    block_io=BlockIO(
        weight=10,
        weight_device=[WeightDevice(major=8, minor=0, weight=500, leaf_weight=300)],
        throttle_read_bps_device=[ThrottleDevice(major=8, minor=0, rate=1000)],
        throttle_write_bps_device=[ThrottleDevice(major=8, minor=0, rate=2000)],
        throttle_read_iops_device=[ThrottleDevice(major=8, minor=0, rate=30)],
        throttle_write_iops_device=[ThrottleDevice(major=8, minor=16, rate=20)],
    ),
    hugepage_limits=[HugepageLimit(page_size="2MB", limit=4 * MIB)],
    network=Network(class_id=1048577, priorities=[InterfacePriority(name="eth0", priority=5)]),
    rdma={"mlx5_1": Rdma(hca_handles=3, hca_objects=10)},
    unified={"memory.high": "100"},
)  # fmt: skip


def test_every_resource_on_version_1():
    with pytest.raises(InvalidArgumentError, match=r"linux\.resources\.unified: cannot use unified"):
        plan.plan_v1(EVERYTHING, update=False)
    assert plan.plan_v1(msgspec.structs.replace(EVERYTHING, unified={}), update=False) == [
        ("cpu", "cpu.rt_period_us", "1000"),
        ("cpu", "cpu.rt_runtime_us", "950"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "?cpu.cfs_burst_us", "1000"),
        ("cpu", "cpu.idle", "1"),
        ("cpuset", "cpuset.cpus", "0-1"),
        ("cpuset", "cpuset.mems", "0"),
        ("memory", "memory.limit_in_bytes", str(64 * MIB)),
        ("memory", "memory.memsw.limit_in_bytes", str(128 * MIB)),
        ("memory", "memory.soft_limit_in_bytes", str(32 * MIB)),
        ("memory", "memory.oom_control", "1"),
        ("memory", "memory.swappiness", "10"),
        ("pids", "pids.max", "10"),
        ("blkio", "blkio.bfq.weight|blkio.weight", "10"),
        ("blkio", "blkio.bfq.weight_device|blkio.weight_device", "8:0 500"),
        ("blkio", "blkio.leaf_weight_device", "8:0 300"),
        ("blkio", "blkio.throttle.read_bps_device", "8:0 1000"),
        ("blkio", "blkio.throttle.write_bps_device", "8:0 2000"),
        ("blkio", "blkio.throttle.read_iops_device", "8:0 30"),
        ("blkio", "blkio.throttle.write_iops_device", "8:16 20"),
        ("hugetlb", "hugetlb.2MB.limit_in_bytes", str(4 * MIB)),
        ("hugetlb", "?hugetlb.2MB.rsvd.limit_in_bytes", str(4 * MIB)),
        ("net_cls", "net_cls.classid", "1048577"),
        ("net_prio", "net_prio.ifpriomap", "eth0 5"),
        ("rdma", "rdma.max", "mlx5_1 hca_handle=3 hca_object=10"),
    ]


def test_every_resource_on_version_2():
    assert plan.plan_v2(EVERYTHING, update=False) == [
        ("cpu", "cpu.idle", "1"),
        ("cpu", "cpu.weight", "59"),
        ("cpu", "cpu.max", "50000 100000"),
        ("cpu", "?cpu.max.burst", "1000"),
        ("cpuset", "cpuset.cpus", "0-1"),
        ("cpuset", "cpuset.mems", "0"),
        ("memory", "memory.swap.max", str(64 * MIB)),
        ("memory", "memory.max", str(64 * MIB)),
        ("memory", "memory.low", str(32 * MIB)),
        ("pids", "pids.max", "10"),
        ("io", "io.bfq.weight|io.weight", "10|1"),
        ("io", "?io.bfq.weight", "8:0 500"),
        ("io", "io.max", "8:0 rbps=1000"),
        ("io", "io.max", "8:0 wbps=2000"),
        ("io", "io.max", "8:0 riops=30"),
        ("io", "io.max", "8:16 wiops=20"),
        ("hugetlb", "hugetlb.2MB.max", str(4 * MIB)),
        ("hugetlb", "?hugetlb.2MB.rsvd.max", str(4 * MIB)),
        ("rdma", "rdma.max", "mlx5_1 hca_handle=3 hca_object=10"),
        ("memory", "memory.high", "100"),
    ]


def test_dockers_defaults_cost_no_write():
    defaults = Resources(
        pids=Pids(limit=-1), memory=Memory(disable_oom_killer=False), cpu=CPU(), block_io=BlockIO()
    )
    assert plan.plan_v1(defaults, update=False) == []
    assert plan.plan_v2(defaults, update=False) == []
    assert plan.plan_v1(defaults, update=True) == [
        ("memory", "memory.oom_control", "0"),
        ("pids", "pids.max", "max"),
    ]


@pytest.mark.parametrize(
    ("shares", "weight"), [(1, 1), (2, 1), (1024, 100), (2048, 174), (262144, 10000), (300000, 10000)]
)
def test_shares_become_weight(shares, weight):
    assert plan.shares_to_weight(shares) == weight


@pytest.mark.parametrize(("weight", "io_weight"), [(10, 1), (500, 4950), (1000, 10000)])
def test_block_weight_becomes_io_weight(weight, io_weight):
    assert plan.blkio_to_io_weight(weight) == io_weight


@pytest.mark.parametrize(
    ("swap", "memory", "expected"),
    [(None, None, None), (None, 100, None), (-1, 100, "max"), (100, 100, "0"), (300, 100, "200"),
     (None, -1, "max"), (300, -1, "300")],
)  # fmt: skip
def test_swap_is_what_is_beyond_memory(swap, memory, expected):
    assert plan.swap_v2(swap, memory) == expected


@pytest.mark.parametrize(("swap", "memory", "message"), [
    (100, None, "unable to set swap limit without memory limit"),
    (50, 100, "memory\\+swap limit should be >= memory limit"),
])  # fmt: skip
def test_swap_that_does_not_fit(swap, memory, message):
    with pytest.raises(InvalidArgumentError, match=message):
        plan.swap_v2(swap, memory)


@pytest.mark.parametrize(
    "resources",
    [
        Resources(unified={"../../etc/passwd": "x"}),
        Resources(unified={"?memory.max": "1"}),
        Resources(unified={"memory": "1"}),
        Resources(unified={"memory.max\0": "1"}),
        Resources(unified={"memory.max": "1\0"}),
        Resources(cpu=CPU(cpus="\0")),
        Resources(cpu=CPU(mems="0\0")),
        Resources(hugepage_limits=[HugepageLimit(page_size="2MB/../x", limit=1)]),
    ],
)
def test_names_and_text_from_the_configuration_are_checked(resources):
    with pytest.raises(InvalidArgumentError):
        plan.plan_v2(resources, update=False)


def test_memory_without_limit_takes_swap_along():
    assert plan.plan_v1(Resources(memory=Memory(limit=-1)), update=True) == [
        ("memory", "memory.limit_in_bytes", "-1"),
        ("memory", "?memory.memsw.limit_in_bytes", "-1"),
    ]


def rule(allow, type="c", major=None, minor=None, access="rwm"):
    return DeviceCgroup(allow=allow, type=type, major=major, minor=minor, access=access)


def test_no_rules_at_all_deny_everything_but_the_basics():
    access = devices.evaluate([])
    assert not access.allow_by_default
    assert access.exceptions[("c", 1, 3)] == "rwm"
    assert access.exceptions[("c", -1, -1)] == "m"
    assert ("c", 1, 1) not in access.exceptions


def test_the_last_rule_decides():
    access = devices.evaluate(
        [DENY_ALL, rule(True, major=10, minor=1), rule(False, major=10, minor=1, access="w")]
    )
    assert access.exceptions[("c", 10, 1)] == "rm"
    assert devices.evaluate([DENY_ALL, rule(True, type="a"), rule(False, major=10)]).exceptions == {
        ("c", 10, -1): "rwm"
    }


def test_a_hole_in_a_wildcard_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"c 10:1 is a hole in the rule for c 10:\*"):
        devices.evaluate([DENY_ALL, rule(True, major=10), rule(False, major=10, minor=1)])


@pytest.mark.parametrize("bad", [rule(True, type="x"), rule(True, access="rx"), rule(True, type="a", major=1)])
def test_malformed_rules_are_refused(bad):
    with pytest.raises(InvalidArgumentError, match="invalid device rule"):
        devices.evaluate([bad])


def test_version_1_steps_of_a_new_and_of_a_running_group():
    wanted = devices.evaluate([DENY_ALL, rule(True, major=10, minor=1)])
    fresh = devices.writes_v1(wanted, None)
    assert fresh[:2] == [("devices.deny", "a"), ("devices.allow", "c 10:1 rwm")]
    lines = [value for file, value in fresh if file == "devices.allow"]
    present = devices.parse_list("\n".join(lines))
    assert devices.writes_v1(wanted, present) == []
    changed = devices.evaluate([DENY_ALL, rule(True, major=10, minor=1, access="r"), rule(True, "b", 7)])
    steps = devices.writes_v1(changed, present)
    assert steps == [("devices.allow", "b 7:* rwm"), ("devices.deny", "c 10:1 wm")]


def test_mountinfo_of_a_hybrid_system():
    text = (
        "30 23 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
        "31 23 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n"
        "32 23 0:28 /docker/a\\040b /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
        "33 23 0:29 / /x rw - tmpfs cgroup rw\n"
    )
    assert hierarchies.parse_mountinfo(text.splitlines()) == [
        (("cpu", "cpuacct"), "/sys/fs/cgroup/cpu,cpuacct", "/"),
        (("name=systemd",), "/sys/fs/cgroup/systemd", "/"),
        ((), "/sys/fs/cgroup/unified", "/docker/a b"),
    ]


@pytest.mark.parametrize("path", ["", "/", "/..", "../..", "a\0b"])
def test_a_group_must_have_a_name(path):
    with pytest.raises(InvalidArgumentError, match="cgroupsPath"):
        hierarchies.container_paths(path, unified=False)


def test_dots_do_not_lead_out_of_the_hierarchy(monkeypatch):
    monkeypatch.setattr(hierarchies, "_found", [(("pids",), "/sys/fs/cgroup/pids", "/")])
    assert hierarchies.container_paths("/../../../etc/x", unified=False) == {"pids": "/sys/fs/cgroup/pids/etc/x"}


def test_counters_are_parsed():
    assert [
        (e.major, e.minor, e.op, e.value) for e in stats_v1.parse_blkio("8:0 Read 12\n8:0 Total 15\nTotal 15\n")
    ] == [
        (8, 0, "Read", 12),
        (8, 0, "Total", 15),
    ]
    entry = stats_v2.parse_io("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0 \n")
    assert [(e.major, e.minor, e.rbytes, e.wbytes, e.rios, e.wios) for e in entry] == [(8, 16, 1, 2, 3, 4)]
    assert stats.number("max\n") == 2**64 - 1
    psi = stats.pressure("some avg10=1.50 avg60=0.00 avg300=0.00 total=42\n")
    assert psi.some == (1.5, 0.0, 0.0, 42) and psi.full[3] == 0
    assert stats.rdma("mlx hca_handle=max hca_object=7\n")[0].hca_handles == 2**32 - 1
