# SPDX-License-Identifier: Apache-2.0
"""Properties of newer specifications, which the installed originals do not all know."""

from __future__ import annotations

import array
import json
import os
import re
import select
import socket
import subprocess

import pytest
from support.bundles import COMMANDS, Bundle, Runtime

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer.scheduling import parse_list, plan_scheduling
from orlop.oci.runtime import IOPriority, MemoryPolicy, Process, Scheduler

pytestmark = pytest.mark.root


def test_scheduler_and_io_priority(ours: Runtime, bundle: Bundle) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    container = ours.start(bundle.args("sleep", "100"))
    pid = ours.state(container)["pid"]
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, pid) == 7
    assert (
        subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True).stdout == "idle\n"
    )


def test_exec_affinity(ours: Runtime, bundle: Bundle) -> None:
    container = ours.start(bundle.args("sleep", "100"))
    process = {
        "args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"],
        "execCPUAffinity": {"initial": "0", "final": "0"},
    }  # fmt: skip
    with open(f"{bundle.path}/p.json", "w", encoding="utf-8") as file:
        json.dump(process, file)
    assert ours("exec", "-p", f"{bundle.path}/p.json", container).ok().split() == ["Cpus_allowed_list:", "0"]


def test_memory_policy(ours: Runtime, bundle: Bundle) -> None:
    bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    result = ours.run(bundle.args("head", "-n", "1", "/proc/self/numa_maps"))
    if "set_mempolicy: function not implemented" in result.err:
        pytest.skip("the kernel has no NUMA")
    if "can't open" in result.err:
        pytest.skip("the kernel has no numa_maps")
    assert "bind=static:0" in result.ok()


@pytest.mark.parametrize(
    ("process", "text"),
    [
        ({"scheduler": Scheduler(policy="SCHED_X")}, 'policy is "SCHED_X"'),
        ({"scheduler": Scheduler(policy="SCHED_OTHER", priority=3)}, "goes with SCHED_FIFO"),
        ({"scheduler": Scheduler(policy="SCHED_IDLE", runtime=3)}, "go with SCHED_DEADLINE"),
        ({"scheduler": Scheduler(policy="SCHED_OTHER", nice=20)}, "nice is 20"),
        ({"scheduler": Scheduler(policy="SCHED_OTHER", flags=["X"])}, 'flags is "X"'),
        ({"io_priority": IOPriority(class_="IOPRIO_CLASS_BE", priority=8)}, "priority is 8"),
        ({"io_priority": IOPriority(class_="BE")}, 'class is "BE"'),
    ],
)
def test_bad_scheduling_is_refused_by_name(process: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        plan_scheduling(Process(cwd="/", **process), None, is_exec=False)
    with pytest.raises(InvalidArgumentError, match="memoryPolicy"):
        plan_scheduling(Process(cwd="/"), MemoryPolicy(mode="MPOL_X"), is_exec=False)


def test_lists_of_numbers() -> None:
    assert parse_list("x", "0-2,5") == {0, 1, 2, 5}
    assert parse_list("x", "") == set()
    for bad in ("a", "3-1", "1-", "-1", "0-99999999"):
        with pytest.raises(InvalidArgumentError, match="expected a list"):
            parse_list("x", bad)


def test_id_mapped_mount(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 1234, 1235)
    tmp_path.chmod(0o755)
    bundle.spec["mounts"].append(
        {
            "destination": "/mapped", "source": str(tmp_path), "options": ["rbind", "ridmap"],
            "uidMappings": [{"containerID": 1234, "hostID": 77, "size": 1}],
            "gidMappings": [{"containerID": 1235, "hostID": 78, "size": 1}],
        }
    )  # fmt: skip
    assert ours.run(bundle.args("stat", "-c", "%u %g", "/mapped/file")).ok() == "77 78\n"


def test_an_id_mapped_mount_without_mappings_is_refused(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    bundle.mount("/mapped", "bind", str(tmp_path), "bind", "idmap")
    result = ours.run(bundle.args("true", ""))
    assert result.status == 1
    assert "/mapped: idmap needs uidMappings and gidMappings" in result.message


def _receive(listener: socket.socket) -> tuple[bytes, int]:
    connection, _ = listener.accept()
    with connection:
        message, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
    ((_, _, data),) = ancillary
    return message, array.array("i", data)[0]


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.settimeout(20)
    return listener


def test_pidfd_socket(ours: Runtime, bundle: Bundle) -> None:
    with _listen(f"{bundle.path}/p.sock") as listener:
        container = ours.start(bundle.args("sleep", "100"), "--pidfd-socket", f"{bundle.path}/p.sock")
        message, pidfd = _receive(listener)
        assert message == b"standard"
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8") as file:
            assert f"Pid:\t{ours.state(container)['pid']}\n" in file.read()
    ours("kill", container, "KILL").ok()
    assert select.select([pidfd], [], [], 10)[0], "the descriptor tells of the end"
    os.close(pidfd)


def test_seccomp_listener(ours: Runtime, bundle: Bundle) -> None:
    path = f"{bundle.path}/agent.sock"
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": path, "listenerMetadata": "hello",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }  # fmt: skip
    bundle.spec["annotations"] = {"a": "b"}
    with _listen(path) as listener:
        container = ours.create(bundle.args("mkdir /x; sleep 100"))
        message, notify = _receive(listener)
    state = json.loads(message)
    assert (state["fds"], state["metadata"]) == (["seccompFd"], "hello")
    assert state["pid"] == ours.state(container)["pid"]
    assert (state["state"]["id"], state["state"]["annotations"]) == (container, {"a": "b"})
    ours("start", container).ok()
    assert select.select([notify], [], [], 10)[0], "the call is waiting for an answer"
    os.close(notify)


def test_a_missing_seccomp_agent_is_an_error(ours: Runtime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": f"{bundle.path}/nobody.sock",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }  # fmt: skip
    result = ours.run(bundle.args("true", ""))
    assert result.status == 1
    assert "nobody.sock" in result.message


def test_a_strict_filter_that_knows_no_trampoline(ours: Runtime, bundle: Bundle) -> None:
    """Where the filter allows execve(2) but not execveat(2), the program is executed directly."""
    names = (
        "execve brk arch_prctl mprotect mmap munmap exit exit_group write getuid setgid setuid prctl readlink"
        " ioctl set_tid_address set_robust_list rseq prlimit64 rt_sigaction getrandom close newfstatat fstat uname"
        " set_thread_area getpid gettid read"
    )
    bundle.process["noNewPrivileges"] = True
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": names.split(), "action": "SCMP_ACT_ALLOW"}],
    }  # fmt: skip
    assert ours.run(bundle.args("echo", "strict")).ok() == "strict\n"


def test_runs_below_a_shell_that_closed_its_streams(ours: Runtime, bundle: Bundle) -> None:
    container = ours.new_id(bundle.args("echo hi > /out; ls /proc/self/fd > /fds"))
    bundle.write()
    command = f"{COMMANDS['orlop-runc']} --root {ours.root} run -b {bundle.path} {container} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    with open(f"{bundle.rootfs}/out", encoding="utf-8") as file:
        assert file.read() == "hi\n"


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_a_seccomp_profile_older_than_the_kernel(
    runtime: Runtime, bundle: Bundle, no_new_privileges: bool
) -> None:
    """What the runtime calls after loading the profile must not be what a profile of 2018 forbids."""
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["faccessat2", "close_range", "openat2"], "action": "SCMP_ACT_ERRNO"}],
    }
    assert runtime.run(bundle.args("echo hello")).ok() == "hello\n"
    bundle.args("hello", "there")
    assert re.search("executable file .*not found", runtime.run(bundle).err)


