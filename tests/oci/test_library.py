# SPDX-License-Identifier: Apache-2.0
"""libcontainer as the shim calls it: in process, with descriptors of the caller."""

from __future__ import annotations

import glob
import mmap
import os
import select
import sys
from collections.abc import Iterator

import pytest
from support.bundles import Bundle, Runtime, eventually

from orlop import cgroups
from orlop.codec import convert
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OrlopError,
)
from orlop.libcontainer import Container, CreateOptions, ExecOptions, Stdio
from orlop.libcontainer.journal import set_warning_sink
from orlop.oci.runtime import Pids, Process, Resources, Spec

pytestmark = pytest.mark.root


def _open_descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the directory that was being read
    return found


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    before = _open_descriptors()
    yield
    assert _open_descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def _create(ours: Runtime, bundle: Bundle, options: CreateOptions | None = None) -> Container:
    container_id = ours.new_id(bundle)
    spec = convert(bundle.spec, Spec)
    return Container.create(ours.root, container_id, bundle.path, spec, options or CreateOptions())


def _finish(container: Container) -> int:
    _, status = os.waitpid(container.init_pid, 0)
    container.delete()
    return os.waitstatus_to_exitcode(status)


def _remains(ours: Runtime, container: str) -> dict[str, object]:
    """What the lives of a container may not leave: in this process, and in the kernel."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        mounts = [line for line in file if ours.base in line]
    with open("/proc/keys", encoding="utf-8") as file:
        keys = [line for line in file if f"_ses.{container}:" in line]
    groups = glob.glob(f"/sys/fs/cgroup/*/orlop-oci/{container}")
    return {"descriptors": len(os.listdir("/proc/self/fd")), "mounts": mounts, "keys": keys, "groups": groups}


def test_two_hundred_lives_leave_nothing(ours: Runtime, bundle: Bundle) -> None:
    """Mounts, control groups, descriptors, keys; and a child is collected each time."""
    container = ours.new_id(bundle.args("true", ""))
    spec = convert(bundle.spec, Spec)
    with open("/dev/null", "r+b", buffering=0) as null:
        options = CreateOptions(stdio=Stdio(null.fileno(), null.fileno(), null.fileno()))

        def live(times: int) -> None:
            for _ in range(times):
                made = Container.create(ours.root, container, bundle.path, spec, options)
                made.start()
                os.waitpid(made.init_pid, 0)
                made.delete()

        live(3)  # what is opened once for all
        before = len(os.listdir("/proc/self/fd"))
        live(200)
    nothing = {"descriptors": before - 1, "mounts": [], "keys": [], "groups": []}  # less the null device
    eventually(lambda: _remains(ours, container) == nothing, f"not {nothing}")
    assert os.listdir(ours.root) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_hundred_creates_and_deletes_of_the_command_leave_nothing(ours: Runtime, bundle: Bundle) -> None:
    container = ours.new_id(bundle.args("true", ""))
    bundle.write()
    nothing = _remains(ours, container)
    for _ in range(200):
        ours("create", "--bundle", bundle.path, container).ok()
        ours("delete", "--force", container).ok()
    eventually(lambda: _remains(ours, container) == nothing, f"not {nothing}")
    assert os.listdir(ours.root) == []


def test_streams_of_the_caller(ours: Runtime, bundle: Bundle) -> None:
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    container = _create(
        ours, bundle.args("echo out; echo err >&2; exit 3"), CreateOptions(stdio=Stdio(null, writer, writer))
    )
    os.close(writer)
    assert container.state().status == "created"
    container.start()
    with open(reader, encoding="utf-8") as file:
        assert file.read() == "out\nerr\n"
    os.close(null)
    assert _finish(container) == 3


def test_streams_in_any_order(ours: Runtime, bundle: Bundle) -> None:
    """The given descriptors may themselves be 0, 1 and 2, exchanged."""
    out_reader, out_writer = os.pipe()
    in_reader, in_writer = os.pipe()
    saved = [os.dup(fd) for fd in (0, 1, 2)]
    try:
        os.dup2(out_writer, 0)
        os.dup2(in_reader, 1)
        container = _create(ours, bundle.args("cat"), CreateOptions(stdio=Stdio(1, 0, 2)))
        container.start()
    finally:
        for target, fd in enumerate(saved):
            os.dup2(fd, target)
            os.close(fd)
    os.close(out_writer)
    os.close(in_reader)
    os.write(in_writer, b"through")
    os.close(in_writer)
    with open(out_reader, "rb") as file:
        assert file.read() == b"through"
    assert _finish(container) == 0


def test_a_created_container_holds_nothing_of_the_caller(ours: Runtime, bundle: Bundle) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    container = _create(ours, bundle.args("true", ""))
    os.close(writer)
    assert select.select([reader], [], [], 5)[0], "the pipe's other end is still open somewhere"
    assert os.read(reader, 1) == b""
    os.close(reader)
    container.start()
    assert _finish(container) == 0


def test_a_terminal_is_handed_to_the_caller(ours: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    container = _create(ours, bundle.args("echo hello"))
    container.start()
    assert container.console is not None
    assert os.read(container.console, 100) == b"hello\r\n"
    os.close(container.console)
    assert _finish(container) == 0


def test_exec(ours: Runtime, bundle: Bundle) -> None:
    container = _create(ours, bundle.args("sleep", "100"))
    container.start()
    reader, writer = os.pipe()
    process = Process(cwd="/", args=["sh", "-c", "echo $$; exit 4"], env=["PATH=/bin"])
    result = container.exec(process, ExecOptions(stdio=Stdio(0, writer, 2)))
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        assert int(file.read()) > 1
    _, status = os.waitpid(result.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 4
    terminal = Process(cwd="/", args=["echo", "hi"], env=["PATH=/bin"], terminal=True)
    result = container.exec(terminal, ExecOptions())
    assert result.console is not None
    assert os.read(result.console, 100) == b"hi\r\n"
    os.close(result.console)
    os.waitpid(result.pid, 0)
    with pytest.raises(NotFoundError, match=r'exec: "foo": executable file not found in \$PATH'):
        container.exec(Process(cwd="/", args=["foo"], env=["PATH=/bin"]), ExecOptions())
    container.signal(9)
    assert _finish(container) == -9


def test_exec_reports_what_only_the_kernel_finds(ours: Runtime, bundle: Bundle) -> None:
    with open(f"{bundle.rootfs}/bad", "wb") as file:
        file.write(b"#!/no/such/interpreter\n")
    os.chmod(f"{bundle.rootfs}/bad", 0o755)
    container = _create(ours, bundle.args("sleep", "100"))
    container.start()
    with pytest.raises(InvalidArgumentError, match="exec /bad: no such file or directory"):
        container.exec(Process(cwd="/", args=["/bad"]), ExecOptions())
    container.signal(9)
    _finish(container)


def test_states_forbid(ours: Runtime, bundle: Bundle) -> None:
    container = _create(ours, bundle.args("sleep", "100"))
    with pytest.raises(AlreadyExistsError):
        Container.create(ours.root, container.id, bundle.path, convert(bundle.spec, Spec), CreateOptions())
    with pytest.raises(FailedPreconditionError, match="container not paused"):
        container.resume()
    container.start()
    with pytest.raises(FailedPreconditionError, match="cannot start an already running container"):
        container.start()
    with pytest.raises(FailedPreconditionError, match="that is not stopped: running"):
        container.delete()
    container.pause()
    assert container.status() == "paused"
    container.resume()
    container.update(Resources(pids=Pids(limit=9)))
    stats = container.stats()
    assert stats.pids is not None
    assert (stats.pids.limit, container.pids()) == (9, [container.init_pid])
    again = Container.load(ours.root, container.id)
    assert again.record.spec.linux.resources.pids.limit == 9
    assert again.record.spec.linux.resources.devices, "what the update did not name stays"
    again.signal(9, all=True)
    os.waitpid(container.init_pid, 0)
    with pytest.raises(NotFoundError, match="container not running"):
        container.signal(15)
    with pytest.raises(FailedPreconditionError, match="cannot exec in a stopped container"):
        container.exec(Process(cwd="/", args=["true"]), ExecOptions())
    assert container.state().status == "stopped"
    again.delete()
    container.delete(force=True)
    with pytest.raises(NotFoundError, match="container does not exist"):
        Container.load(ours.root, container.id)


def test_a_container_of_a_dead_caller_can_be_started_by_another(ours: Runtime, bundle: Bundle) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            _create(ours, bundle.args("touch", "/ran"))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    (container,) = Container.list(ours.root)
    ours.ids.append(container.id)
    assert container.state().status == "created"
    container.start()
    eventually(lambda: container.status() == "stopped", "it does not end")
    assert os.path.exists(f"{bundle.rootfs}/ran")
    container.delete()


def test_warnings_reach_the_caller(ours: Runtime, bundle: Bundle) -> None:
    heard: list[str] = []
    set_warning_sink(heard.append)
    try:
        bundle.process["capabilities"]["bounding"].append("CAP_TELEPORT")
        container = _create(ours, bundle.args("true", ""))
    finally:
        set_warning_sink(lambda message: None)
    container.start()
    _finish(container)
    assert heard == ["unknown capabilities: CAP_TELEPORT"]


def test_the_unified_hierarchy(ours: Runtime, bundle: Bundle, monkeypatch) -> None:
    """As on a host of version 2: the process is born in its group, and sees it as the root."""
    top = "/sys/fs/cgroup/unified"
    if not os.path.exists(f"{top}/cgroup.procs"):
        pytest.skip("no unified hierarchy at hand")
    path = f"{top}/orlop-test-{os.getpid()}"
    monkeypatch.setattr(cgroups, "new_manager", lambda *_: cgroups.load_manager({"": path}))
    bundle.linux["resources"] = {}
    reader, writer = os.pipe()
    script = "cat /proc/self/cgroup | grep ^0; cat /sys/fs/cgroup/cgroup.procs; sleep 100"
    container = _create(ours, bundle.args(script), CreateOptions(stdio=Stdio(0, writer, writer)))
    os.close(writer)
    container.start()
    with open(reader, encoding="utf-8") as file:
        assert file.readline() == "0::/\n"
        assert file.readline() == "1\n"
        process = Process(cwd="/", args=["grep", "^0", "/proc/self/cgroup"], env=["PATH=/bin"])
        inner, end = os.pipe()
        result = container.exec(process, ExecOptions(stdio=Stdio(0, end, 2)))
        os.close(end)
        with open(inner, encoding="utf-8") as output:
            assert output.read() == "0::/\n"
        os.waitpid(result.pid, 0)
    assert container.pids()[0] == container.init_pid
    container.signal(9)
    _finish(container)
    assert not os.path.exists(path)


@pytest.mark.parametrize("args", [["sh", "-c", "exit 0"], ["nonexistent"], ["/etc/passwd"]])
def test_the_child_imports_nothing(ours: Runtime, bundle: Bundle, args: list[str]) -> None:
    """After the fork the interpreter's path may lead into the container: no module is looked for any more."""
    bundle.process["args"] = args
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    seen = mmap.mmap(-1, 1 << 16)  # shared with the children, who close every descriptor
    helper = os.fork()
    if helper == 0:
        try:

            def hook(event: str, details: tuple[object, ...]) -> None:
                if event == "import" and os.getpid() != me:
                    seen.write(f"{details[0]} ".encode())

            me = os.getpid()
            sys.addaudithook(hook)
            container = _create(ours, bundle)
            process = Process(cwd="/", args=args, env=["PATH=/bin"])
            container.exec(process, ExecOptions())
            container.start()
        finally:
            os._exit(0)
    os.waitpid(helper, 0)
    assert seen[:].rstrip(b"\0") == b""
    seen.close()
    for container in Container.list(ours.root):
        ours.ids.append(container.id)


