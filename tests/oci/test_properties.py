# SPDX-License-Identifier: Apache-2.0
"""Effects of properties that no other test sees in a container; which test sees which property: properties.tsv."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.bundles import Bundle, Runtime, eventually, give_real_time

from orlop.libcontainer.seccomp_numbers import numbers

pytestmark = pytest.mark.root


def _known(runtime: Runtime, effect: bool, what: str) -> None:
    """An original without the effect is older than the property; ours must have it."""
    if not effect and not runtime.is_ours:
        pytest.skip(f"this {runtime.name} does not know {what}")
    assert effect, what


def _chrt(pid: int) -> str:
    return subprocess.run(["chrt", "-p", str(pid)], capture_output=True, text=True, check=True).stdout


def test_scheduling_by_deadline(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["scheduler"] = {
        "policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"],
        "runtime": 1_000_000, "deadline": 50_000_000, "period": 100_000_000,
    }  # fmt: skip
    container = runtime.new_id(bundle.args("sleep", "100"))
    bundle.write()
    result = runtime("run", "--detach", "--bundle", bundle.path, container)
    if runtime.name == "crun" and "failed to reset affinity" in result.err:
        pytest.skip("crun resets the affinity after it has set the policy, which the kernel refuses")
    result.ok()
    shown = _chrt(runtime.state(container)["pid"])
    _known(runtime, "SCHED_DEADLINE" in shown, "SCHED_DEADLINE")
    assert "SCHED_DEADLINE|SCHED_RESET_ON_FORK" in shown
    assert "1000000/50000000/100000000" in shown


def test_scheduling_by_priority(runtime: Runtime, bundle: Bundle) -> None:
    if os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):  # a group has no real time unless it is given some
        give_real_time()
        bundle.linux["resources"]["cpu"] = {"realtimePeriod": 500000, "realtimeRuntime": 5000}
    bundle.process["scheduler"] = {"policy": "SCHED_RR", "priority": 5}
    pid = runtime.state(runtime.start(bundle.args("sleep", "100")))["pid"]
    _known(runtime, os.sched_getscheduler(pid) == os.SCHED_RR, "SCHED_RR")
    assert os.sched_getparam(pid).sched_priority == 5


def test_priority_of_input_and_output(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    pid = runtime.state(runtime.start(bundle.args("sleep", "100")))["pid"]
    shown = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    _known(runtime, shown == "best-effort: prio 6\n", "ioPriority")


def test_offsets_of_both_clocks(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "time"})
    bundle.linux["timeOffsets"] = {
        "monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": 5_000_000, "nanosecs": 7},
    }  # fmt: skip
    result = runtime.run(bundle.args("cat", "/proc/self/timens_offsets"))
    _known(runtime, "5000000" in result.out, "time namespaces")
    assert result.ok().split() == ["monotonic", "1000", "5", "boottime", "5000000", "7"]


def test_host_ids_of_a_mount(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 1234, 1235)
    tmp_path.chmod(0o755)
    bundle.spec["mounts"].append(
        {
            "destination": "/mapped", "source": str(tmp_path), "type": "bind", "options": ["bind", "idmap"],
            "uidMappings": [{"containerID": 1230, "hostID": 70, "size": 10}],
            "gidMappings": [{"containerID": 1230, "hostID": 80, "size": 10}],
        }
    )  # fmt: skip
    result = runtime.run(bundle.args("stat", "-c", "%u %g", "/mapped/file"))
    _known(runtime, result.out == "74 85\n", "mappings of a mount without a user namespace")


_OPERATORS = {
    "LT": {4}, "LE": {4, 5}, "EQ": {5}, "GE": {5, 6}, "GT": {6}, "NE": {4, 6}, "MASKED_EQ": {5},
}  # fmt: skip


def test_conditions_of_seccomp(runtime: Runtime, bundle: Bundle) -> None:
    """Each operator, on the second argument of kill(2); the first one tells which rule is meant."""
    rules = []
    for number, name in enumerate(_OPERATORS):
        value = {"value": 3, "valueTwo": 1} if name == "MASKED_EQ" else {"value": 5}
        args = [
            {"index": 0, "value": 90001 + number, "op": "SCMP_CMP_EQ"},
            {"index": 1, "op": f"SCMP_CMP_{name}", **value},
        ]
        rules.append({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95, "args": args})
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules,
    }  # fmt: skip
    script = """for pid in 90001 90002 90003 90004 90005 90006 90007; do for signal in 4 5 6; do
        kill -$signal $pid 2>&1 | grep -q 'not supported' && echo $pid $signal
    done; done; true"""
    lines = runtime.run(bundle.args(script)).ok().splitlines()
    assert lines == [f"{90001 + n} {s}" for n, hit in enumerate(_OPERATORS.values()) for s in sorted(hit)]


def test_actions_of_seccomp(runtime: Runtime, bundle: Bundle) -> None:
    actions = {
        "sethostname": "KILL_PROCESS", "rmdir": "TRAP", "symlink": "TRACE", "link": "LOG", "sync": "KILL_THREAD",
    }  # fmt: skip
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": [name], "action": f"SCMP_ACT_{action}"} for name, action in actions.items()],
    }  # fmt: skip
    if runtime.name != "runc":  # runc 1.1 refuses all flags
        bundle.linux["seccomp"]["flags"] = ["SECCOMP_FILTER_FLAG_LOG"]
    b = "/bin/busybox"
    script = f"""mkdir /d; {b} hostname x; echo $?; {b} rmdir /d; echo $?; {b} ln -s a /s; echo $?
    {b} ln /etc/passwd /l; echo $?; {b} sync; echo $?"""
    result = runtime.run(bundle.args(script))
    assert result.ok().split() == ["159", "159", "1", "0", "159"]
    assert "not implemented" in result.err


def test_the_error_of_a_call_beyond_the_profile(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 95, "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": sorted(set(numbers("x86_64")) - {"mkdir"}), "action": "SCMP_ACT_ALLOW"}],
    }  # fmt: skip
    assert "not supported" in runtime.run(bundle.args("mkdir", "/x")).err


_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def _hook(bundle: Bundle, kind: str, script: str) -> dict[str, object]:
    """A hook that writes to the root filesystem, by a path that is right where it runs."""
    inside = kind == "startContainer"
    directory = "" if inside else bundle.rootfs
    with open(f"{bundle.rootfs}/bin/{kind}", "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\n" + script.replace("ROOT", directory))
    os.chmod(f"{bundle.rootfs}/bin/{kind}", 0o755)
    return {
        "path": f"{directory}/bin/{kind}",
        "args": ["zero", "one"],
        "env": [f"KIND={kind}", "PATH=/bin:/usr/bin"],
    }


def test_arguments_and_environment_of_hooks(runtime: Runtime, bundle: Bundle) -> None:
    bundle.spec["hooks"] = {
        kind: [_hook(bundle, kind, 'cat > /dev/null; echo "$1 $KIND" >> ROOT/log\n')] for kind in _HOOKS
    }
    runtime.run(bundle.args("true", "")).ok()
    with open(f"{bundle.rootfs}/log", encoding="utf-8") as file:
        assert sorted(file.read().splitlines()) == sorted(f"one {kind}" for kind in _HOOKS)


def test_each_hook_has_its_time(runtime: Runtime) -> None:
    """A hook that hangs is ended: one of each kind at the same time."""

    def hang(kind: str) -> tuple[str, Bundle]:
        bundle = runtime.bundle()
        hook = _hook(bundle, kind, "echo $$ > ROOT/pid\nexec sleep 1000\n")
        bundle.spec["hooks"] = {kind: [{**hook, "timeout": 1}]}
        container = runtime.new_id(bundle.args("true", ""))
        bundle.write()
        runtime("run", "--bundle", bundle.path, container)
        return container, bundle

    with ThreadPoolExecutor(len(_HOOKS)) as pool:
        for kind, (_, bundle) in zip(_HOOKS, pool.map(hang, _HOOKS), strict=True):
            if kind not in ("createContainer", "startContainer"):  # their numbers are of the container's namespace
                with open(f"{bundle.rootfs}/pid", encoding="utf-8") as file:
                    pid = int(file.read())
                eventually(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), f"the {kind} hook goes on")