@pytest.mark.skipif(os.path.exists("/sys/fs/selinux"), reason="this machine has SELinux")
@pytest.mark.parametrize("where", ["process.selinuxLabel", "linux.mountLabel"])
def test_labels_need_selinux(runtime: Runtime, bundle: Bundle, where: str) -> None:
    part, name = where.split(".")
    bundle.spec[part][name] = "system_u:system_r:svirt_lxc_net_t:s0:c124,c675"
    result = runtime.run(bundle.args("true", ""))
    if runtime.is_ours and name == "mountLabel":
        assert result.status == 0
        assert "linux.mountLabel: ignored: this system has no SELinux" in result.message
        return
    assert result.status == 1 or runtime.name == "crun"
    assert "process.selinuxLabel: unable to apply" in result.message or not runtime.is_ours


def test_limits_on_kernel_memory_are_warned_about(ours: Runtime, bundle: Bundle) -> None:
    bundle.linux["resources"]["memory"] = {"kernel": 1 << 24, "kernelTCP": 1 << 24, "useHierarchy": True}
    result = ours.run(bundle.args("true", ""))
    result.ok()
    assert "linux.resources.memory.kernel, kernelTCP" in result.message


def test_throttles_of_block_devices(ours: Runtime, bundle: Bundle) -> None:
    """In the kernel, where a block device can be had."""
    device = os.stat("/").st_dev
    whole = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not os.path.exists(whole) or os.path.exists(f"{whole}/partition"):
        pytest.skip("the root filesystem is not on a whole block device")
    limit = {"major": os.major(device), "minor": os.minor(device), "rate": 1 << 30}
    bundle.linux["resources"]["blockIO"] = {
        "throttleReadBpsDevice": [limit], "throttleWriteBpsDevice": [limit],
        "throttleReadIOPSDevice": [limit], "throttleWriteIOPSDevice": [limit],
    }  # fmt: skip
    container = ours.create(bundle.args("true", ""))
    group = f"/sys/fs/cgroup/blkio/orlop-oci/{container}"
    for name in ("read_bps", "write_bps", "read_iops", "write_iops"):
        with open(f"{group}/blkio.throttle.{name}_device", encoding="utf-8") as file:
            assert file.read().split() == [f"{os.major(device)}:{os.minor(device)}", str(1 << 30)], name
