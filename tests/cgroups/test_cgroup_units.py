# SPDX-License-Identifier: Apache-2.0
"""What systemd is told: names of units, properties, and the messages that carry them."""

import socket
import struct
import threading

import pytest

from orlop import dbus
from orlop.cgroups.systemd import expand_slice, parse_path
from orlop.cgroups.unit_properties import (
    INFINITY,
    complete_quota,
    cpu_mask,
    device_properties,
    properties_v1,
    properties_v2,
    round_quota,
)
from orlop.errdefs import InvalidArgumentError, UnavailableError
from orlop.oci.runtime import CPU, BlockIO, DeviceCgroup, Memory, Pids, Resources

MIB = 1 << 20
DENY = DeviceCgroup(allow=False, access="rwm")


def test_names_of_units():
    assert parse_path("system.slice:docker:abc") == ("system.slice", "docker-abc.scope")
    assert parse_path(":cri:abc") == ("system.slice", "cri-abc.scope")
    assert parse_path("a-b.slice::abc") == ("a-b.slice", "abc.scope")
    assert parse_path("a.slice::a-c.slice") == ("a.slice", "a-c.slice")
    assert expand_slice("system.slice") == "/system.slice"
    assert expand_slice("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"
    assert expand_slice("-.slice") == ""


@pytest.mark.parametrize("path", ["/docker/abc", "a:b", "a.slice:b:", "a.slice:b:c/d", "a:b:c:d"])
def test_paths_that_name_no_unit(path):
    with pytest.raises(InvalidArgumentError, match=r"cgroupsPath"):
        parse_path(path)


@pytest.mark.parametrize("name", ["", "system", ".slice", "a--b.slice", "-a.slice", "a/b.slice"])
def test_slices_that_are_none(name):
    with pytest.raises(InvalidArgumentError, match="invalid slice name"):
        expand_slice(name)


def test_properties_for_version_2():
    resources = Resources(
        memory=Memory(limit=64 * MIB, swap=96 * MIB, reservation=32 * MIB),
        cpu=CPU(shares=512, quota=12345, period=50000, cpus="0-2,9", mems="0"),
        pids=Pids(limit=7),
    )
    assert dict(properties_v2(resources, 252)) == {
        "MemoryMax": ("t", 64 * MIB),
        "MemoryLow": ("t", 32 * MIB),
        "MemorySwapMax": ("t", 32 * MIB),
        "CPUWeight": ("t", 59),
        "CPUQuotaPeriodUSec": ("t", 50000),
        "CPUQuotaPerSecUSec": ("t", 250000),
        "AllowedCPUs": ("ay", b"\x07\x02"),
        "AllowedMemoryNodes": ("ay", b"\x01"),
        "TasksMax": ("t", 7),
    }
    assert round_quota(resources).cpu.quota == 12500
    old = dict(properties_v2(resources, 239))
    assert "AllowedCPUs" not in old and "CPUQuotaPeriodUSec" not in old


def test_a_quota_goes_with_the_present_period():
    def gone():
        raise FileNotFoundError

    quota = Resources(cpu=CPU(quota=25000))
    assert complete_quota(quota, lambda: (-1, 50000)).cpu == CPU(quota=25000, period=50000)
    period = Resources(cpu=CPU(period=20000))
    assert complete_quota(period, lambda: (10000, 50000)).cpu == CPU(quota=10000, period=20000)
    assert complete_quota(quota, gone) == quota
    for whole in (Resources(), Resources(cpu=CPU(shares=2)), Resources(cpu=CPU(quota=1, period=2))):
        assert complete_quota(whole, gone) == whole


def test_properties_that_lift_limits():
    resources = Resources(memory=Memory(limit=-1), cpu=CPU(quota=-1), pids=Pids(limit=-1))
    assert dict(properties_v2(resources, 252)) == {
        "MemoryMax": ("t", INFINITY),
        "MemorySwapMax": ("t", INFINITY),
        "CPUQuotaPerSecUSec": ("t", INFINITY),
        "TasksMax": ("t", INFINITY),
    }
    assert properties_v2(Resources(pids=Pids(limit=0)), 252) == [("TasksMax", ("t", 1))]
    assert properties_v2(Resources(cpu=CPU(shares=9, idle=1)), 252) == [("CPUWeight", ("t", 0))]
    assert round_quota(resources) == resources


def test_properties_from_files_of_version_2():
    unified = {
        "cpu.max": "5000 10000", "cpu.weight": "42", "memory.high": "max", "pids.max": "0", "cpuset.cpus": "1",
        "io.max": "8:0 rbps=1", "memory.oom.group": "1",
    }  # fmt: skip
    assert dict(properties_v2(Resources(unified=unified), 252)) == {
        "CPUQuotaPeriodUSec": ("t", 10000),
        "CPUQuotaPerSecUSec": ("t", 500000),
        "CPUWeight": ("t", 42),
        "MemoryHigh": ("t", INFINITY),
        "TasksMax": ("t", 1),
        "AllowedCPUs": ("ay", b"\x02"),
    }
    with pytest.raises(InvalidArgumentError, match=r"linux.resources.unified.memory.max: 'much' is not a number"):
        properties_v2(Resources(unified={"memory.max": "much"}), 252)


def test_properties_for_version_1():
    resources = Resources(
        memory=Memory(limit=64 * MIB), cpu=CPU(shares=512), block_io=BlockIO(weight=300), devices=[DENY]
    )
    found = properties_v1(resources, 252, with_devices=True)
    assert found[:2] == [("DeviceAllow", ("a(ss)", [])), ("DevicePolicy", ("s", "strict"))]
    assert found[3:] == [
        ("MemoryLimit", ("t", 64 * MIB)), ("CPUShares", ("t", 512)), ("BlockIOWeight", ("t", 300)),
    ]  # fmt: skip


def test_devices():
    rules = [
        DENY,
        DeviceCgroup(allow=True, type="c", major=10, minor=229, access="rw"),
        DeviceCgroup(allow=True, type="b", major=7, access="r"),
        DeviceCgroup(allow=True, type="c", minor=99, access="r"),
    ]
    allowed = dict(device_properties(rules, 252))["DeviceAllow"][1]
    assert {("/dev/char/10:229", "rw"), ("block-7", "r"), ("char-*", "m"), ("char-136", "rwm")} < set(allowed)
    assert not any("99" in name for name, _ in allowed), "systemd cannot say any major number with one minor"
    everything = DeviceCgroup(allow=True, type="a", access="rwm")
    assert dict(device_properties([everything], 252))["DevicePolicy"] == ("s", "auto")
    hole = DeviceCgroup(allow=False, type="c", major=1, minor=11, access="w")
    assert dict(device_properties([everything, hole], 252))["DevicePolicy"] == ("s", "strict")


def test_masks():
    assert cpu_mask("x", "0-7, 9,15-16") == b"\xff\x82\x01"
    for bad in ("1-", "a", "3-1", "-", "1:2", "99999999"):
        with pytest.raises(InvalidArgumentError, match="cpus: "):
            cpu_mask("cpus", bad)


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("ssa(sv)a(sa(sv))", ("x.scope", "replace", [("PIDs", ("au", [1, 2])), ("Delegate", ("b", True))], [])),
        ("sba(sv)", ("x", True, [("DeviceAllow", ("a(ss)", [("/dev/null", "rw"), ("char-*", "m")]))])),
        ("uoss", (7, "/org/job/7", "x.scope", "done")),
        ("yatv", (1, [2**64 - 1], ("ay", [1, 2, 3]))),
        ("a{sv}", ([("a", ("s", "ä")), ("b", ("(st)", ("c", 5)))],)),
    ],
)
def test_messages_there_and_back(signature, values):
    assert dbus.unmarshal(signature, dbus.marshal(signature, *values)) == values


