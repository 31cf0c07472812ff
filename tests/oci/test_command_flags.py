# SPDX-License-Identifier: Apache-2.0
"""Flags that no other test uses, each by its effect; cli.tsv tells which test uses which flag."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from typing import Any

import pytest
from support.bundles import COMMANDS as PROGRAMS
from support.bundles import Bundle, Runtime, eventually
from support.pace import PACE

from orlop.runc.commands import COMMANDS, GLOBAL

pytestmark = pytest.mark.root


def _status(text: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _pids(runtime: Runtime, container: str) -> list[int]:
    pids: list[int] = json.loads(runtime("ps", "-f", "json", container).ok())
    return pids


# -- global ---------------------------------------------------------------------------------------


def test_debug_tells_of_the_steps(runtime: Runtime, bundle: Bundle) -> None:
    log = f"{bundle.path}/log"
    container = runtime.new_id(bundle.args("echo ran"))
    bundle.write()
    run = ("run", "--bundle", bundle.path, container)
    assert runtime("--debug", "--log", log, *run).ok() == "ran\n"
    if runtime.name != "crun":  # which has little to say
        with open(log, encoding="utf-8") as file:
            assert "level=debug" in file.read()
    if runtime.is_ours:
        quiet = runtime(*run)
        assert (quiet.ok(), quiet.err) == ("ran\n", "")
        told = runtime("--debug", *run).err
        for words in ("control groups by cgroupfs", "init is process", "the program runs", "removed"):
            assert words in told


def test_help_names_every_flag(runtime: Runtime) -> None:
    for command in ("", "create", "exec", "run", "update", "delete"):
        out = runtime(*([command] if command else []), "--help").ok()
        if not runtime.is_ours:
            assert "--" in out
            continue
        flags = COMMANDS[command][5] if command else GLOBAL
        assert [name for name, *_ in flags if f"--{name}" not in out] == []
        if command:
            assert runtime("help", command).ok() == runtime(command, "-h").ok() == out
        else:
            assert [name for name in COMMANDS if f"\n   {name} " not in out] == []


# What an original shows of itself and ours does not take, with the reason.
_NOT_OURS = {
    "usage": "argp's, of crun's command line alone",
    "v": "the short form of --version, which help shows as it shows long ones",
    "h": "as -v",
    "generate-bash-completion": "urfave/cli's",
}
_SHOWN = re.compile(r"(?<![\w-])--([a-z0-9][a-z0-9-]*)")


@pytest.mark.original
@pytest.mark.parametrize("name", ["runc", "crun"])
def test_what_the_originals_show_is_taken(name: str) -> None:
    """Every command and flag that the help of an installed original names is in the table of ours."""
    if not os.path.exists(PROGRAMS[name]):
        pytest.skip(f"{name} is not installed")

    def shown(*words: str) -> str:
        done = subprocess.run(
            [PROGRAMS[name], *words, "--help"], capture_output=True, text=True, check=False, timeout=30 * PACE
        )
        return done.stdout

    whole = shown()
    if name == "runc":
        listed = re.findall(r"^   (\w+)", whole.partition("COMMANDS:")[2].partition("GLOBAL")[0], re.M)
    else:
        listed = re.findall(r"^\t(\w+) +- ", whole, re.M)
    assert len(listed) > 12
    assert set(listed) - set(COMMANDS) - {"help"} == set()
    lacking = {
        (command, flag)
        for command in ("", *(name for name in listed if name != "help"))
        for flag in _SHOWN.findall(_options(shown(command)) if command else _options(whole))
        if flag not in {name for name, *_ in (COMMANDS[command][5] if command else GLOBAL)} | set(_NOT_OURS)
    }
    assert lacking == set()


def _options(text: str) -> str:
    """The lines of a help text that begin with a flag, without what is said of it."""
    lines = [line.strip() for line in text.splitlines()]
    return "\n".join(re.split(r"\s{2,}|\t", line)[0] for line in lines if line.startswith("-"))


# -- create and run -------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True])
def test_a_session_keyring_of_its_own_or_the_callers(runtime: Runtime, bundle: Bundle, kept: bool) -> None:
    if not os.path.exists("/proc/keys"):
        pytest.skip("the kernel shows no keys")
    bundle.linux["maskedPaths"] = []
    flags = ["--no-new-keyring"] if kept else []
    out = runtime.run(bundle.args("cat", "/proc/keys"), *flags).ok()
    assert (runtime.ids[-1] in out) is not kept
    container = runtime.create(bundle.args("cat /proc/keys > /keys"), *flags)
    runtime("start", container).ok()
    runtime.await_status(container, "stopped")
    with open(f"{bundle.rootfs}/keys", encoding="utf-8") as file:
        assert (container in file.read()) is not kept


_ORPHAN = """
sh -c '(while test -e /wait; do sleep 0.02; done) & echo $! > /orphan'
touch /up
sleep 100
"""


@pytest.mark.parametrize("flag", ["", "--no-subreaper"])
def test_who_collects_what_is_orphaned(runtime: Runtime, bundle: Bundle, flag: str) -> None:
    """In the host's PID namespace: the runtime in the foreground, unless told not to."""
    container = runtime.new_id(bundle.without_namespace("pid").args(_ORPHAN))
    bundle.write()
    open(f"{bundle.rootfs}/wait", "w").close()
    process = subprocess.Popen(
        [*runtime.command, "--root", runtime.root, "run", *([flag] if flag else []), "-b", bundle.path, container],
        stdin=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: os.path.exists(f"{bundle.rootfs}/up"), "the script does not run")
        with open(f"{bundle.rootfs}/orphan", encoding="utf-8") as file:
            orphan = int(file.read())
        with open(f"/proc/{orphan}/status", encoding="utf-8") as file:
            parent = int(_status(file.read())["PPid"])
        if runtime.name != "crun":  # which takes the flag and heeds it not
            assert (parent == process.pid) is not bool(flag)
    finally:
        os.unlink(f"{bundle.rootfs}/wait")
        runtime("kill", "--all", container, "KILL")
        process.wait(30 * PACE)


