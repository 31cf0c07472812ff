# SPDX-License-Identifier: Apache-2.0
"""The Task API over every driver and runtime: life, exit codes, execs, terminals, limits, errors, events."""

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.shims import TASK_V2, Attached, Lab, Shim, children_of, eventually, kill, pids_of

from orlop.api import cgroup_metrics_v1_pb2, cgroup_metrics_v2_pb2, types_pb2
from orlop.api import shim_v2_pb2 as api
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from orlop.rpc.ttrpc.client import Client
from orlop.shim.bootstrap import is_served
from orlop.unix import mount

pytestmark = pytest.mark.root


def test_life(any_lab: Lab) -> None:
    shim = any_lab.shim(["sh", "-c", "echo out; echo err >&2; exit 7"])
    pid = shim.create().pid
    assert shim.state().status == 1
    with Attached(shim.attach_path) as attached:
        assert attached.answer == {"attached": True}
        assert shim.start().pid == pid
        assert shim.wait() == 7
        assert attached.read_all() == {1: b"out\n", 2: b"err\n"}
    state = shim.state()
    assert (state.status, state.exit_status, state.pid, state.bundle) == (3, 7, pid, str(shim.bundle))
    assert state.exited_at.seconds > 1_600_000_000
    assert sorted(shim.log()) == [("stderr", "err\n"), ("stdout", "out\n")]
    deleted = shim.delete()
    assert (deleted.exit_status, deleted.pid) == (7, pid)
    assert deleted.exited_at == state.exited_at
    with pytest.raises(NotFoundError):
        shim.state()
    assert not os.path.exists(f"/proc/{pid}")
    shim.shutdown()
    assert any_lab.sink.topics() == ["create", "start", "exit", "delete"]
    create, start, ended, delete = (event for _, event in any_lab.sink.events)
    assert (create.container_id, create.pid, create.bundle) == ("c1", pid, str(shim.bundle))
    assert start.pid == pid
    assert (ended.id, ended.container_id, ended.exit_status, ended.exited_at) == ("c1", "c1", 7, state.exited_at)
    assert (delete.container_id, delete.exit_status) == ("c1", 7)


def finish(shim: Shim) -> None:
    """Kill, delete, shut down."""
    if shim.state().status in (1, 2, 4):
        shim.kill(9)
        shim.wait()
    shim.delete()
    shim.shutdown()


def test_signals_and_exit_codes(any_lab: Lab) -> None:
    shim = any_lab.shim(["sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done"])
    shim.create()
    with Attached(shim.attach_path) as attached:
        shim.start()
        attached.read_until(b"ready")
    shim.kill(15)
    assert shim.wait() == 42
    with pytest.raises(NotFoundError, match="process already finished"):
        shim.kill(15)
    shim.delete()
    shim.shutdown()


def test_killed_by_a_signal_is_128_more(any_lab: Lab) -> None:
    shim = any_lab.shim(["sleep", "1000"])
    shim.run()
    shim.kill(9)
    assert shim.wait() == 137
    finish(shim)


def test_execs(any_lab: Lab) -> None:
    shim = any_lab.shim(["sleep", "1000"])
    shim.run()
    shim.exec("e1", ["sh", "-c", "echo in exec; cat; exit 3"], stdin=f"attach://{shim.exec_socket('e1')}?once=1")
    assert shim.state("e1").status == 1
    with Attached(shim.exec_socket("e1"), stdin=True) as attached:
        pid = shim.start("e1").pid
        attached.send(b"typed\n")
        attached.read_until(b"typed")
        pids = shim.call("Pids", api.PidsRequest(id="c1")).processes
        assert pid in [info.pid for info in pids]
        attached.end_input()
        assert attached.read_all()[1] == b"in exec\ntyped\n"
    assert shim.wait("e1") == 3
    assert shim.state("e1").exit_status == 3
    with pytest.raises(AlreadyExistsError):
        shim.exec("e1", ["true"])
    assert shim.delete("e1").exit_status == 3
    with pytest.raises(NotFoundError):
        shim.state("e1")
    assert not os.path.exists(shim.exec_socket("e1"))
    assert any_lab.sink.wait_for("exit").id == "e1"
    assert any_lab.sink.topics() == ["create", "start", "exec-added", "exec-started", "exit"]
    finish(shim)


