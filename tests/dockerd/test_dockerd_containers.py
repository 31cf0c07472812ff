# SPDX-License-Identifier: Apache-2.0
"""The docker command against orlopd: the life of containers, on our containerd and on Debian's."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from support.containerd import wait_until
from support.stack import DOCKER
from support.terminal import Terminal

from orlop.engine.client import Client

if TYPE_CHECKING:
    from pathlib import Path

    from support.stack import Stack

pytestmark = pytest.mark.root


def inspect(stack: Stack, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.docker("inspect", name).ok())[0]
    return found


def run_detached(stack: Stack, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
    return stack.docker("run", "-d", "--name", name, *options, "busybox", *command).ok().strip()


# -- run


def test_output_and_exit_code(stack: Stack) -> None:
    ran = stack.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (ran.status, ran.out, ran.err) == (3, "out\n", "err\n")
    assert stack.docker("ps", "-aq").ok() == ""


def test_input_ends_at_the_half_close_and_output_still_flows(stack: Stack) -> None:
    assert stack.docker("run", "--rm", "-i", "busybox", "cat", stdin="hi\n").ok() == "hi\n"
    script = "cat >/dev/null; sleep 0.3; echo after"
    assert stack.docker("run", "--rm", "-i", "busybox", "sh", "-c", script, stdin="x").ok() == "after\n"


def test_a_megabyte_goes_through_both_ways(stack: Stack) -> None:
    text = "0123456789abcde\n" * 65536
    assert stack.docker("run", "--rm", "-i", "busybox", "cat", stdin=text).ok() == text


def test_a_short_process_loses_no_output(stack: Stack) -> None:
    for number in range(5):
        assert stack.docker("run", "--rm", "busybox", "echo", str(number)).ok() == f"{number}\n"


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("nosuch", 127, "executable file not found in $PATH"),
        ("/nosuch", 127, "no such file or directory"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, "permission denied"),
    ],
)
def test_a_command_that_cannot_run(stack: Stack, command: str, status: int, words: str) -> None:
    failed = stack.docker("run", "--rm", "busybox", command)
    assert (failed.status, failed.out) == (status, "")
    assert words in failed.err
    assert "OCI runtime create failed" in failed.err
    assert stack.docker("ps", "-aq").ok() == ""


def test_a_failed_start_leaves_the_container_with_its_error(stack: Stack) -> None:
    stack.docker("create", "--name", "broken", "busybox", "nosuch").ok()
    failed = stack.docker("start", "broken")
    assert failed.status == 1
    state = inspect(stack, "broken")["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("created", 127, 0)
    assert "executable file not found" in state["Error"]
    assert inspect(stack, "broken")["NetworkSettings"]["SandboxKey"] == ""


def test_no_such_image_and_no_such_container(stack: Stack) -> None:
    failed = stack.docker("create", "--pull", "never", "nosuchimage")
    assert failed.status == 1
    assert "No such image: nosuchimage:latest" in failed.err
    assert "No such container: nosuch" in stack.docker("start", "nosuch").err


def test_environment_hostname_workdir_user_and_labels(stack: Stack) -> None:
    script = "echo $A; hostname; pwd; id -u; cat /etc/hostname"
    options = ["-e", "A=b", "--hostname", "hosty", "-w", "/tmp", "-u", "nobody", "-l", "k=v"]
    ran = stack.docker("run", "--name", "env", *options, "busybox", "sh", "-c", script)
    assert ran.ok().split() == ["b", "hosty", "/tmp", "65534", "hosty"]
    config = inspect(stack, "env")["Config"]
    assert config["Labels"] == {"k": "v"}
    assert config["User"] == "nobody"


def test_a_terminal(stack: Stack) -> None:
    ran = stack.docker("run", "--rm", "-t", "busybox", "sh", "-c", "tty; echo err >&2")
    assert ran.ok() == "/dev/pts/0\nerr\n"  # CR LF, which text mode folds


def test_names(stack: Stack) -> None:
    first = stack.docker("create", "--name", "taken", "busybox").ok().strip()
    failed = stack.docker("create", "--name", "taken", "busybox")
    text = f'Conflict. The container name "/taken" is already in use by container "{first}"'
    assert text in failed.err
    assert "You have to remove (or rename) that container to be able to reuse that name." in failed.err
    assert "Invalid container name (/-x)" in stack.docker("create", "--name", "/-x", "busybox").err
    stack.docker("rename", "taken", "free").ok()
    assert inspect(stack, first[:12])["Name"] == "/free"
    stack.docker("create", "--name", "taken", "busybox").ok()
    assert "already in use" in stack.docker("rename", "free", "taken").err
    generated = stack.docker("create", "busybox").ok().strip()
    assert "_" in inspect(stack, generated)["Name"]


# -- stop, kill, restart, pause, wait, remove


def test_stop_asks_waits_and_kills(stack: Stack) -> None:
    run_detached(stack, "polite", "sh", "-c", 'trap "exit 7" TERM; while :; do sleep 0.05; done')
    stack.docker("stop", "polite").ok()
    assert inspect(stack, "polite")["State"]["ExitCode"] == 7
    run_detached(stack, "deaf", "sh", "-c", 'trap "" TERM; while :; do sleep 0.05; done')
    begun = time.monotonic()
    stack.docker("stop", "-t", "1", "deaf").ok()
    assert 0.9 < time.monotonic() - begun < 4
    assert inspect(stack, "deaf")["State"]["ExitCode"] == 137
    stack.docker("stop", "deaf").ok()  # 304: nothing to do


def test_stop_signal(stack: Stack) -> None:
    script = 'trap "exit 8" USR1; while :; do sleep 0.05; done'
    run_detached(stack, "usr", "sh", "-c", script, options=("--stop-signal", "USR1"))
    stack.docker("stop", "usr").ok()
    assert inspect(stack, "usr")["State"]["ExitCode"] == 8


def test_kill(stack: Stack) -> None:
    run_detached(stack, "victim", "sh", "-c", 'trap "echo got" HUP; echo set; while :; do sleep 0.05; done')
    wait_until(lambda: stack.docker("logs", "victim").ok() == "set\n")
    stack.docker("kill", "-s", "HUP", "victim").ok()
    wait_until(lambda: stack.docker("logs", "victim").ok() == "set\ngot\n")
    stack.docker("kill", "victim").ok()
    assert stack.docker("wait", "victim").ok() == "137\n"
    assert "is not running" in stack.docker("kill", "victim").err
    assert "invalid signal: NOSUCH" in stack.docker("kill", "-s", "NOSUCH", "victim").err


def test_restart_gives_a_new_process(stack: Stack) -> None:
    run_detached(stack, "again", "sleep", "100")
    before = inspect(stack, "again")["State"]
    assert before["FinishedAt"] == "0001-01-01T00:00:00Z"
    stack.docker("restart", "-t", "0", "again").ok()
    after = inspect(stack, "again")["State"]
    assert after["Running"]
    assert after["Pid"] != before["Pid"]
    # That of the run before, as with Docker.
    assert before["StartedAt"] < after["FinishedAt"] < after["StartedAt"]


def test_pause(stack: Stack) -> None:
    run_detached(stack, "ice", "sh", "-c", "while :; do echo x; sleep 0.02; done")
    stack.docker("pause", "ice").ok()
    assert inspect(stack, "ice")["State"]["Status"] == "paused"
    assert "(Paused)" in stack.docker("ps").ok()
    frozen = stack.docker("logs", "ice").ok()
    time.sleep(0.2)
    assert stack.docker("logs", "ice").ok() == frozen
    assert "is paused" in stack.docker("exec", "ice", "true").err
    stack.docker("unpause", "ice").ok()
    assert "is not paused" in stack.docker("unpause", "ice").err
    wait_until(lambda: stack.docker("logs", "ice").ok() != frozen)


def test_wait_conditions(stack: Stack) -> None:
    run_detached(stack, "waited", "sh", "-c", "sleep 0.4; exit 4")
    assert stack.docker("wait", "waited").ok() == "4\n"
    assert stack.docker("wait", "waited").ok() == "4\n"


def test_remove(stack: Stack) -> None:
    run_detached(stack, "busy", "sleep", "100")
    failed = stack.docker("rm", "busy")
    assert 'cannot remove container "busy": container is running' in failed.err
    stack.docker("rm", "-f", "busy").ok()
    assert "No such container" in stack.docker("rm", "busy").err
    assert os.listdir(f"{stack.data_root}/containers") == []
    assert stack.containerd.ctr("containers", "ls", "-q").ok() == ""


def test_remove_takes_the_anonymous_volumes_along(stack: Stack) -> None:
    stack.docker("run", "--name", "vols", "-v", "/anon", "-v", "named:/named", "busybox", "true").ok()
    assert len(stack.docker("volume", "ls", "-q").ok().split()) == 2
    assert "volume is in use" in stack.docker("volume", "rm", "named").err
    stack.docker("rm", "-v", "vols").ok()
    assert stack.docker("volume", "ls", "-q").ok().split() == ["named"]


def test_auto_remove(stack: Stack) -> None:
    stack.docker("run", "-d", "--rm", "--name", "brief", "busybox", "sleep", "0.2").ok()
    wait_until(lambda: stack.docker("ps", "-aq").ok() == "")


def test_restart_policy_on_failure_counts(stack: Stack) -> None:
    run_detached(stack, "failing", "false", options=("--restart", "on-failure:2"))
    wait_until(lambda: inspect(stack, "failing")["State"]["Status"] == "exited")
    found = inspect(stack, "failing")
    assert (found["RestartCount"], found["State"]["ExitCode"]) == (2, 1)


def test_a_stop_ends_the_restarts(stack: Stack) -> None:
    run_detached(stack, "looping", "sh", "-c", "exit 1", options=("--restart", "always"))
    wait_until(lambda: inspect(stack, "looping")["RestartCount"] >= 2)
    stack.docker("stop", "-t", "0", "looping").ok()
    count = inspect(stack, "looping")["RestartCount"]
    time.sleep(0.5)
    found = inspect(stack, "looping")
    assert (found["RestartCount"], found["State"]["Running"]) == (count, False)


def test_out_of_memory(stack: Stack) -> None:
    script = "x=a; while :; do x=$x$x; done"
    stack.docker("run", "--name", "hungry", "-m", "16m", "busybox", "sh", "-c", script)
    state = inspect(stack, "hungry")["State"]
    assert state["ExitCode"] == 137
    wait_until(lambda: inspect(stack, "hungry")["State"]["OOMKilled"])


# -- logs


def test_logs(stack: Stack) -> None:
    script = "for i in 1 2 3 4 5; do echo $i; usleep 20000; done; printf partial"
    stack.docker("run", "--name", "lines", "busybox", "sh", "-c", script).ok()
    got = stack.docker("logs", "lines")
    assert (got.out, got.err) == ("1\n2\n3\n4\n5\npartial", "")
    assert stack.docker("logs", "--tail", "2", "lines").ok() == "5\npartial"
    assert stack.docker("logs", "--tail", "0", "lines").ok() == ""
    stamped = stack.docker("logs", "-t", "lines").ok().splitlines()
    assert [line.split(" ")[1] for line in stamped] == ["1", "2", "3", "4", "5", "partial"]
    moment = stamped[2].split(" ")[0]
    assert stack.docker("logs", "--since", moment, "lines").ok().startswith("3\n")
    assert stack.docker("logs", "--until", moment, "lines").ok().endswith("3\n")


def test_logs_follow_until_the_end(stack: Stack) -> None:
    run_detached(stack, "ticking", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done")
    assert stack.docker("logs", "-f", "ticking").ok() == "1\n2\n3\n"
    assert stack.docker("logs", "-f", "ticking").ok() == "1\n2\n3\n"


def test_logs_rotate_and_following_misses_nothing(stack: Stack) -> None:
    script = "sleep 0.3; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"
    options = ("--log-opt", "max-size=20k", "--log-opt", "max-file=50")
    run_detached(stack, "rotating", "sh", "-c", script, options=options)
    followed = stack.docker("logs", "-f", "rotating").ok()
    assert followed.split("\n")[:-1] == [f"line {i}" for i in range(3000)]
    assert stack.docker("logs", "rotating").ok() == followed
    assert stack.docker("logs", "--tail", "1000", "rotating").ok() == "".join(followed.splitlines(True)[-1000:])


def test_log_driver_none_and_unknown(stack: Stack) -> None:
    assert stack.docker("run", "--name", "mute", "--log-driver", "none", "busybox", "echo", "hi").ok() == "hi\n"
    assert "configured logging driver does not support reading" in stack.docker("logs", "mute").err
    failed = stack.docker("create", "--log-driver", "nosuch", "busybox")
    assert "no log driver named 'nosuch' is registered" in failed.err


# -- exec


def test_exec(stack: Stack) -> None:
    run_detached(stack, "base", "sleep", "100", options=("-e", "A=base"))
    assert stack.docker("exec", "base", "echo", "hi").ok() == "hi\n"
    assert stack.docker("exec", "base", "sh", "-c", "exit 5").status == 5
    assert stack.docker("exec", "-i", "base", "cat", stdin="in\n").ok() == "in\n"
    options = ["-u", "nobody", "-w", "/tmp", "-e", "B=c"]
    script = "id -u; pwd; echo $A $B"
    assert stack.docker("exec", *options, "base", "sh", "-c", script).ok() == "65534\n/tmp\nbase c\n"
    failed = stack.docker("exec", "base", "nosuch")
    assert failed.status == 127
    assert "executable file not found in $PATH" in failed.out + failed.err
    assert "unable to find user nosuch" in stack.docker("exec", "-u", "nosuch", "base", "true").err
    stack.docker("exec", "-d", "base", "touch", "/made").ok()
    wait_until(lambda: stack.docker("exec", "base", "ls", "/made").status == 0)
    assert stack.docker("exec", "-t", "base", "tty").ok() == "/dev/pts/0\n"
    stack.docker("stop", "-t", "0", "base").ok()
    assert "is not running" in stack.docker("exec", "base", "true").err


def test_an_exec_privileged_has_all_capabilities(stack: Stack) -> None:
    run_detached(stack, "caps", "sleep", "100")
    ordinary = stack.docker("exec", "caps", "grep", "CapEff", "/proc/self/status").ok()
    privileged = stack.docker("exec", "--privileged", "caps", "grep", "CapEff", "/proc/self/status").ok()
    assert ordinary != privileged
    assert int(privileged.split()[1], 16) & int(ordinary.split()[1], 16) == int(ordinary.split()[1], 16)


# -- attach


def test_attach_to_a_running_container(stack: Stack) -> None:
    run_detached(stack, "talker", "sh", "-c", "read x; echo got $x; exit 6", options=("-i",))
    attached = stack.docker("attach", "talker", stdin="word\n")
    assert (attached.status, attached.out) == (6, "got word\n")


def test_start_attached_misses_nothing(stack: Stack) -> None:
    stack.docker("create", "--name", "quick", "busybox", "echo", "at once").ok()
    for _ in range(3):
        assert stack.docker("start", "-a", "quick").ok() == "at once\n"


def test_detach_keys(stack: Stack) -> None:
    container = run_detached(stack, "term", "cat", options=("-t", "-i"))
    import docker

    client = docker.APIClient(base_url=stack.host, version="1.44")
    try:
        connection = client.attach_socket(container, {"stdin": 1, "stdout": 1, "stream": 1})
        connection._sock.sendall(b"abc")
        assert connection._sock.recv(100) == b"abc"
        connection._sock.sendall(b"\x10\x11")
        assert connection._sock.recv(100) == b""
        connection._sock.close()
        connection.close()
    finally:
        client.close()
    assert inspect(stack, "term")["State"]["Running"]


# -- looking


def test_top_and_stats(stack: Stack) -> None:
    run_detached(stack, "watched", "sleep", "100")
    lines = stack.docker("top", "watched").ok().splitlines()
    assert lines[0].split()[:2] == ["UID", "PID"]
    assert len(lines) == 2
    assert lines[1].endswith("sleep 100")
    assert stack.docker("top", "watched", "-o", "pid,comm").ok().split()[2:] == [
        str(inspect(stack, "watched")["State"]["Pid"]),
        "sleep",
    ]
    stats = json.loads(stack.docker("stats", "--no-stream", "--format", "json", "watched").ok())
    assert stats["PIDs"] == "1"
    assert not stats["MemUsage"].startswith("0B")


def test_inspect_has_every_field(stack: Stack) -> None:
    container = run_detached(stack, "seen", "sleep", "100")
    found = json.loads(stack.docker("inspect", "-s", "seen").ok())[0]
    assert found["Id"] == container
    assert (found["Path"], found["Args"]) == ("sleep", ["100"])
    assert found["Image"].startswith("sha256:")
    assert found["State"]["StartedAt"].endswith("Z")
    assert found["SizeRootFs"] > found["SizeRw"]
    network = found["NetworkSettings"]["Networks"]["bridge"]
    assert network["IPAddress"].startswith("172.")
    assert found["NetworkSettings"]["IPAddress"] == network["IPAddress"]
    assert found["HostConfig"]["NetworkMode"] == "bridge"
    assert found["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {}}
    for name in ("ResolvConfPath", "HostnamePath", "HostsPath", "LogPath"):
        assert os.path.exists(found[name]), name
    for name in ("AppArmorProfile", "Config", "Created", "Driver", "ExecIDs", "GraphDriver", "Mounts", "Platform"):
        assert name in found


def test_ps_filters(stack: Stack) -> None:
    run_detached(stack, "one", "sleep", "100", options=("-l", "color=red", "--expose", "80"))
    stack.docker("run", "--name", "two", "-l", "color=blue", "busybox", "sh", "-c", "exit 3")
    stack.docker("create", "--name", "three", "-v", "vol:/data", "busybox").ok()

    def names(*filters: str) -> list[str]:
        flags = [part for wanted in filters for part in ("--filter", wanted)]
        return sorted(stack.docker("ps", "-a", "--format", "{{.Names}}", *flags).ok().split())

    assert names() == ["one", "three", "two"]
    assert names("status=running") == ["one"]
    assert names("status=exited", "status=created") == ["three", "two"]
    assert names("exited=3") == ["two"]
    assert names("label=color") == ["one", "two"]
    assert names("label=color=blue") == ["two"]
    assert names("name=^t") == ["three", "two"]
    assert names("ancestor=busybox") == ["one", "three", "two"]
    assert names("ancestor=nosuch") == []
    assert names("before=two") == ["one"]
    assert names("since=two") == ["three"]
    assert names("volume=vol") == ["three"]
    assert names("volume=/data") == ["three"]
    assert names("network=bridge") == ["one", "three", "two"]
    assert names("expose=80") == ["one"]
    assert names("health=none") == ["one", "three", "two"]
    assert stack.docker("ps", "-q").ok().count("\n") == 1
    assert stack.docker("ps", "-n", "2", "--format", "{{.Names}}").ok().split() == ["three", "two"]
    assert "invalid filter" in stack.docker("ps", "--filter", "nosuch=1").err


def test_events(stack: Stack) -> None:
    since = time.time()
    run_detached(stack, "evented", "true")
    stack.docker("wait", "evented").ok()
    stack.docker("rm", "evented").ok()
    until = str(time.time())
    flags = ("--since", str(since), "--until", until)
    lines = stack.docker("events", *flags, "--filter", "type=container", "--format", "{{.Action}}").ok().split()
    assert lines == ["create", "start", "die", "destroy"]
    died = stack.docker("events", *flags, "--filter", "event=die", "--format", "json").ok()
    attributes = json.loads(died)["Actor"]["Attributes"]
    assert attributes["exitCode"] == "0"
    assert attributes["name"] == "evented"
    assert attributes["image"] == "busybox"
    every = stack.docker("events", *flags, "--format", "{{.Type}}.{{.Action}}").ok().split()
    assert "network.connect" in every
    assert "network.disconnect" in every


def test_health(stack: Stack) -> None:
    options = ("--health-cmd", "test -e /healthy", "--health-interval", "100ms", "--health-retries", "2")
    run_detached(stack, "patient", "sleep", "100", options=options)

    def status() -> str:
        return str(inspect(stack, "patient")["State"]["Health"]["Status"])

    assert status() == "starting"
    wait_until(lambda: status() == "unhealthy")
    stack.docker("exec", "patient", "touch", "/healthy").ok()
    wait_until(lambda: status() == "healthy")
    assert "(healthy)" in stack.docker("ps").ok()
    assert stack.docker("ps", "--filter", "health=healthy", "-q").ok()


@pytest.mark.parametrize("policy", ["always+unhealthy", "on-failure+unhealthy:5"])
def test_a_policy_restarts_an_unhealthy_container(stack: Stack, policy: str) -> None:
    check = ("--health-cmd", "test -e /tmp/well", "--health-interval", "100ms", "--health-retries", "2")
    # The first run ends well when asked to, and never gets healthy; the second finds what the first has left.
    script = "trap 'touch /once; exit 0' TERM; test -e /once && touch /tmp/well; while :; do sleep 0.1; done"
    run_detached(stack, "sick", "sh", "-c", script, options=(*check, "--restart", policy))

    def state() -> tuple[int, str]:
        details = inspect(stack, "sick")
        return int(details["RestartCount"]), str(details["State"]["Health"]["Status"])

    wait_until(lambda: state() == (1, "healthy"))
    assert inspect(stack, "sick")["HostConfig"]["RestartPolicy"]["Name"] == policy.partition(":")[0]
    stack.docker("stop", "-t", "5", "sick").ok()
    assert state()[0] == 1


def test_an_unhealthy_container_stays_without_such_a_policy(stack: Stack) -> None:
    check = ("--health-cmd", "false", "--health-interval", "100ms", "--health-retries", "1")
    run_detached(stack, "sick", "sleep", "100", options=(*check, "--restart", "always"))
    wait_until(lambda: inspect(stack, "sick")["State"]["Health"]["FailingStreak"] > 3)
    assert inspect(stack, "sick")["RestartCount"] == 0


@pytest.mark.parametrize("flags", [("--user", "0"), ("--user", "33:44")])
def test_a_mount_with_an_owner(stack: Stack, tmp_path: Path, flags: tuple[str, ...]) -> None:
    if json.loads(stack.docker("info", "--format", "json").ok())["DefaultRuntime"] != "orlop":
        refused = stack.docker("run", "--rm", "-v", f"{tmp_path}:/data:uid=1234", "busybox", "true")
        assert "mount /data: uid and gid need the runtime orlop; this container's is runc" in refused.err
        return
    os.chmod(tmp_path, 0o755)
    os.chown(tmp_path, 1234, 5678)
    (tmp_path / "old").write_text("1")
    os.chown(tmp_path / "old", 1234, 5678)
    (tmp_path / "foreign").write_text("1")
    os.chown(tmp_path / "foreign", 77, 77)
    script = "echo 2 >> /data/old && echo new > /data/new && cd /data && stat -c %n=%u:%g old new foreign"
    bind = f"{tmp_path}:/data:uid=1234,gid=5678"
    seen = stack.docker("run", "--name", "owned", *flags, "-v", bind, "busybox", "sh", "-c", script).ok().split()
    user = "33:44" if "33:44" in flags else "0:0"
    assert seen == [f"old={user}", f"new={user}", "foreign=77:77"]
    status = os.stat(tmp_path / "new")
    assert (status.st_uid, status.st_gid) == (1234, 5678)
    assert inspect(stack, "owned")["HostConfig"]["Binds"] == [bind]
    assert inspect(stack, "owned")["Mounts"][0]["Mode"] == "uid=1234,gid=5678"


def test_prune(stack: Stack) -> None:
    run_detached(stack, "kept", "sleep", "100")
    stack.docker("run", "--name", "done", "busybox", "true").ok()
    assert "Deleted Containers" in stack.docker("container", "prune", "-f").ok()
    assert stack.docker("ps", "-a", "--format", "{{.Names}}").ok().split() == ["kept"]


def test_prune_of_volumes(stack: Stack) -> None:
    """What may be of another machine stays; a list of nothing is a list."""
    stack.docker("volume", "create", "plain").ok()
    stack.docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "elsewhere").ok()
    client = Client(stack.host)
    everything = {"filters": '{"all":["true"]}'}
    assert client.post("/volumes/prune", everything)["VolumesDeleted"] == ["plain"]
    assert client.post("/volumes/prune", everything)["VolumesDeleted"] == []
    client.close()
    assert stack.docker("volume", "ls", "-q").ok() == "elsewhere\n"


def test_update(stack: Stack) -> None:
    run_detached(stack, "limited", "sleep", "100", options=("-m", "64m"))
    stack.docker("update", "-m", "32m", "--memory-swap", "64m", "--restart", "always", "limited").ok()
    host_config = inspect(stack, "limited")["HostConfig"]
    assert host_config["Memory"] == 32 << 20
    assert host_config["RestartPolicy"]["Name"] == "always"
    stats = json.loads(stack.docker("stats", "--no-stream", "--format", "json", "limited").ok())
    assert stats["MemUsage"].endswith("32MiB")


def test_events_of_a_forced_removal(stack: Stack) -> None:
    """It is a kill, not a stop."""
    forced = run_detached(stack, "forced", "sleep", "100")
    stack.docker("rm", "-f", "forced").ok()
    told = ("--since", "1", "--until", str(int(time.time()) + 1), "--filter", "type=container")
    told = (*told, "--filter", f"container={forced}")
    actions = stack.docker("events", *told, "--format", "{{.Action}}").ok().split()
    assert actions[-3:] == ["kill", "die", "destroy"]
    assert "stop" not in actions


def test_update_of_block_devices(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of devices are changed since API 1.55; what the host cannot limit is told and left out."""
    device = next(f"/dev/{name}" for name in sorted(os.listdir("/sys/block")) if os.path.exists(f"/dev/{name}"))
    run_detached(stack, "reads", "sleep", "100")
    body = {"BlkioDeviceReadBps": [{"Path": device, "Rate": 1 << 20}], "BlkioDeviceWriteIOps": []}
    for version in ("1.54", "1.55"):
        monkeypatch.setenv("DOCKER_API_VERSION", version)
        client = Client(stack.host)
        warnings = client.post("/containers/reads/update", None, body)["Warnings"]
        client.close()
        limits = inspect(stack, "reads")["HostConfig"]["BlkioDeviceReadBps"] or []
        assert bool(limits or warnings) == (version == "1.55")
    assert warnings or limits == body["BlkioDeviceReadBps"]


