# SPDX-License-Identifier: Apache-2.0
"""What a user does every day, by the real docker CLI and by ours, against the whole stack."""

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.e2e import Cli, Stack

pytestmark = pytest.mark.root

Made = Callable[..., str]


@pytest.fixture
def container(cli: Cli):  # type: ignore[no-untyped-def]
    """Makes detached containers that are removed at the end: container("-p", "80", image, command…)."""
    made: list[str] = []

    def make(*arguments: str) -> str:
        result = cli("run", "-d", *arguments)
        assert result.returncode == 0, result.stderr
        made.append(result.stdout.strip())
        return made[-1]

    yield make
    if made:
        assert cli("rm", "-f", "-v", *made).returncode == 0


def test_pull_from_a_registry_and_run(cli: Cli, registry_image: str) -> None:
    cli("rmi", "-f", registry_image)
    pulled = cli("pull", registry_image)
    assert pulled.returncode == 0, pulled.stderr
    assert "Status: Downloaded newer image for" in pulled.stdout
    assert "Image is up to date for" in cli("pull", registry_image).stdout
    result = cli("run", "--rm", registry_image, "echo", "hello from orlop")
    assert (result.returncode, result.stdout) == (0, "hello from orlop\n"), result.stderr
    assert registry_image.rsplit(":", 1)[0] in cli("images").stdout
    assert cli("rmi", registry_image).returncode == 0


def test_a_missing_image_is_pulled_by_run(cli: Cli, registry_image: str) -> None:
    cli("rmi", "-f", registry_image)
    result = cli("run", "--rm", registry_image, "true")
    assert result.returncode == 0, result.stderr
    assert f"Unable to find image '{registry_image}' locally" in result.stderr


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["/etc"], 126),
        (["nosuchprogram"], 127),
        (["/nosuch/program"], 127),
        (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
    ],
)
def test_exit_codes_of_run(cli: Cli, command: list[str], status: int) -> None:
    result = cli("run", "--rm", "busybox", *command)
    assert result.returncode == status, result.stderr
    assert cli("ps", "-aq").stdout == ""


def test_wrong_flags_and_options_exit_125(cli: Cli) -> None:
    assert cli("run", "--nosuchflag", "busybox").returncode == 125
    assert cli("run", "--rm", "-m", "1m", "busybox").returncode == 125
    result = cli("run", "--rm", "localhost:1/nosuch/image", "true")
    assert result.returncode == 125 and result.stderr