def test_init_exit_comes_after_those_of_execs(any_lab: Lab) -> None:
    shim = any_lab.shim(["sleep", "1000"])
    shim.run()
    for name in ("e1", "e2", "e3"):
        shim.exec(name, ["sleep", "1000"])
        shim.start(name)
    shim.kill(9)
    assert shim.wait() == 137
    exits = [any_lab.sink.wait_for("exit", count).id for count in (1, 2, 3, 4)]
    assert sorted(exits[:3]) == ["e1", "e2", "e3"]
    assert exits[3] == "c1"
    assert all(any_lab.sink.wait_for("exit", count).exit_status == 137 for count in (1, 2, 3, 4))
    with pytest.raises(FailedPreconditionError):
        shim.exec("late", ["true"])
    finish(shim)


def test_exec_kill(any_lab: Lab) -> None:
    shim = any_lab.shim(["sleep", "1000"])
    shim.run()
    shim.exec("e1", ["sleep", "1000"])
    with pytest.raises(FailedPreconditionError):
        shim.kill(15, "e1")
    shim.start("e1")
    shim.kill(15, "e1")
    assert shim.wait("e1") == 143
    assert shim.state().status == 2
    finish(shim)


def test_terminal(any_lab: Lab) -> None:
    shim = any_lab.shim(["sh", "-c", "stty size; read line; stty size; echo got $line; tty"], terminal=True)
    shim.create(terminal=True, stdin=f"attach://{shim.attach_path}")
    with Attached(shim.attach_path, stdin=True) as attached:
        shim.call("ResizePty", api.ResizePtyRequest(id="c1", width=111, height=22))
        shim.start()
        attached.read_until(b"22 111")
        shim.call("ResizePty", api.ResizePtyRequest(id="c1", width=80, height=40))
        attached.send(b"word\n")
        text = attached.read_all()[1]
    assert b"40 80" in text
    assert b"got word" in text
    assert b"/dev/" in text
    assert shim.wait() == 0
    assert (
        "".join(text for _, text in shim.log()).replace("\r\n", "\n").endswith("/dev/pts/0\n")
        or b"console" in text
    )
    finish(shim)


def test_exec_with_a_terminal(any_lab: Lab) -> None:
    shim = any_lab.shim(["sleep", "1000"])
    shim.run()
    shim.exec("t", ["sh", "-c", "test -t 0 && stty size"], terminal=True)
    with Attached(shim.exec_socket("t")) as attached:
        shim.start("t")
        assert attached.read_all()[1].strip()
    assert shim.wait("t") == 0
    finish(shim)


def test_pause_and_resume(any_lab: Lab) -> None:
    shim = any_lab.shim(["sleep", "1000"])
    shim.run()
    shim.call("Pause", api.PauseRequest(id="c1"))
    assert shim.state().status == 4
    shim.exec("e1", ["true"])
    with pytest.raises(FailedPreconditionError, match="paused"):
        shim.start("e1")
    shim.call("Resume", api.ResumeRequest(id="c1"))
    assert shim.state().status == 2
    with pytest.raises(FailedPreconditionError):
        shim.call("Resume", api.ResumeRequest(id="c1"))
    any_lab.sink.wait_for("resumed")
    assert any_lab.sink.topics() == ["create", "start", "paused", "exec-added", "resumed"]
    finish(shim)


def test_update_and_stats(any_lab: Lab) -> None:
    shim = any_lab.shim(["sleep", "1000"])
    shim.run()
    request = api.UpdateTaskRequest(id="c1")
    request.resources.value = json.dumps({"pids": {"limit": 77}, "memory": {"limit": 64 << 20}}).encode()
    shim.call("Update", request)
    stats = shim.call("Stats", api.StatsRequest(id="c1")).stats
    kinds = {
        "io.containerd.cgroups.v1.Metrics": cgroup_metrics_v1_pb2.Metrics,
        "io.containerd.cgroups.v2.Metrics": cgroup_metrics_v2_pb2.Metrics,
    }
    metrics = kinds[stats.type_url].FromString(stats.value)
    assert (metrics.pids.current, metrics.pids.limit) == (1, 77)
    limit = metrics.memory.usage.limit if "v1" in stats.type_url else metrics.memory.usage_limit
    assert limit == 64 << 20
    finish(shim)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["nothing-like-this"], "executable file not found in"),
        (["/bin"], "ermission denied"),
        (["/no/such/file"], "no such file or directory"),
    ],
)
def test_errors_of_create_have_the_runtimes_text(any_lab: Lab, args: list[str], complaint: str) -> None:
    shim = any_lab.shim(args)
    with pytest.raises(InternalError) as caught:
        shim.create()
        shim.start()
    text = str(caught.value)
    assert text.startswith("OCI runtime create failed: ")
    if "crun" not in any_lab.options.binary_name or complaint != "ermission denied":
        assert complaint in text or "is a directory" in text or "o such file" in text
    with pytest.raises(NotFoundError):
        shim.state()
    assert not os.path.exists(shim.attach_path)
    shim.shutdown()