def _terminal(bundle: Bundle) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{bundle.path}/c.sock")
    listener.listen()
    listener.settimeout(30 * PACE)
    return listener


def _received(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    with connection:
        _, (descriptor,), _, _ = socket.recv_fds(connection, 4096, 1)
    return descriptor


def test_run_hands_its_terminal_over(runtime: Runtime, bundle: Bundle) -> None:
    """`create` is in test_process.py."""
    bundle.process["terminal"] = True
    flags = ("--console-socket", f"{bundle.path}/c.sock", "--pid-file", f"{bundle.path}/pid")
    with _terminal(bundle) as listener:
        container = runtime.start(bundle.args("tty; sleep 100"), *flags)
        master = _received(listener)
    try:
        assert os.read(master, 100).startswith((b"/dev/pts/0", b"/dev/console"))
    finally:
        os.close(master)
    with open(f"{bundle.path}/pid", encoding="utf-8") as file:
        assert int(file.read()) == runtime.state(container)["pid"]


def test_descriptors_of_processes(ours: Runtime, bundle: Bundle) -> None:
    """Of `create` and `exec`; `run` is in test_more_properties.py. Debian's runc does not know the flag yet."""
    flags = ("--pidfd-socket", f"{bundle.path}/c.sock")

    def process_of(listener: socket.socket) -> int:
        descriptor = _received(listener)
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="utf-8") as file:
            pid = _status(file.read())["Pid"]
        os.close(descriptor)
        return int(pid)

    with _terminal(bundle) as listener:
        container = ours.create(bundle.args("sleep", "100"), *flags)
        assert process_of(listener) == ours.state(container)["pid"]
        ours("start", container).ok()
        ours("exec", "-d", "--pid-file", f"{bundle.path}/pid", *flags, container, "sleep", "100").ok()
        with open(f"{bundle.path}/pid", encoding="utf-8") as file:
            assert process_of(listener) == int(file.read())


def test_create_without_pivot_root(runtime: Runtime, bundle: Bundle) -> None:
    """`run` is in test_rootfs.py."""
    container = runtime.create(bundle.args("ls / > /seen"), "--no-pivot")
    runtime("start", container).ok()
    runtime.await_status(container, "stopped")
    with open(f"{bundle.rootfs}/seen", encoding="utf-8") as file:
        assert {"bin", "proc", "seen"} <= set(file.read().split())