def test_output_and_errors_are_separate(cli: Cli) -> None:
    result = cli("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


def test_standard_input_reaches_the_container(cli: Cli) -> None:
    result = cli("run", "-i", "--rm", "busybox", "cat", input="hi\n")
    assert (result.returncode, result.stdout) == (0, "hi\n"), result.stderr
    big = "".join(f"{index}\n" for index in range(200_000))
    assert cli("run", "-i", "--rm", "busybox", "cat", input=big).stdout == big


def test_memory_limit_kills(cli: Cli) -> None:
    # A tmpfs counts against the container, and so needs no program that eats memory.
    result = cli("run", "--name", "oom", "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c",
                 "dd if=/dev/zero of=/dev/shm/x bs=1M count=48")  # fmt: skip
    try:
        assert result.returncode == 137, (result.stdout, result.stderr)
        assert cli("inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "oom").stdout == "true 137\n"
    finally:
        cli("rm", "-f", "oom")


def test_bind_mounts(cli: Cli, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("from the host\n")
    result = cli(
        "run", "--rm", "-v", f"{tmp_path}:/data", "busybox", "sh", "-c", "cat /data/file; echo back > /data/b"
    )
    assert result.stdout == "from the host\n" and (tmp_path / "b").read_text() == "back\n"
    refused = cli("run", "--rm", "-v", f"{tmp_path}:/data:ro", "busybox", "touch", "/data/x")
    assert refused.returncode == 1 and "Read-only file system" in refused.stderr
    missing = cli("run", "--rm", "--mount", "type=bind,src=/nosuch/path,dst=/x", "busybox", "true")
    assert missing.returncode == 125 and "bind source path does not exist: /nosuch/path" in missing.stderr


def test_the_api_socket_and_what_the_user_is_logged_in_with(stack: Stack, tmp_path: Path) -> None:
    auth = {"r.example": {"auth": base64.b64encode(b"u:p").decode()}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auth}))
    show = "test -S /var/run/docker.sock; cat $DOCKER_CONFIG/config.json; stat -c %a $DOCKER_CONFIG/config.json"
    options = ("--config", str(tmp_path), "run", "--rm", "--use-api-socket")  # docker has it from 28 on
    done = stack.orlop(*options, "busybox", "sh", "-ec", show)
    assert done.stdout == f"{json.dumps({'auths': auth})}600\n", done.stderr


def test_named_volumes_outlive_containers(cli: Cli) -> None:
    try:
        assert cli("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/x").returncode == 0
        assert cli("run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/x").stdout == "kept\n"
        assert "data" in cli("volume", "ls", "-q").stdout.split()
    finally:
        assert cli("volume", "rm", "data").returncode == 0


@pytest.mark.parametrize(
    ("options", "command", "output"),
    [
        (["--user", "1000:100"], "id", "uid=1000 gid=100(users) groups=100(users)\n"),
        (["--user", "daemon"], "id -un", "daemon\n"),
        (["--read-only"], "touch /x 2>/dev/null || echo refused", "refused\n"),
        (["--cap-drop", "ALL"], "grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"),
        (["--cap-drop", "CHOWN"], "chown 1:1 /tmp 2>/dev/null || echo refused", "refused\n"),
        (["--network", "none"], "ls /sys/class/net", "lo\n"),
        (["--hostname", "box"], "hostname", "box\n"),
        (["-e", "A=1", "-w", "/tmp"], "echo $A; pwd", "1\n/tmp\n"),
        (["--tmpfs", "/t:size=1m"], "grep -c ' /t ' /proc/mounts", "1\n"),
        (["--ulimit", "nofile=100:200"], "ulimit -n", "100\n"),
        (["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
        ([], "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"),
        ([], "grep CapInh /proc/self/status", "CapInh:\t0000000000000000\n"),
    ],
)
def test_options_seen_from_inside(cli: Cli, options: list[str], command: str, output: str) -> None:
    result = cli("run", "--rm", *options, "busybox", "sh", "-c", command)
    assert result.stdout == output, result.stderr


def test_a_terminal_that_resizes(cli: Cli) -> None:
    name = "resized"
    with cli.terminal("run", "-it", "--rm", "--name", name, "busybox", "sh", rows=30, columns=100) as terminal:
        terminal.expect(r"/ # ")
        terminal.type("stty size\n")
        terminal.expect(r"30 100")
        size = ("exec", name, "stty", "-F", "/dev/console", "size")
        terminal.resize_until(40, 120, lambda: "40 120" in cli(*size).stdout)
        terminal.type("exit 4\n")
        assert terminal.wait() == 4


def test_detach_keys_leave_the_container_running(cli: Cli) -> None:
    try:
        with cli.terminal("run", "-it", "--name", "tty", "busybox", "sh") as terminal:
            terminal.expect(r"/ # ")
            terminal.type("\x10\x11")
            assert terminal.wait() == 0
        assert cli("ps", "--format", "{{.Names}}").stdout == "tty\n"
        with cli.terminal("attach", "tty") as terminal:
            terminal.type("echo a''gain\n")
            terminal.expect("again")
            terminal.type("exit 5\n")
            assert terminal.wait() == 5
    finally:
        cli("rm", "-f", "tty")


def test_exec(cli: Cli, container: Made) -> None:
    name = container("busybox", "sleep", "1000")
    assert cli("exec", name, "sh", "-c", "echo out; echo err >&2; exit 7").returncode == 7
    assert (
        cli("exec", "-u", "1000", "-w", "/tmp", "-e", "B=2", name, "sh", "-c", "id -u; pwd; echo $B").stdout
        == "1000\n/tmp\n2\n"
    )
    assert cli("exec", "-i", name, "cat", input="hi\n").stdout == "hi\n"
    assert cli("exec", name, "nosuchprogram").returncode == 127
    assert cli("exec", "-d", name, "touch", "/made").returncode == 0
    with cli.terminal("exec", "-it", name, "sh") as terminal:
        terminal.expect(r"/ # ")
        terminal.type("tty; exit 3\n")
        terminal.expect(r"/dev/pts/\d+")
        assert terminal.wait() == 3


def test_published_ports_answer(cli: Cli, container: Made, stack: Stack) -> None:
    port = stack.free_port()
    name = container(
        "-p", f"{port}:80", "busybox", "sh", "-c", "mkdir -p /w; echo served > /w/index.html; httpd -f -h /w"
    )
    assert stack.http_get(f"http://127.0.0.1:{port}/") == "served\n"
    assert f"0.0.0.0:{port}->80/tcp" in cli("ps").stdout
    assert f"0.0.0.0:{port}" in cli("port", name, "80").stdout
    taken = cli("run", "--rm", "-p", f"{port}:80", "busybox", "true")
    assert taken.returncode == 125 and "port is already allocated" in taken.stderr
    assert cli("stop", "-t", "0", name).returncode == 0
    assert stack.http_get(f"http://127.0.0.1:{port}/") is None


def test_containers_reach_each_other_and_the_outside(cli: Cli, container: Made, stack: Stack) -> None:
    server = container("busybox", "sh", "-c", "mkdir -p /w; echo peer > /w/index.html; httpd -f -h /w")
    address = cli(
        "inspect",
        "-f",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        server,
    ).stdout.strip()
    assert cli("run", "--rm", "busybox", "wget", "-qO-", f"http://{address}/").stdout == "peer\n"
    with stack.outside_server("outside\n") as url:
        assert cli("run", "--rm", "busybox", "wget", "-qO-", url).stdout == "outside\n"
        shared = cli(
            "run", "--rm", "--network", f"container:{server}", "busybox", "wget", "-qO-", "http://127.0.0.1/"
        )
        assert shared.stdout == "peer\n", shared.stderr


def test_logs(cli: Cli, container: Made) -> None:
    name = container("busybox", "sh", "-c", "for i in 1 2 3; do echo line $i; done; echo err >&2; sleep 1000")
    deadline = time.monotonic() + 10
    while "err" not in cli("logs", name).stderr:  # the container's start is not ours to wait for
        assert time.monotonic() < deadline
    assert cli("logs", name).stdout == "line 1\nline 2\nline 3\n"
    assert (
        cli("logs", "--tail", "2", name).stdout.count("\n") + cli("logs", "--tail", "2", name).stderr.count("\n")
        == 2
    )
    stamped = cli("logs", "-t", name).stdout.splitlines()[0]
    assert stamped.endswith("Z line 1") and stamped[:2] == "20"
    assert cli("logs", "--since", "2100-01-01T00:00:00Z", name).stdout == ""


def test_logs_follow_until_the_end(cli: Cli, container: Made) -> None:
    name = container("busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done")
    assert cli("logs", "-f", name).stdout == "".join(f"line {i}\n" for i in range(1, 6))


def test_stop_waits_for_its_timeout(cli: Cli, container: Made) -> None:
    polite = container("busybox", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done")
    before = time.monotonic()
    assert cli("stop", polite).returncode == 0
    assert time.monotonic() - before < 8
    assert cli("inspect", "-f", "{{.State.ExitCode}}", polite).stdout == "5\n"
    deaf = container("busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    before = time.monotonic()
    assert cli("stop", "-t", "1", deaf).returncode == 0
    assert time.monotonic() - before >= 1
    assert cli("inspect", "-f", "{{.State.ExitCode}}", deaf).stdout == "137\n"


def test_the_rest_of_the_life_cycle(cli: Cli, container: Made) -> None:
    name = container("--name", "life", "busybox", "sh", "-c", "echo started; sleep 1000")
    assert cli("pause", "life").returncode == 0
    assert "(Paused)" in cli("ps").stdout
    assert cli("unpause", "life").returncode == 0
    assert cli("rename", "life", "renamed").returncode == 0
    assert "sleep 1000" in cli("top", "renamed").stdout
    assert cli("stats", "--no-stream", "renamed").stdout.splitlines()[1].split()[1] == "renamed"
    assert cli("restart", "-t", "0", "renamed").returncode == 0
    assert cli("kill", "renamed").returncode == 0
    assert cli("wait", "renamed").stdout == "137\n"
    details = json.loads(cli("inspect", name).stdout)[0]
    assert details["State"]["Status"] == "exited" and details["Name"] == "/renamed"
    assert cli("start", "renamed").returncode == 0
    conflict = cli("run", "-d", "--name", "renamed", "busybox", "true")
    assert conflict.returncode == 125 and 'name "/renamed" is already in use' in conflict.stderr
    running = cli("rm", "renamed")
    assert running.returncode == 1 and "container is running" in running.stderr


def test_events_tell_the_life_of_a_container(cli: Cli) -> None:
    since = str(time.time())
    assert cli("run", "--rm", "--name", "seen", "busybox", "true").returncode == 0
    lines = cli("events", "--since", since, "--until", str(time.time()), "--filter", "container=seen",
                "--format", "{{.Type}} {{.Action}}").stdout.splitlines()  # fmt: skip
    actions = [line.split()[1] for line in lines if line.startswith("container")]
    order = ["create", "start", "die", "destroy"]
    assert [action for action in actions if action in order] == order


def test_version_and_info(cli: Cli) -> None:
    version = cli("version").stdout
    assert "Server" in version and "containerd" in version
    assert "Running: 0" in cli("info").stdout


def test_an_unpublished_environment_is_not_leaked(cli: Cli) -> None:
    os.environ["SECRET_OF_THE_TEST"] = "x"
    try:
        assert "SECRET_OF_THE_TEST" not in cli("run", "--rm", "busybox", "env").stdout
    finally:
        del os.environ["SECRET_OF_THE_TEST"]