def test_errors_of_exec(any_lab: Lab) -> None:
    shim = any_lab.shim(["sleep", "1000"])
    shim.run()
    shim.exec("e1", ["nothing-like-this"])
    with pytest.raises(InternalError, match=r"^OCI runtime exec failed: "):
        shim.start("e1")
    shim.delete("e1")
    assert shim.state().status == 2
    with pytest.raises(NotFoundError):
        shim.start("e1")
    shim.kill(9)
    assert shim.wait() == 137
    any_lab.sink.wait_for("exit")
    assert "exec-started" not in any_lab.sink.topics()
    finish(shim)


def test_delete_of_a_created_container(any_lab: Lab) -> None:
    shim = any_lab.shim(["sleep", "1000"])
    pid = shim.create().pid
    shim.delete()
    assert not os.path.exists(f"/proc/{pid}")
    shim.shutdown()
    assert any_lab.sink.topics() == ["create", "exit", "delete"]


def test_nobody_keeps_a_dead_shims_connections(lab: Lab) -> None:
    hang = {"path": "/bin/sleep", "args": ["sleep", "30.125"]}
    created, hung = lab.shim(["true"], "c1"), lab.shim(["true"], "c2", hooks={"createRuntime": [hang]})
    pid = created.create().pid

    def create() -> None:
        with pytest.raises(UnavailableError):
            hung.create()

    threading.Thread(target=create, daemon=True).start()
    hooks = eventually(lambda: pids_of("30.125"))
    helpers = children_of(hung.pid)
    for shim in (created, hung):
        with Client.connect(shim.address) as client:  # another connection, as containerd's
            client.call(TASK_V2, "Connect", api.ConnectRequest(id=shim.id))
            os.kill(shim.pid, 9)
            assert client._sock.recv(1) == b""
        eventually(lambda path=shim.address[7:]: not is_served(path))  # type: ignore[misc]
    os.kill(pid, 0)
    for each in (pid, *(child for helper in helpers for child in children_of(helper)), *helpers, *hooks):
        kill(each)
    for name in ("c1", "c2"):
        words = ["-namespace", lab.namespace, "-id", name, "-bundle", str(lab.directory / name), "delete"]
        subprocess.run([sys.executable, "-P", "-m", "orlop.shim.main", *words], check=True, capture_output=True)


def test_states_forbid(lab: Lab) -> None:
    shim = lab.shim(["sleep", "1000"])
    shim.run()
    for complaint, action in [
        ("cannot start a running container", shim.start),
        ("cannot delete a running container", shim.delete),
        ("the process has no terminal", lambda: shim.call("ResizePty", api.ResizePtyRequest(id="c1", width=1))),
    ]:
        with pytest.raises(FailedPreconditionError, match=complaint):
            action()
    with pytest.raises(AlreadyExistsError):
        shim.create()
    if shutil.which("criu") is None:
        with pytest.raises(FailedPreconditionError, match="criu"):
            shim.call("Checkpoint", api.CheckpointTaskRequest(id="c1", path=str(shim.bundle / "images")))
    with pytest.raises(InvalidArgumentError, match="exec_id must not be empty"):
        shim.exec("", ["true"])
    shim.call("Shutdown", api.ShutdownRequest(id="c1"))  # it still has a container
    assert shim.state().status == 2
    finish(shim)


def test_both_versions_of_the_api_are_served(lab: Lab) -> None:
    shim = lab.shim(["true"])
    answer = shim.client.call(TASK_V2, "Connect", api.ConnectRequest(id="c1"))
    assert answer.shim_pid == shim.pid
    assert shim.call("Connect", api.ConnectRequest(id="c1")).shim_pid == shim.pid
    shim.shutdown()


