# SPDX-License-Identifier: Apache-2.0
"""What a process of a container is given: user, capabilities, limits, descriptors, terminal."""

from __future__ import annotations

import array
import json
import os
import re
import socket
import subprocess

import pytest
from support.bundles import Bundle, Runtime, eventually

pytestmark = pytest.mark.root

_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def _status(text: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _bits(*numbers: int) -> str:
    return f"{sum(1 << number for number in numbers):016x}"


def test_user_groups_and_umask(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o27}
    status = _status(runtime.run(bundle.args("cat", "/proc/self/status")).ok())
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1001"] * 4
    assert set(status["Groups"].split()) >= {"5", "6"}
    assert status["Umask"] == "0027"


def test_large_ids(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 2**31 - 1, "gid": 2**31 - 2}
    status = _status(runtime.run(bundle.args("cat", "/proc/self/status")).ok())
    assert status["Uid"].split()[0] == str(2**31 - 1)
    assert status["Gid"].split()[0] == str(2**31 - 2)


def test_capabilities(runtime: Runtime, bundle: Bundle) -> None:
    chown, kill, bind = "CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"
    bundle.process["capabilities"] = {
        "bounding": [chown, kill, bind], "permitted": [chown, kill], "effective": [chown],
        "inheritable": [kill], "ambient": [kill],
    }  # fmt: skip
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    status = _status(runtime.run(bundle.args("cat", "/proc/self/status")).ok())
    # Not root: after the exec only the ambient ones are permitted and effective.
    found = {name: status[name] for name in _SETS}
    assert found == dict(zip(_SETS, (_bits(5), _bits(5), _bits(5), _bits(0, 5, 10), _bits(5)), strict=True))


def test_no_capabilities_property_is_none_at_all(ours: Runtime, bundle: Bundle) -> None:
    del bundle.process["capabilities"]
    status = _status(ours.run(bundle.args("cat", "/proc/self/status")).ok())
    assert {status[name] for name in _SETS} == {_bits()}


def test_unknown_capabilities_are_reported_and_left_out(ours: Runtime, bundle: Bundle) -> None:
    bundle.process["capabilities"] = {"bounding": ["CAP_TELEPORT", "CAP_KILL"]}
    result = ours.run(bundle.args("cat", "/proc/self/status"))
    assert _status(result.ok())["CapBnd"] == _bits(5)
    assert "unknown capabilities: CAP_TELEPORT" in result.err


def test_no_new_privileges(runtime: Runtime, bundle: Bundle) -> None:
    for wanted in (True, False):
        bundle.process["noNewPrivileges"] = wanted
        status = _status(runtime.run(bundle.args("cat", "/proc/self/status")).ok())
        assert status["NoNewPrivs"] == str(int(wanted))


def test_rlimits(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    assert runtime.run(bundle.args("ulimit -Sn; ulimit -Hn; ulimit -c")).ok().split() == ["100", "200", "0"]


def test_a_limit_that_may_not_be_raised_is_reported(ours: Runtime, bundle: Bundle) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NPROC", "soft": 2**64 - 1, "hard": 2**64 - 1}]
    result = ours.run(bundle.args("true", ""))
    assert result.status == 0
    with open("/proc/self/status", encoding="utf-8") as file:
        may_raise = int(_status(file.read())["CapEff"], 16) >> 24 & 1
    assert ("above what the runtime may set" in result.err) is not bool(may_raise)


def test_limits_that_would_starve_the_runtime_hit_only_the_process(ours: Runtime, bundle: Bundle) -> None:
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 3, "hard": 3},
        {"type": "RLIMIT_AS", "soft": 16 << 20, "hard": 16 << 20},
        {"type": "RLIMIT_FSIZE", "soft": 5, "hard": 5},
    ]
    assert ours.run(bundle.args("echo", "fine")).ok() == "fine\n"