@pytest.mark.parametrize("error", [OSError(13, "Permission denied", "tasks"), MemoryError(), KeyboardInterrupt()])
def test_an_error_in_the_child_never_runs_the_callers_code(
    ours: Runtime, bundle: Bundle, monkeypatch, error: BaseException
) -> None:
    """Above all not its clean-up: the child shares the state directory and the control groups."""
    seen = mmap.mmap(-1, 4096)
    me = os.getpid()

    def fail(*_: object) -> None:
        raise error

    def note(self: Container, made_cgroup: bool, discard=Container._discard) -> None:
        seen.write(b"parent " if os.getpid() == me else b"child ")
        discard(self, made_cgroup)

    monkeypatch.setattr("orlop.libcontainer.init.isolate", fail)  # the first that the child does everywhere
    monkeypatch.setattr(Container, "_discard", note)
    with pytest.raises(OrlopError, match="error during container init"):
        _create(ours, bundle)
    assert seen[:].rstrip(b"\0") == b"parent "
    seen.close()
    assert Container.list(ours.root) == []


def test_a_child_without_a_parent_ends(ours: Runtime, bundle: Bundle) -> None:
    """The caller is killed while a hook runs: init finds the conversation ended and goes."""
    hook = f"{bundle.path}/hook"
    with open(hook, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\necho $$ > {bundle.path}/up\nkill -9 $PPID\nexec sleep 100\n")
    os.chmod(hook, 0o755)
    bundle.spec["hooks"] = {"createRuntime": [{"path": hook, "env": ["PATH=/bin:/usr/bin"]}]}
    helper = os.fork()
    if helper == 0:
        try:
            _create(ours, bundle)
        finally:
            os._exit(0)
    _, status = os.waitpid(helper, 0)
    assert os.waitstatus_to_exitcode(status) == -9
    (container,) = Container.list(ours.root)
    ours.ids.append(container.id)
    eventually(lambda: container.pids() == [], "init is left")
    assert container.status() == "stopped"
    container.delete()
    with open(f"{bundle.path}/up", encoding="utf-8") as file:
        os.kill(int(file.read()), 9)