def is_held(pid: int, device: int) -> bool:
    """Whether a process has something of the file system open."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_dev == device:
                return True
    return False


@pytest.mark.parametrize("more", [[], ["index=off"]], ids=["", "whose end is put off"])
def test_rootfs_is_mounted_and_unmounted(lab: Lab, more: list[str]) -> None:
    shim = lab.shim(["sh", "-c", "touch /made; ls /made"])
    config = json.loads((shim.bundle / "config.json").read_text())
    config["root"]["path"] = "rootfs"
    (shim.bundle / "config.json").write_text(json.dumps(config))
    for name in ("upper", "work"):
        (shim.bundle / name).mkdir()
    options = [f"lowerdir={lab.rootfs}", f"upperdir={shim.bundle}/upper", f"workdir={shim.bundle}/work", *more]
    shim.run(rootfs=[types_pb2.Mount(type="overlay", source="overlay", options=options)])
    assert f"{shim.bundle}/rootfs " in Path("/proc/mounts").read_text()
    device = (shim.bundle / "rootfs").stat().st_dev
    assert shim.wait() == 0
    assert (shim.bundle / "upper/made").exists()
    shim.delete()
    assert f"{shim.bundle}/rootfs " not in Path("/proc/mounts").read_text()
    if more:  # the same may be mounted at once
        again = mount.detached_mount("overlay", "overlay", options)
        assert os.path.exists(f"/proc/self/fd/{again}/made")
        os.close(again)
    eventually(lambda: not is_held(shim.pid, device), within=60)
    shim.shutdown()


def test_bad_rootfs_leaves_nothing(lab: Lab) -> None:
    shim = lab.shim(["true"])
    good = types_pb2.Mount(type="tmpfs", source="tmpfs")
    bad = types_pb2.Mount(type="nothing-like-this", source="x")
    with pytest.raises(InvalidArgumentError, match="failed to mount rootfs component"):
        shim.create(rootfs=[good, bad])
    assert f"{shim.bundle}/rootfs " not in Path("/proc/mounts").read_text()
    shim.shutdown()


def test_out_of_memory_is_told_before_the_exit(lab: Lab) -> None:
    linux = {
        "namespaces": [{"type": "pid"}, {"type": "mount"}],
        "resources": {"memory": {"limit": 8 << 20, "swap": 8 << 20}},
        "cgroupsPath": f"/orlop-shim-{lab.name}-c1",
    }
    shim = lab.shim(["sh", "-c", "x=x; while :; do x=$x$x; done"], linux=linux)
    shim.run()
    assert shim.wait() == 137
    lab.sink.wait_for("exit")
    assert lab.sink.topics() == ["create", "start", "oom", "exit"]
    finish(shim)


def test_shared_pid_namespace_leaves_no_orphans(lab: Lab) -> None:
    linux = {"namespaces": [{"type": "mount"}], "cgroupsPath": f"/orlop-shim-{lab.name}-c1"}
    shim = lab.shim(["sh", "-c", "sleep 1000 & echo $!; sleep 1000"], linux=linux)
    shim.create()
    with Attached(shim.attach_path) as attached:
        shim.start()
        orphan = int(attached.read_until(b"\n"))
        os.kill(shim.state().pid, 15)
        assert shim.wait() == 143
    eventually(lambda: not os.path.exists(f"/proc/{orphan}"))
    finish(shim)


def test_group_shares_one_shim(lab: Lab) -> None:
    annotations = {"io.containerd.runc.v2.group": "pod"}
    first = lab.shim(["sleep", "1000"], "c1", annotations=annotations)
    second = lab.shim(["sleep", "1000"], "c2", annotations=annotations)
    assert (first.address, first.pid) == (second.address, second.pid)
    first.run()
    second.run()
    first.kill(9)
    first.wait()
    first.delete()
    first.call("Shutdown", api.ShutdownRequest(id="c1"))
    assert second.state().status == 2
    finish(second)


def test_task_starts_while_another_call_waits(lab: Lab) -> None:
    shim = lab.shim(["sleep", "1000"])
    shim.create()
    waiter = Shim(lab, "c1", shim.bundle, shim.address, shim.pid)
    from orlop.rpc.ttrpc import methods

    waiter.client._sock.sendall(methods.encode_request(1, TASK_V2, "Wait", api.WaitRequest(id="c1")))
    shim.start()
    shim.kill(9)
    data = waiter.client._sock.recv(4096)
    assert struct.unpack(">IIBB", data[:10])[1] == 1
    waiter.close()
    finish(shim)