# -- namespaces of others


def test_sharing_namespaces(stack: Stack) -> None:
    run_detached(stack, "donor", "sleep", "100", options=("--ipc", "shareable", "--hostname", "donor"))
    shared = ("--network", "container:donor", "--pid", "container:donor", "--ipc", "container:donor")
    assert "sleep 100" in stack.docker("run", "--rm", *shared, "busybox", "ps").ok()
    address = inspect(stack, "donor")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert address in stack.docker("run", "--rm", *shared, "busybox", "ip", "addr").ok()
    stack.docker("exec", "donor", "touch", "/dev/shm/seen").ok()
    stack.docker("run", "--rm", *shared, "busybox", "ls", "/dev/shm/seen").ok()
    failed = stack.docker("run", "--rm", "--network", "container:nosuch", "busybox", "true")
    assert "No such container: nosuch" in failed.err


def test_network_modes(stack: Stack) -> None:
    assert "eth0" not in stack.docker("run", "--rm", "--network", "none", "busybox", "ip", "link").ok()
    assert "orlop0" in stack.docker("run", "--rm", "--network", "host", "busybox", "ip", "link").ok()
    assert "network nosuch not found" in stack.docker("run", "--rm", "--network", "nosuch", "busybox", "true").err


# -- at a terminal