def test_oom_score(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["oomScoreAdj"] = 300
    assert runtime.run(bundle.args("cat", "/proc/self/oom_score_adj")).ok() == "300\n"


def test_environment(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["env"] = ["PATH=/bin", "A=1", "B=x=y", "A=2"]
    lines = runtime.run(bundle.args("env", "-u", "_")).ok().splitlines()
    assert "B=x=y" in lines
    assert "HOME=/root" in lines
    if runtime.is_ours:  # the last one wins, once
        assert [line for line in lines if line.startswith("A=")] == ["A=2"]


def test_home_is_looked_up_by_number(ours: Runtime, bundle: Bundle) -> None:
    """A passwd line whose name is "1000" is not user 1000 (CVE-2016-3697)."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert ours.run(bundle.args("echo $HOME")).ok() == "/home/jo\n"
    bundle.process["user"] = {"uid": 4711, "gid": 1}
    assert ours.run(bundle.args("echo $HOME")).ok() == "/\n"


def test_working_directory_is_made(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["cwd"] = "/srv/deep/er"
    assert runtime.run(bundle.args("pwd", "")).ok() == "/srv/deep/er\n"


def test_signals_are_as_a_program_expects(runtime: Runtime, bundle: Bundle) -> None:
    status = _status(runtime.run(bundle.args("cat", "/proc/self/status")).ok())
    for name in ("SigBlk", "SigIgn", "SigCgt"):
        assert int(status[name], 16) == 0, name


def test_ignored_signals_of_the_caller_stay_outside(ours: Runtime, bundle: Bundle) -> None:
    container = ours.new_id(bundle.args("cat", "/proc/self/status"))
    bundle.write()
    import subprocess

    from support.bundles import COMMANDS

    script = f"trap '' INT QUIT HUP; {COMMANDS['orlop-runc']} --root {ours.root} run -b {bundle.path} {container}"
    text = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(_status(text)["SigIgn"], 16) == 0


def test_descriptors(runtime: Runtime, bundle: Bundle) -> None:
    names = runtime.run(bundle.args("ls", "/proc/self/fd")).ok().split()
    assert names == ["0", "1", "2", "3"], "3 is the directory that ls reads"


def test_preserved_descriptors(runtime: Runtime, bundle: Bundle) -> None:
    with open(f"{bundle.path}/note", "w+", encoding="utf-8") as note:
        note.write("kept")
        note.flush()
        os.lseek(note.fileno(), 0, os.SEEK_SET)
        container = runtime.new_id(bundle.args("cat <&3"))
        bundle.write()
        script = 'exec 3<"$1"; shift; exec "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", f"{bundle.path}/note", *runtime.command, "--root", runtime.root,
             "run", "-b", bundle.path, "--preserve-fds", "1", container],
            capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.stdout == "kept"


# -- exec -----------------------------------------------------------------------------------------


def test_exec(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    result = runtime("exec", container, "sh", "-c", "cat; echo oops >&2; exit 7", stdin="hello\n")
    assert (result.status, result.out, result.err) == (7, "hello\n", "oops\n")
    assert runtime("exec", container, "sh", "-c", "kill -9 $$").status == 137
    assert (
        runtime("exec", "--cwd", "/tmp", "-e", "A=b", container, "/bin/sh", "-c", "pwd; echo $A").ok()
        == "/tmp\nb\n"
    )
    status = _status(runtime("exec", "-u", "1000:1001", container, "cat", "/proc/self/status").ok())
    assert (status["Uid"].split()[0], status["Gid"].split()[0]) == ("1000", "1001")


def test_exec_is_in_the_container(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.without_namespace("cgroup").args("sleep", "100"))
    pid = runtime.state(container)["pid"]
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        inside = runtime("exec", container, "readlink", f"/proc/self/ns/{kind}").ok().strip()
        assert inside == os.readlink(f"/proc/{pid}/ns/{kind}")
    groups = runtime("exec", container, "cat", "/proc/self/cgroup").ok()
    assert f"pids:/orlop-oci/{container}" in groups


def test_exec_failures(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    missing = runtime("exec", container, "nonexistent")
    assert missing.status == 255
    assert re.search(r"executable file .*not found in \$PATH", missing.err)
    denied = runtime("exec", container, "/etc/passwd")
    assert denied.status == 255
    assert "permission denied" in denied.err.lower() or runtime.name == "crun"  # which has other words since 1.10


def test_exec_in_a_stopped_container(ours: Runtime, bundle: Bundle) -> None:
    container = ours.start(bundle.args("true", ""))
    ours.await_status(container, "stopped")
    result = ours("exec", container, "true")
    assert result.status == 255
    assert "cannot exec in a stopped container" in result.err


def test_exec_detached_with_pid_file(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    path = f"{bundle.path}/exec.pid"
    runtime("exec", "-d", "--pid-file", path, container, "sleep", "200").ok()
    with open(path, encoding="utf-8") as file:
        pid = int(file.read())
    assert pid in json.loads(runtime("ps", "-f", "json", container).ok())


def test_exec_by_process_file(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    path = f"{bundle.path}/process.json"
    process = {"args": ["id", "-u"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 77, "gid": 0}}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(process, file)
    assert runtime("exec", "-p", path, container).ok() == "77\n"


def test_exec_cap_leaves_inheritable_alone(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2022-29162."""
    container = runtime.start(bundle.args("sleep", "100"))
    status = _status(runtime("exec", "--cap", "CAP_SYS_CHROOT", container, "cat", "/proc/self/status").ok())
    assert int(status["CapBnd"], 16) >> 18 & 1
    assert int(status["CapEff"], 16) >> 18 & 1
    if runtime.name != "crun":
        assert int(status["CapInh"], 16) >> 18 & 1 == 0


def test_exec_additional_gids(ours: Runtime, bundle: Bundle) -> None:
    container = ours.start(bundle.args("sleep", "100"))
    status = _status(ours("exec", "-g", "7", "-g", "8", container, "cat", "/proc/self/status").ok())
    assert status["Groups"].split() == ["7", "8"]


# -- terminals ------------------------------------------------------------------------------------


def _receive_console(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    with connection:
        _, ancillary, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
    ((_, _, data),) = ancillary
    return array.array("i", data)[0]


def _read_all(console: int) -> str:
    text = b""
    while True:
        try:
            chunk = os.read(console, 4096)
        except OSError:
            break
        if not chunk:
            break
        text += chunk
    os.close(console)
    return text.decode().replace("\r\n", "\n")


def _listener(bundle: Bundle) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{bundle.path}/c.sock")
    listener.listen()
    listener.settimeout(20)
    return listener


def test_terminal_over_the_console_socket(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    bundle.process["consoleSize"] = {"height": 33, "width": 77}
    with _listener(bundle) as listener:
        bundle.args("tty; stty size; test -c /dev/console && test -t 0 && test -t 2 && echo good")
        container = runtime.create(bundle, "--console-socket", f"{bundle.path}/c.sock")
        console = _receive_console(listener)
        runtime("start", container).ok()
        text = _read_all(console)
    lines = text.splitlines()
    assert re.fullmatch(r"/dev/(pts/0|console)", lines[0])
    assert lines[1:] == ["33 77", "good"]


def test_the_terminal_controls_the_session(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    with _listener(bundle) as listener:
        bundle.args("trap 'echo interrupted; exit' INT; echo ready; while :; do sleep 0.05; done")
        container = runtime.create(bundle, "--console-socket", f"{bundle.path}/c.sock")
        console = _receive_console(listener)
        runtime("start", container).ok()
        assert os.read(console, 100).startswith(b"ready")
        os.write(console, b"\x03")
        assert "interrupted" in _read_all(console)


def test_exec_with_a_terminal(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    with _listener(bundle) as listener:
        runtime(
            "exec", "-d", "-t", "--console-socket", f"{bundle.path}/c.sock", container,
            "sh", "-c", "test -t 0 && tty",
        ).ok()  # fmt: skip
        text = _read_all(_receive_console(listener))
    assert text.startswith("/dev/pts/0")


def test_a_terminal_in_the_foreground(ours: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    result = ours.run(bundle.args("test -t 1 && echo yes; read x; echo got $x"), stdin="word\n")
    assert result.status == 0
    lines = result.out.replace("\r", "").splitlines()
    assert "yes" in lines, "the terminal echoes the word before or after it"
    assert lines[-1] == "got word"


def test_a_detached_terminal_needs_a_socket(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    container = runtime.new_id(bundle.args("true", ""))
    bundle.write()
    assert runtime("create", "--bundle", bundle.path, container).status == 1


def test_streams_belong_to_the_user(ours: Runtime, bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert ours.run(bundle.args("echo again > /proc/self/fd/1")).ok() == "again\n"


def test_zombies_of_a_finished_exec_are_collected(ours: Runtime, bundle: Bundle) -> None:
    container = ours.start(bundle.args("sleep", "100"))
    ours("exec", container, "sh", "-c", "sleep 0.1 &").ok()
    eventually(lambda: len(json.loads(ours("ps", "-f", "json", container).ok())) == 1, "more than init is left")


def test_exec_into_a_group_below(ours: Runtime, bundle: Bundle) -> None:
    container = ours.start(bundle.without_namespace("cgroup").args("sleep", "100"))
    path = f"orlop-oci/{container}/below"
    made = [f"/sys/fs/cgroup/{name}/{path}" for name in os.listdir("/sys/fs/cgroup")]
    made = [directory for directory in made if os.path.isdir(os.path.dirname(directory))]
    for directory in made:
        os.mkdir(directory)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if os.path.exists(f"{directory}/{name}"):
                with open(f"{directory}/../{name}", encoding="utf-8") as file:
                    value = file.read()
                with open(f"{directory}/{name}", "w", encoding="utf-8") as file:
                    file.write(value)
    assert f":pids:/{path}\n" in ours("exec", "--cgroup", "below", container, "cat", "/proc/self/cgroup").ok()
    assert ours("exec", "--cgroup", "../..", container, "true").status == 255
    assert "once and without a controller" in ours("exec", "--cgroup", "pids:x", container, "true").err