def test_wire_format():
    # An array's length leaves out the padding before its first element (D-Bus specification, Marshaling).
    assert dbus.marshal("yat", 1, [2]) == struct.pack("<BxxxIQ", 1, 8, 2)
    assert dbus.marshal("ss", "ab", "") == b"\x02\0\0\0ab\0\0\0\0\0\0\0"


@pytest.fixture
def other_side(tmp_path, monkeypatch):
    """Serve one connection with a function that gets its socket."""
    path = str(tmp_path / "private")
    monkeypatch.setattr(dbus, "PRIVATE", path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    threads = []

    def serve(body):
        def run():
            with listener.accept()[0] as connection:
                body(connection)

        threads.append(threading.Thread(target=run))
        threads[0].start()

    yield serve
    for thread in threads:
        thread.join()
    listener.close()


def test_a_systemd_that_refuses(other_side):
    def refuse(connection):
        connection.recv(100)
        connection.sendall(b"REJECTED EXTERNAL\r\n")

    other_side(refuse)
    with pytest.raises(UnavailableError, match="cannot talk to systemd over D-Bus: authentication failed"):
        dbus.Connection()


def test_a_systemd_that_is_silent(other_side):
    gone = threading.Event()

    def accept(connection):
        connection.recv(100)
        connection.sendall(b"OK 0123456789abcdef\r\n")
        gone.wait(60)

    other_side(accept)
    connection = dbus.Connection()
    patience, connection._seconds = connection._seconds, 0.1  # of this one call: a greeting may take longer
    with pytest.raises(UnavailableError, match="systemd does not answer StopUnit: timed out"):
        connection.call("a.b", "/a", "a.b", "StopUnit")
    connection._seconds = patience
    gone.set()
    with pytest.raises(UnavailableError, match=r"it closed the connection|connection reset|broken pipe"):
        connection.call("a.b", "/a", "a.b", "StopUnit")
    connection.close()