def test_an_interactive_shell_that_is_resized(stack: Stack) -> None:
    command = [DOCKER, "run", "--rm", "-it", "--name", "shell", "busybox", "sh"]
    with Terminal(command, env=stack.environment(), rows=30, columns=100) as terminal:
        terminal.expect("/ # ")
        terminal.type("stty size\n")
        terminal.expect("30 100")
        size = ("exec", "shell", "stty", "-F", "/dev/console", "size")
        terminal.resize_until(40, 120, lambda: "40 120" in stack.docker(*size).out)
        terminal.type("exit 5\n")
        assert terminal.wait() == 5


def test_leaving_a_terminal_and_coming_back(stack: Stack) -> None:
    with Terminal([DOCKER, "run", "-it", "--name", "left", "busybox", "sh"], env=stack.environment()) as terminal:
        terminal.expect("/ # ")
        terminal.type("\x10\x11")
        assert terminal.wait() == 0
    assert inspect(stack, "left")["State"]["Running"]
    with Terminal([DOCKER, "attach", "left"], env=stack.environment()) as terminal:
        terminal.type("echo back $((1+1))\n")
        terminal.expect("back 2")
        terminal.type("exit 0\n")
        assert terminal.wait() == 0


def test_a_resize_that_comes_before_the_start_of_its_exec(stack: Stack) -> None:
    run_detached(stack, "early", "sleep", "100")
    script = "until stty size | grep -x '40 120'; do sleep 0.1; done"
    wanted = {"Cmd": ["sh", "-c", script], "Tty": True, "AttachStdout": True}
    with closing(Client(stack.host)) as client, closing(Client(stack.host)) as other:
        path = f"/exec/{client.post('/containers/early/exec', None, wanted)['Id']}"
        with ThreadPoolExecutor(1) as beside:
            resized = beside.submit(other.post, f"{path}/resize", {"h": 40, "w": 120})
            client.post(f"{path}/start", None, {"Detach": True, "Tty": True})
            resized.result(60)
        wait_until(lambda: client.get(f"{path}/json")["ExitCode"] == 0, 60)
    stack.docker("rm", "-f", "early").ok()


def test_an_interactive_exec(stack: Stack) -> None:
    run_detached(stack, "base", "sleep", "100")
    command = [DOCKER, "exec", "-it", "base", "sh"]
    with Terminal(command, env=stack.environment(), rows=33, columns=111) as terminal:
        terminal.expect("/ # ")
        terminal.type("stty size; exit 3\n")
        terminal.expect("33 111")
        assert terminal.wait() == 3


# -- what is not there


def test_what_is_not_served_says_so(stack: Stack) -> None:
    assert "swarm mode is not supported" in stack.docker("swarm", "init").err
    assert "This node is not a swarm manager" in stack.docker("service", "ls").err
    assert stack.docker("plugin", "ls", "-q").ok() == ""
