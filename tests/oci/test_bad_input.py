# SPDX-License-Identifier: Apache-2.0
"""What cannot work ends in one clear message, in runc's exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support.bundles import Bundle, Runtime, eventually

pytestmark = pytest.mark.root


def _log(path: str) -> list[dict[str, str]]:
    if not os.path.exists(path):
        return []  # crun says it on standard error alone
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _fails(runtime: Runtime, status: int, *command: str, words: str = "", **options: object) -> str:
    """Run what has to fail; the message, which is on standard error and in the JSON log."""
    log = f"{runtime.base}/log.json"
    result = runtime("--log", log, "--log-format", "json", *command, **options)
    assert result.status == status, result.err
    errors = [entry["msg"] for entry in _log(log) if entry["level"] == "error"]
    if os.path.exists(log):
        os.unlink(log)
    if runtime.is_ours:
        assert len(errors) == 1
        assert errors[0].strip() and "\n" not in errors[0]
        assert errors[0] in result.err
        assert "Traceback" not in result.err
        assert words in errors[0]
    return errors[-1] if errors else result.err


def _nothing_left(runtime: Runtime, container: str) -> None:
    assert not os.path.exists(f"{runtime.root}/{container}")
    groups = [f"/sys/fs/cgroup/{name}/orlop-oci/{container}" for name in ("", *os.listdir("/sys/fs/cgroup"))]
    assert [path for path in groups if os.path.isdir(path)] == []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        assert [line for line in file if f"{runtime.base}/bundle" in line] == []


def _refused(runtime: Runtime, bundle: Bundle, words: str = "", status: int = 1) -> None:
    container = runtime.new_id(bundle)
    bundle.write()
    for command in ("create", "run"):
        _fails(runtime, status, command, "--bundle", bundle.path, container, words=words)
        _nothing_left(runtime, container)


# -- the bundle -----------------------------------------------------------------------------------


def test_a_bundle_without_config(runtime: Runtime, bundle: Bundle) -> None:
    for command in ("create", "run"):
        _fails(runtime, 1, command, "--bundle", bundle.path, "x", words="config.json not found")
    assert not os.path.exists(f"{runtime.root}/x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ('{"ociVersion": "1.0.2"', "truncated"),
        ('{"ociVersion": 1}', "$.ociVersion"),
        ("[]", "Expected `object`"),
        ("\xff\xfe", "malformed"),
        ('{"ociVersion": "1.0.2", "process": {"args": [1], "cwd": "/"}}', "$.process.args[0]"),
        ("[" * 100_000, ""),
        ('{"a":' * 100_000, ""),
    ],
    ids=["empty", "open", "cut", "number", "list", "bytes", "wrong-type", "deep-list", "deep-object"],
)
def test_broken_json(runtime: Runtime, bundle: Bundle, text: str, words: str) -> None:
    with open(f"{bundle.path}/config.json", "w", encoding="latin-1") as file:
        file.write(text)
    if runtime.is_ours or runtime.name == "runc":
        _fails(runtime, 1, "create", "--bundle", bundle.path, "x", words=words)
    else:
        assert runtime("create", "--bundle", bundle.path, "x").status == 1
    assert not os.path.exists(f"{runtime.root}/x")


def test_a_config_that_is_a_directory_or_never_ends(ours: Runtime, bundle: Bundle) -> None:
    os.mkdir(f"{bundle.path}/config.json")
    _fails(ours, 1, "create", "--bundle", bundle.path, "x", words="config.json: is a directory")
    os.rmdir(f"{bundle.path}/config.json")
    os.symlink("/dev/zero", f"{bundle.path}/config.json")
    _fails(ours, 1, "create", "--bundle", bundle.path, "x", words="config.json")
    assert not os.path.exists(f"{ours.root}/x")


def test_a_bundle_that_is_missing(runtime: Runtime) -> None:
    for command in ("create", "run"):
        _fails(runtime, 1, command, "--bundle", "/no/such/bundle", "x", words="/no/such/bundle")
    assert not os.path.exists(f"{runtime.root}/x")


@pytest.mark.parametrize("version", ["2.0.0", "one", ""])
def test_an_unknown_version(ours: Runtime, bundle: Bundle, version: str) -> None:
    bundle.spec["ociVersion"] = version
    _refused(ours, bundle.args("true", ""), "ociVersion")


# -- states ---------------------------------------------------------------------------------------


def test_wrong_states(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.args("sleep", "100"))
    again = ("create", "--bundle", bundle.path, container)
    _fails(runtime, 1, *again, words="container with given ID already exists")
    runtime("start", container).ok()
    _fails(runtime, 1, "start", container, words="cannot start an already running container")
    _fails(runtime, 1, "delete", container, words="cannot delete container")
    if runtime.name != "crun":
        _fails(runtime, 1, "resume", container, words="not paused")
    runtime("kill", container, "KILL").ok()
    runtime.await_status(container, "stopped")
    _fails(runtime, 1, "start", container, words="cannot start a container that has stopped")
    stopped = ("exec", container, "true")
    if runtime.name == "crun":  # 1, or 255 where the process has not been collected
        assert runtime(*stopped).status in (1, 255)
    else:
        _fails(runtime, 255, *stopped, words="cannot exec in a stopped container")
    _fails(runtime, 1, "pause", container, words="container not running")
    if runtime.name == "runc":  # crun kills what it has not yet found out to be gone
        _fails(runtime, 1, "kill", container, "TERM", words="container not running")
    if runtime.is_ours:  # runc 1.1 writes the limits of a container that has stopped
        _fails(runtime, 1, "update", "--pids-limit", "10", container, words="container not running")
    runtime("delete", container).ok()
    for command in ("start", "state", "delete", "kill", "pause", "resume", "ps", "update", "events"):
        if runtime.name == "crun":  # 1, or 253 from some of its commands
            assert runtime(command, container).status in (1, 253)
            continue
        _fails(runtime, 1, command, container, words="container does not exist")
    if runtime.name != "crun":
        _fails(runtime, 255, "exec", container, "true", words="container does not exist")


# -- programs and hooks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["no-such-program"], 'exec: "no-such-program": executable file not found in $PATH'),
        (["/no/such"], "/no/such: no such file or directory"),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
        (["/tmp"], 'exec: "/tmp": is a directory'),
    ],
)
def test_programs_that_cannot_run(runtime: Runtime, bundle: Bundle, args: list[str], words: str) -> None:
    bundle.process["args"] = args
    _refused(runtime, bundle, words)


def test_an_exec_of_what_cannot_run(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    for program, words in (("/no/such", "no such file or directory"), ("/etc/passwd", "permission denied")):
        if runtime.name == "crun":  # 255, or 1 from other versions
            assert runtime("exec", container, program).status in (1, 255)
        else:
            _fails(runtime, 255, "exec", container, program, words=words)
    assert runtime("exec", container, "echo", "alive").ok() == "alive\n"


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails(ours: Runtime, bundle: Bundle, kind: str) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}
    bundle.spec["hooks"] = {kind: [hook]}
    _refused(ours, bundle.args("true", ""), f"error running {kind} hook #0: exit status 3, output: because")


def test_a_hook_that_is_missing(ours: Runtime, bundle: Bundle) -> None:
    bundle.spec["hooks"] = {"createRuntime": [{"path": "/no/such/hook"}]}
    _refused(ours, bundle.args("true", ""), "/no/such/hook: no such file or directory")


def test_a_hook_that_hangs_is_ended_with_all_the_rest(runtime: Runtime, bundle: Bundle) -> None:
    hook = f"{bundle.path}/hook"
    with open(hook, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\necho $$ > $0.pid\nexec sleep 60\n")
    os.chmod(hook, 0o755)
    bundle.spec["hooks"] = {"createRuntime": [{"path": hook, "timeout": 1}]}
    container = runtime.new_id(bundle.args("true", ""))
    bundle.write()
    _fails(runtime, 1, "create", "--bundle", bundle.path, container, words="ran past specified timeout of 1")
    _nothing_left(runtime, container)
    with open(f"{hook}.pid", encoding="utf-8") as file:
        pid = int(file.read())
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "the hook is left")


def test_a_runtime_that_is_killed_in_a_hook_leaves_what_can_be_deleted(ours: Runtime, bundle: Bundle) -> None:
    hook = f"{bundle.path}/hook"
    with open(hook, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\necho $$ > $0.new; mv $0.new $0.pid\nexec sleep 60\n")
    os.chmod(hook, 0o755)
    bundle.spec["hooks"] = {"createRuntime": [{"path": hook}]}
    container = ours.new_id(bundle.args("true", ""))
    bundle.write()
    process = subprocess.Popen([*ours.command, "--root", ours.root, "create", "-b", bundle.path, container])
    eventually(lambda: os.path.exists(f"{hook}.pid"), "the hook does not run")
    process.kill()
    process.wait()
    with open(f"{hook}.pid", encoding="utf-8") as file:
        os.kill(int(file.read()), 9)
    ours("delete", "--force", container).ok()
    _nothing_left(ours, container)


# -- what is full ---------------------------------------------------------------------------------


@contextmanager
def _tmpfs(path: str, size: str) -> Iterator[str]:
    os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def _fill(path: str) -> None:
    with open(f"{path}/filler", "wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(b"x" * 4096)


def test_no_space_for_the_state(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.new_id(bundle.args("true", ""))
    bundle.write()
    with _tmpfs(runtime.root, "size=16k") as root:
        _fill(root)
        message = _fails(runtime, 1, "create", "--bundle", bundle.path, container)
        if runtime.is_ours:  # runc has no words for it, crun leaves a directory
            assert "no space left on device" in message
            assert os.listdir(root) == ["filler"]
            _nothing_left(runtime, container)


def test_no_inodes_for_the_state(ours: Runtime, bundle: Bundle) -> None:
    container = ours.new_id(bundle.args("true", ""))
    bundle.write()
    for inodes in range(1, 5):  # the directory, state.json, its successor, the socket
        with _tmpfs(ours.root, f"nr_inodes={inodes}") as root:
            _fails(ours, 1, "create", "--bundle", bundle.path, container, words="no space left on device")
            assert os.listdir(root) == []
        _nothing_left(ours, container)


def test_no_space_in_the_root_filesystem(runtime: Runtime, bundle: Bundle) -> None:
    """For the mount point that has to be made."""
    bundle.args("true", "").mount("/made/for/it", "tmpfs", "tmpfs")
    with _tmpfs(f"{bundle.path}/small", "nr_inodes=8") as small:
        os.makedirs(f"{small}/rootfs/dev")
        for name in ("proc", "sys"):
            os.mkdir(f"{small}/rootfs/{name}")
        os.mkdir(f"{small}/rootfs/tmp")
        os.mkdir(f"{small}/rootfs/bin")
        bundle.spec["root"]["path"] = f"{small}/rootfs"
        container = runtime.new_id(bundle)
        bundle.write()
        message = _fails(runtime, 1, "create", "--bundle", bundle.path, container)
        assert "no space left on device" in message.lower()
        assert not os.path.exists(f"{runtime.root}/{container}")
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            assert [line for line in file if f"{small}/" in line] == []


def test_a_pid_file_that_cannot_be_written(ours: Runtime, bundle: Bundle) -> None:
    container = ours.new_id(bundle.args("sleep", "100"))
    bundle.write()
    command = ("create", "--bundle", bundle.path, "--pid-file", "/no/such/file", container)
    _fails(ours, 1, *command, words="/no/such")
    _nothing_left(ours, container)


def _limit_parent(controller: str, file: str, value: str) -> str:
    """A control group of version 1 with a limit; skips where there is none."""
    path = f"/sys/fs/cgroup/{controller}/orlop-full-{os.getpid()}"
    if not os.path.isdir(f"/sys/fs/cgroup/{controller}"):
        pytest.skip(f"no {controller} controller of version 1")
    os.mkdir(path)
    with open(f"{path}/{file}", "w", encoding="utf-8") as handle:
        handle.write(value)
    return path


def test_a_full_control_group(ours: Runtime, bundle: Bundle) -> None:
    """One that has no room for the memory of a process more."""
    parent = _limit_parent("memory", "memory.limit_in_bytes", "4096")
    try:
        container = ours.new_id(bundle.args("sleep", "100"))
        bundle.linux["cgroupsPath"] = f"/{os.path.basename(parent)}/{container}"
        bundle.write()
        _fails(ours, 1, "create", "--bundle", bundle.path, container, words="unable to start container process")
        assert not os.path.exists(f"{ours.root}/{container}")
        assert [entry.name for entry in os.scandir(parent) if entry.is_dir()] == []
    finally:
        for name in os.listdir("/sys/fs/cgroup"):
            directory = f"/sys/fs/cgroup/{name}/{os.path.basename(parent)}"
            if os.path.isdir(directory):
                os.rmdir(directory)


def test_limits_that_leave_no_room_for_the_program(ours: Runtime, bundle: Bundle) -> None:
    bundle.args("true", "").linux["resources"]["memory"] = {"limit": 4096}
    _refused(ours, bundle, "")


# -- the root filesystem --------------------------------------------------------------------------


def test_a_root_filesystem_that_is_a_link(runtime: Runtime, bundle: Bundle) -> None:
    os.rename(bundle.rootfs, f"{bundle.path}/real")
    os.symlink("real", bundle.rootfs)
    if runtime.name == "crun":
        assert runtime.run(bundle.args("echo hello")).ok() == "hello\n"
    else:
        _refused(runtime, bundle.args("true", ""), "not an absolute path, or a symlink")


def test_a_bundle_behind_a_link(runtime: Runtime, bundle: Bundle) -> None:
    os.symlink(bundle.path, f"{runtime.base}/link")
    container = runtime.new_id(bundle.args("echo hello"))
    bundle.write()
    assert runtime("run", "--bundle", f"{runtime.base}/link", container).ok() == "hello\n"


@pytest.mark.parametrize("what", ["missing", "file", "dangling", "loop"])
def test_a_root_filesystem_that_is_none(runtime: Runtime, bundle: Bundle, what: str) -> None:
    make: dict[str, Callable[[str], object]] = {
        "missing": lambda path: None,
        "file": lambda path: open(path, "w").close(),
        "dangling": lambda path: os.symlink("nowhere", path),
        "loop": lambda path: os.symlink("none", path),
    }
    make[what](f"{bundle.path}/none")
    bundle.spec["root"]["path"] = "none"
    _refused(runtime, bundle.args("true", ""), "invalid rootfs: ")


def test_a_root_filesystem_that_vanishes(runtime: Runtime, bundle: Bundle) -> None:
    """After it was created: it runs on what it holds, and is deleted all the same."""
    container = runtime.create(bundle.args("true", ""))
    os.rename(bundle.rootfs, f"{bundle.path}/gone")
    runtime("start", container).ok()
    runtime.await_status(container, "stopped")
    runtime("delete", container).ok()
    _nothing_left(runtime, container)
    _refused(runtime, bundle, "invalid rootfs: ")