def test_create_takes_what_crun_takes(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name != "runc":
        container = runtime.create(bundle.args("true", ""), "--no-subreaper")
        assert runtime.state(container)["status"] == "created"


def test_preserved_descriptors_of_create_and_exec(runtime: Runtime, bundle: Bundle) -> None:
    """`run` is in test_process.py."""
    with open(f"{bundle.path}/note", "w+", encoding="utf-8") as note:
        note.write("kept")
    descriptor = os.open(f"{bundle.path}/note", os.O_RDONLY)
    try:
        script = 'exec 3<"$1"; shift; exec "$@"'
        kept = ["sh", "-c", script, "sh", f"{bundle.path}/note", *runtime.command, "--root", runtime.root]
        container = runtime.new_id(bundle.args("cat <&3 >/seen; sleep 100"))
        bundle.write()
        create = [*kept, "create", "-b", bundle.path, "--preserve-fds", "1", container]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(create, check=True, timeout=30 * PACE, **quiet)  # type: ignore[call-overload]
        runtime("start", container).ok()
        seen = f"{bundle.rootfs}/seen"
        eventually(lambda: os.path.exists(seen) and os.path.getsize(seen) == 4, "the note is not read")
        command = [*kept, "exec", "--preserve-fds", "1", container, "sh", "-c", "cat <&3"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=30 * PACE
        )
        assert done.stdout == "kept"
    finally:
        os.close(descriptor)


def test_descriptors_to_preserve_that_are_not_open(ours: Runtime, bundle: Bundle) -> None:
    running = ours.start(bundle.args("sleep", "100"))
    another = ours.bundle().args("true", "")
    container = ours.new_id(another)
    another.write()
    for words in (
        ("run", "-b", another.path, container),
        ("create", "-b", another.path, container),
        ("exec", running, "true"),
    ):
        status = 255 if words[0] == "exec" else 1
        result = ours(words[0], "--preserve-fds", "2", *words[1:])
        assert (result.status, "descriptor 3 (3 to 4) is not open" in result.message) == (status, True), words
        result = ours(words[0], "--preserve-fds", "-1", *words[1:])
        assert (result.status, "--preserve-fds is -1" in result.message) == (status, True), words
    assert ours("state", container).status == 1


# -- exec -----------------------------------------------------------------------------------------


def test_exec_no_new_privileges(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["noNewPrivileges"] = False
    container = runtime.start(bundle.args("sleep", "100"))
    for flags, value in ((["--no-new-privs"], "1"), ([], "0")):
        out = runtime("exec", *flags, container, "cat", "/proc/self/status").ok()
        assert _status(out)["NoNewPrivs"] == value


def test_an_exec_waits_in_a_paused_container(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "crun":
        pytest.skip("crun has no --ignore-paused")
    container = runtime.start(bundle.args("sleep", "100"))
    runtime("pause", container).ok()
    refused = runtime("exec", container, "true")
    assert refused.status == 255
    assert "paused" in refused.message
    process = subprocess.Popen(
        [*runtime.command, "--root", runtime.root, "exec", "--ignore-paused", container, "echo", "went on"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        eventually(lambda: len(_pids(runtime, container)) > 1, "nothing joins the container")
        assert process.poll() is None
        runtime("resume", container).ok()
        out, _ = process.communicate(timeout=30 * PACE)
        assert (process.returncode, out) == (0, "went on\n")
    finally:
        runtime("resume", container)
        process.kill()
        process.communicate()


def test_labels_of_an_exec_without_the_module(runtime: Runtime, bundle: Bundle) -> None:
    """Where it is there: test_apparmor.py; SELinux's attribute with a stand-in: tests/kernel."""
    if os.path.exists("/sys/fs/selinux/enforce"):
        pytest.skip("this kernel runs SELinux")
    container = runtime.start(bundle.args("sleep", "100"))
    result = runtime("exec", "--process-label", "system_u:system_r:x_t:s0", container, "echo", "ran")
    if runtime.name == "crun":  # which goes without
        assert result.ok() == "ran\n"
        return
    assert (result.status, result.out) == (255, "")
    assert "selinux" in result.message.lower()


# -- other commands -------------------------------------------------------------------------------


def test_events_at_an_interval(runtime: Runtime, bundle: Bundle) -> None:
    if runtime.name == "crun":
        pytest.skip("crun has no events")
    container = runtime.start(bundle.args("sleep", "1000"))
    for text in ("0s", "soon", "-1s"):
        result = runtime("events", "--interval", text, container)
        assert result.status != 0
        assert "interval" in result.message
    process = subprocess.Popen(
        [*runtime.command, "--root", runtime.root, "events", "--interval", "50ms", container],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for _ in range(3):
            event = json.loads(process.stdout.readline())
            assert (event["type"], event["id"]) == ("stats", container)
        runtime("delete", "--force", container).ok()
        process.stdout.read()
        assert process.wait(30 * PACE) == 0
    finally:
        process.kill()
        process.communicate()


def test_kill_all(runtime: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("pid").args("sleep 100 & sleep 200 & touch /up; wait")
    container = runtime.start(bundle)
    eventually(lambda: os.path.exists(f"{bundle.rootfs}/up"), "the script does not run")
    pids = _pids(runtime, container)
    assert len(pids) == 3
    runtime("kill", "--all", container, "KILL").ok()
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "processes are left")


@pytest.mark.parametrize("flag", ["--l3-cache-schema", "--mem-bw-schema"])
def test_update_of_what_the_machine_has_not(runtime: Runtime, bundle: Bundle, flag: str) -> None:
    """The effect, on directories that look like resctrl: test_host_resources.py."""
    if os.path.exists("/sys/fs/resctrl/schemata"):
        pytest.skip("this machine shares its cache")
    container = runtime.start(bundle.args("sleep", "100"))
    result = runtime("update", flag, "L3:0=f", container)
    assert result.status != 0
    assert "rdt" in result.message.lower() or runtime.name == "crun"  # an older one does not know the flag


# -- checkpoint and restore: what of the flags reaches CRIU ---------------------------------------

# Says that it has every feature, writes down what it is asked to do, and fails.
_CRIU = """
raw = s.recv(65536)
if raw[:2] == bytes([8, 9]):
    s.send(bytes([8, 9, 16, 1, 66, 4, 8, 1, 16, 1]))
    sys.exit(0)
with open(sys.argv[0] + ".asked", "wb") as file:
    file.write(raw)
import os
reader, writer = os.pipe()
if os.fork() == 0:
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            os.sched_yield()
        os.write(writer, str(os.getppid()).encode())
    os._exit(0)
os.wait()
with open(sys.argv[0] + ".parents", "w") as file:
    file.write(f"{os.getppid()} {os.read(reader, 20).decode()}")
s.send(bytes([8, raw[1], 16, 0, 74, 6]) + b"no way")
"""


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(raw: bytes) -> dict[int, Any]:
    """A message of protobuf, as far as CRIU's are used: numbers and bytes by field, the last one of each."""
    found: dict[int, Any] = {}
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        value, at = _varint(raw, at)
        if key & 7 == 2:
            found[key >> 3], at = raw[at : at + value], at + value
        else:
            found[key >> 3] = value
    return found


class _Criu:
    """A stand-in for criu(8) that is alone in PATH."""

    def __init__(self, directory: str) -> None:
        self.path = f"{directory}/criu"
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(f"#!{sys.executable} -I\nimport socket, sys\ns = socket.socket(fileno=3)\n{_CRIU}")
        os.chmod(self.path, 0o755)
        self.environment = {**os.environ, "PATH": directory}

    def options(self) -> dict[int, Any]:
        """The criu_opts of the last request (CRIU's images/rpc.proto)."""
        with open(f"{self.path}.asked", "rb") as file:
            options: dict[int, Any] = _fields(_fields(file.read())[2])
        return options

    def orphans_go_to_the_runtime(self) -> bool:
        with open(f"{self.path}.parents", encoding="utf-8") as file:
            runtime, orphans = file.read().split()
        return runtime == orphans


def test_flags_of_checkpoint_reach_criu(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    criu = _Criu(str(tmp_path))
    container = ours.start(bundle.args("sleep", "100"))
    (tmp_path / "first").mkdir()
    images = ("--image-path", str(tmp_path / "images"), "--work-path", str(tmp_path / "work"))

    def asked(*flags: str) -> dict[int, Any]:
        result = ours("checkpoint", *images, *flags, container, env=criu.environment)
        assert (result.status, "criu failed: no way" in result.message) == (1, True), result.message
        return criu.options()

    plain = asked()
    numbers = {
        "--leave-running": 3, "--ext-unix-sk": 4, "--tcp-established": 5, "--shell-job": 7, "--file-locks": 8,
        "--auto-dedup": 16, "--link-remap": 18, "--tcp-skip-in-flight": 46, "--lazy-pages": 48,
    }  # fmt: skip
    all_of_them = asked(
        *numbers, "--parent-path", "../first", "--page-server", "127.0.0.1:27", "--empty-ns", "network",
        "--manage-cgroups-mode", "strict", "--network-lock", "nftables",
    )  # fmt: skip
    for flag, number in numbers.items():
        assert (plain.get(number, 0), all_of_them.get(number)) == (0, 1), flag
    assert 17 in plain, "the directory of logs"
    assert all_of_them[14] == b"../first"
    assert _fields(all_of_them[11]) == {1: b"127.0.0.1", 2: 27}
    assert (all_of_them[38], all_of_them[34], all_of_them[64]) == (0x40000000, 5, 2)
    assert asked("--pre-dump")[15] == 1
    for flags, words in (
        (("--empty-ns", "pid"), 'empty-ns is "pid"'),
        (("--manage-cgroups-mode", "hard"), 'manage-cgroups-mode is "hard"'),
        (("--page-server", "here"), 'page server is "here", expected ADDRESS:PORT'),
    ):
        result = ours("checkpoint", *images, *flags, container, env=criu.environment)
        assert (result.status, words in result.message) == (1, True), result.message
    assert ours.state(container)["status"] == "running"


def test_flags_of_restore_reach_criu(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    criu = _Criu(str(tmp_path))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "descriptors.json").write_text('["/dev/null", "/dev/null", "/dev/null"]')
    container = ours.new_id(bundle.args("sleep", "100"))
    bundle.write()
    fixed = ("--image-path", str(tmp_path / "images"), "--bundle", bundle.path)

    def asked(*flags: str) -> dict[int, Any]:
        result = ours("restore", *fixed, *flags, container, env=criu.environment)
        assert (result.status, "criu failed: no way" in result.message) == (1, True), result.message
        assert ours("state", container).status == 1
        return criu.options()

    plain = asked("--detach")
    assert not criu.orphans_go_to_the_runtime()
    numbers = {
        "--ext-unix-sk": 4, "--tcp-established": 5, "--shell-job": 7, "--file-locks": 8, "--auto-dedup": 16,
        "--lazy-pages": 48, "--tcp-close": 52,
    }  # fmt: skip
    all_of_them = asked(
        "-d", *numbers, "--lsm-profile", "apparmor:x", "--lsm-mount-context", "a:b:c", "--empty-ns", "network",
        "--manage-cgroups-mode", "ignore", "--network-lock", "skip", "--work-path", str(tmp_path),
    )  # fmt: skip
    for flag, number in numbers.items():
        assert (plain.get(number, 0), all_of_them.get(number)) == (0, 1), flag
    assert (all_of_them[53], all_of_them[63]) == (b"apparmor:x", b"a:b:c")
    assert (all_of_them[38], all_of_them[34], all_of_them[64]) == (0x40000000, 0, 3)
    assert (17 in plain, 17 in all_of_them) == (False, True)
    # CRIU, which makes the root of the mounts by itself, is not asked about this one; nor is it by runc.
    assert asked("-d", "--no-pivot").keys() == plain.keys()
    asked()
    assert criu.orphans_go_to_the_runtime()
    asked("--no-subreaper")
    assert not criu.orphans_go_to_the_runtime()
