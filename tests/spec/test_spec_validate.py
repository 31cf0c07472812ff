# SPDX-License-Identifier: Apache-2.0
"""What dockerd refuses at create and update, with Docker's texts."""

import time

import pytest

from orlop.dockerd.spec import Host, validate
from orlop.dockerd.spec.limits import parse_list
from orlop.dockerd.spec.validate import parse_signal
from orlop.engine.types import (
    ContainerConfig,
    HealthConfig,
    HostConfig,
    Mount,
    PortBinding,
    RestartPolicy,
    ThrottleDevice,
)
from orlop.errdefs import InvalidArgumentError

MIB = 1 << 20
HOST = Host(cpus=2, cpuset_cpus="0-1", cpuset_mems="0", memory_swappiness=True, oom_kill_disable=True)
BARE = Host(
    memory_limit=False, swap_limit=False, memory_reservation=False, memory_swappiness=False, pids_limit=False,
    cpu_shares=False, cpu_cfs=False, cpuset=False, blkio_weight=False, blkio_weight_device=False,
    blkio_throttle=False, ipv4_forwarding=False,
)  # fmt: skip


def config(**fields):
    return ContainerConfig(cmd=["x"], **fields)


@pytest.mark.parametrize(("fields", "message"), [
    ({"memory": 1 * MIB}, "Minimum memory limit allowed is 6MB"),
    ({"memory": -1}, "Minimum memory limit allowed is 6MB"),
    ({"memory": 20 * MIB, "memory_swap": 10 * MIB}, "Minimum memoryswap limit should be larger than memory limit"),
    ({"memory_swap": 10 * MIB}, "You should always set the Memory limit when using Memoryswap limit"),
    ({"memory_swappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
    ({"memory_reservation": 1}, "Minimum memory reservation allowed is 6MB"),
    ({"memory": 10 * MIB, "memory_reservation": 20 * MIB}, "can not be less than memory reservation limit"),
    ({"nano_cpus": 10**9, "cpu_period": 1000}, "Nano CPUs and CPU Period cannot both be set"),
    ({"nano_cpus": 10**9, "cpu_quota": 1000}, "Nano CPUs and CPU Quota cannot both be set"),
    ({"nano_cpus": 3 * 10**9}, "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
    ({"nano_cpus": -1}, "range of CPUs is from 0.01 to 2.00"),
    ({"cpu_period": 10}, "CPU cfs period can not be less than 1ms"),
    ({"cpu_quota": 10}, "CPU cfs quota can not be less than 1ms"),
    ({"cpu_shares": -1}, "invalid CPU shares (-1): value must be a positive integer"),
    ({"cpu_realtime_period": 1}, "kernel does not support CPU real-time scheduler"),
    ({"cpuset_cpus": "0,7"}, "Requested CPUs are not available - requested 0,7, available: 0-1"),
    ({"cpuset_mems": "1"}, "Requested memory nodes are not available - requested 1, available: 0"),
    ({"cpuset_cpus": "x"}, "Invalid value x for cpuset cpus: invalid format: x"),
    ({"blkio_weight": 5}, "Range of blkio weight is from 10 to 1000"),
    ({"ipc_mode": "mine"}, "invalid IPC mode: mine"),
    ({"pid_mode": "container:"}, "invalid PID mode: container:"),
    ({"uts_mode": "x"}, "invalid UTS mode: x"),
    ({"userns_mode": "x"}, "invalid USER mode: x"),
    ({"cgroupns_mode": "x"}, "invalid cgroup namespace mode: x"),
    ({"shm_size": -1}, "SHM size can not be less than 0"),
    ({"oom_score_adj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
    ({"cap_add": ["NOPE"]}, 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
    ({"cap_drop": ["NOPE"]}, 'invalid CapDrop: unknown capability: "CAP_NOPE"'),
    ({"isolation": "hyperv"}, "invalid isolation (hyperv): linux only supports 'default'"),
    ({"annotations": {"": "x"}}, "the empty string is not permitted as an annotation key"),
    ({"extra_hosts": ["x"]}, 'bad format for add-host: "x"'),
    ({"extra_hosts": ["x:1.2.3"]}, 'invalid IP address in add-host: "1.2.3"'),
    ({"port_bindings": {"99999/tcp": None}}, 'invalid port specification: "99999/tcp"'),
    ({"port_bindings": {"80/tcp": [PortBinding(host_port="x")]}}, 'invalid port specification: "x"'),
    ({"port_bindings": {"80/tcp": [PortBinding(host_port="9-8")]}}, 'invalid port specification: "9-8"'),
    ({"restart_policy": RestartPolicy(name="no+unhealthy")}, "unknown policy 'no+unhealthy'"),
    ({"restart_policy": RestartPolicy(name="sometimes")}, "invalid restart policy: unknown policy 'sometimes'"),
    ({"restart_policy": RestartPolicy(name="always", maximum_retry_count=3)}, "only be used with 'on-failure'"),
    ({"restart_policy": RestartPolicy(name="on-failure", maximum_retry_count=-3)}, "count cannot be negative"),
    ({"restart_policy": RestartPolicy(name="always"), "auto_remove": True}, "can't create 'AutoRemove' container"),
    ({"mounts": [Mount(type="bind", source="/no/such", target="/x")]},
     'invalid mount config for type "bind": bind source path does not exist: /no/such'),
    ({"tmpfs": {"/": ""}}, "invalid specification: destination can't be '/'"),
    ({"tmpfs": {"x": ""}}, "invalid mount path: 'x' mount path must be absolute"),
    ({"tmpfs": {"/x": "wrong"}}, 'invalid tmpfs option "wrong"'),
    ({"security_opt": ["x"]}, 'invalid --security-opt 1: "x"'),
    ({"device_cgroup_rules": ["x"]}, "invalid device cgroup rule format: 'x'"),
    ({"network_mode": "container:"}, "invalid container format container:<name|id>"),
    ({"network_mode": "container:a", "dns": ["1.1.1.1"]}, "conflicting options: dns and the network mode"),
    ({"network_mode": "container:a", "publish_all_ports": True}, "port publishing and the container type network"),
    ({"network_mode": "host", "links": ["a:b"]}, "host type networking can't be used with links"),
])  # fmt: skip
def test_a_host_config_that_is_refused(fields, message):
    with pytest.raises(InvalidArgumentError) as caught:
        validate(config(), HostConfig(**fields), HOST)
    assert message in str(caught.value)


@pytest.mark.parametrize(("fields", "message"), [
    ({"hostname": "x" * 65}, "is too long (maximum 64 bytes)"),
    ({"working_dir": "x"}, "the working directory 'x' is invalid, it needs to be an absolute path"),
    ({"stop_signal": "SIGNOPE"}, "invalid signal: SIGNOPE"),
    ({"env": ["=x"]}, "invalid environment variable: =x"),
    ({"env": ["A=\0"]}, "null byte"),
    ({"healthcheck": HealthConfig(interval=5)}, "Interval in Healthcheck cannot be less than 1ms"),
    ({"healthcheck": HealthConfig(retries=-1)}, "Retries in Healthcheck cannot be negative"),
])  # fmt: skip
def test_a_config_that_is_refused(fields, message):
    with pytest.raises(InvalidArgumentError) as caught:
        validate(config(**fields), HostConfig(), HOST)
    assert message in str(caught.value)


def test_conflicts_between_the_two():
    with pytest.raises(InvalidArgumentError, match="conflicting options: hostname and the UTS mode"):
        validate(config(hostname="h"), HostConfig(uts_mode="host"), HOST)
    with pytest.raises(InvalidArgumentError, match="conflicting options: hostname and the network mode"):
        validate(config(hostname="h"), HostConfig(network_mode="container:a"), HOST)
    with pytest.raises(InvalidArgumentError, match="port exposing and the container type network mode"):
        validate(config(exposed_ports={"80/tcp": {}}), HostConfig(network_mode="container:a"), HOST)


def test_what_is_fine():
    ok = HostConfig(
        memory=6 * MIB, memory_swap=-1, memory_swappiness=-1, nano_cpus=2 * 10**9, cpuset_cpus="0-1",
        pids_limit=-1, ipc_mode="container:x", pid_mode="host", cap_add=["ALL", "net_admin"],
        extra_hosts=["a:::1"],
        port_bindings={"80": [PortBinding(host_port="8000-8010")], "53/udp": None}, tmpfs={"/x": "size=1m,noexec"},
        restart_policy=RestartPolicy(name="on-failure", maximum_retry_count=2), network_mode="bridge",
    )  # fmt: skip
    made = config(working_dir="/a/../b", stop_signal="SIGRTMIN+3", env=["A", "B=1"])
    assert validate(made, ok, HOST) == []
    assert made.working_dir == "/b" and ok.memory_swappiness is None
    assert validate(None, HostConfig(memory_swap=10 * MIB), HOST, update=True) == []


def test_what_the_kernel_cannot_do_is_taken_out_with_a_warning():
    asked = HostConfig(
        memory=64 * MIB, memory_swap=128 * MIB, memory_reservation=32 * MIB, memory_swappiness=5, pids_limit=5,
        cpu_shares=5, cpu_period=5000, cpuset_cpus="0", blkio_weight=50, oom_kill_disable=True,
        blkio_device_read_bps=[ThrottleDevice(path="/dev/null", rate=1)], network_mode="bridge",
    )  # fmt: skip
    warnings = validate(config(), asked, BARE)
    assert len(warnings) == 11 and all("IPv4" in text or "does not support" in text for text in warnings)
    assert (asked.memory, asked.memory_swap, asked.memory_reservation, asked.pids_limit) == (0, -1, 0, None)
    assert (asked.cpu_shares, asked.cpu_period, asked.cpuset_cpus, asked.blkio_weight) == (0, 0, "", 0)
    assert asked.blkio_device_read_bps == [] and asked.oom_kill_disable is None
    assert validate(config(), HostConfig(network_mode="host", port_bindings={"80/tcp": None}), HOST) == [
        "Published ports are discarded when using host network mode"
    ]
    assert "OOM killer is disabled" in validate(config(), HostConfig(oom_kill_disable=True), HOST)[0]


@pytest.mark.parametrize(("text", "number"), [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN+1", 35)])
def test_signals(text, number):
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["0", "65", "-1", "", "SIG", "RTMIN+99"])
def test_signals_that_are_refused(text):
    with pytest.raises(InvalidArgumentError, match="invalid signal"):
        parse_signal(text)


def test_lists_of_cpus():
    assert parse_list("0-2,7,1-1") == 0b10000111 and parse_list("") == 0
    for bad in ("1-", "3-1", "a", "1,,2x", "²"):
        with pytest.raises(ValueError, match="invalid format"):
            parse_list(bad)


@pytest.mark.parametrize("text", ["0-2147483647", "2147483647", "0-8193", "0-" + "9" * 100_000])
def test_lists_of_cpus_beyond_all_machines(text):
    """CVE-2018-20699: memory for each number of a range."""
    with pytest.raises(ValueError, match="value of out range, maximum is 8192"):
        parse_list(text)


def test_a_list_of_cpus_without_end_takes_no_time():
    begin = time.process_time()
    assert parse_list(",".join(["0-8191"] * 100_000)) == (1 << 8192) - 1
    assert time.process_time() - begin < 10  # a number for each of them would be 800 million
