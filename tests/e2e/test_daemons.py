# SPDX-License-Identifier: Apache-2.0
"""The experiments that explain Docker's life cycle: daemons are really stopped or killed while containers run."""

import contextlib
import json
import subprocess
from collections.abc import Iterator

import pytest
from support.e2e import BIN, Cli, Stack, eventually

pytestmark = pytest.mark.root

CTR_CLIENTS = ["ctr", str(BIN / "orlop-ctr")]
_PRINT_FAST = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; sleep 1000"


@contextlib.contextmanager
def running(stack: Stack, *arguments: str) -> Iterator[str]:
    """A detached container, removed at the end by a stack that is whole again."""
    made = stack.docker("run", "-d", *arguments)
    assert made.returncode == 0, made.stderr
    name = made.stdout.strip()
    try:
        yield name
    finally:
        stack.daemon("start")
        eventually(lambda: stack.docker("rm", "-f", name).returncode == 0)


def _log(stack: Stack, name: str) -> list[str]:
    """The container's log as the shim wrote it, whoever is alive."""
    path = next(stack.data_root.glob(f"containers/{name}/*-json.log"))
    rotated = sorted(path.parent.glob(f"{path.name}.*"), reverse=True)
    return [json.loads(line)["log"] for file in (*rotated, path) for line in file.read_text().splitlines()]


def test_a_stopped_dockerd_is_started_by_the_next_client(cli: Cli, stack: Stack) -> None:
    with running(stack, "--name", "kept", "busybox", "sleep", "1000"):
        stack.daemon("stop", "dockerd")
        status = stack.status()
        assert status["dockerd"].startswith("stopped") and status["socket"] == "listening"
        listed = cli("ps", "--format", "{{.Names}}")
        assert (listed.returncode, listed.stdout) == (0, "kept\n"), listed.stderr
        assert stack.status()["dockerd"] == "running"


def test_without_the_socket_clients_say_so(cli: Cli, stack: Stack) -> None:
    stack.daemon("stop", "socket")
    try:
        message = f"Cannot connect to the Docker daemon at {stack.host}. Is the docker daemon running?"
        run = cli("run", "busybox")
        assert run.returncode == 125 and message in run.stderr
        ps = cli("ps")
        assert ps.returncode == 1 and message in ps.stderr
    finally:
        stack.daemon("start")
    assert cli("ps").returncode == 0


def test_containers_outlive_containerd(stack: Stack) -> None:
    port = stack.free_port()
    count = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done"
    script = f"mkdir -p /w; echo web > /w/index.html; httpd -h /w; {count}"
    with running(stack, "-p", f"{port}:80", "busybox", "sh", "-c", script) as name:
        assert stack.http_get(f"http://127.0.0.1:{port}/") == "web\n"
        with running(stack, "busybox", "sh", "-c", "sleep 1; exit 9") as short:
            stack.daemon("stop", "containerd")
            refused = stack.docker("run", "--rm", "busybox", "true", timeout=30)
            assert refused.returncode == 125
            assert refused.stderr.startswith("docker: Error response from daemon: ")
            assert len(refused.stderr.split("\n\nRun 'docker run --help'")[0].splitlines()) == 1
            assert stack.http_get(f"http://127.0.0.1:{port}/") == "web\n"
            written = len(_log(stack, name))
            eventually(lambda: len(_log(stack, name)) > written + 100)
            stack.daemon("start", "containerd")
            eventually(lambda: stack.docker("exec", name, "true").returncode == 0)
            eventually(
                lambda: (
                    stack.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", short).stdout
                    == "exited 9\n"
                )
            )
        lines = [line for line in _log(stack, name) if line.startswith("line")]
        assert lines == [f"line {index}\n" for index in range(len(lines))]
        assert stack.docker("stop", "-t", "0", name).returncode == 0


def test_containerd_killed_is_restarted_and_nothing_is_lost(stack: Stack) -> None:
    with running(stack, "busybox", "sleep", "1000") as name:
        stack.kill("containerd")
        eventually(lambda: stack.docker("exec", name, "true").returncode == 0)
        assert stack.docker("run", "--rm", "busybox", "echo", "again").stdout == "again\n"


@pytest.mark.parametrize("ctr", CTR_CLIENTS, ids=["ctr", "orlop-ctr"])
def test_ctr_manages_the_containers_of_a_stopped_dockerd(stack: Stack, ctr: str) -> None:
    client = Cli(ctr, stack)
    address = ("-a", f"{stack.run_dir}/containerd/containerd.sock", "-n", "moby")
    with running(stack, "busybox", "sh", "-c", "trap 'exit 6' TERM; while :; do sleep 0.1; done") as name:
        stack.daemon("stop", "dockerd")
        listed = client(*address, "tasks", "ls")
        assert name in listed.stdout and "RUNNING" in listed.stdout, listed.stderr
        executed = client(*address, "tasks", "exec", "--exec-id", "e1", name, "echo", "inside")
        assert executed.stdout == "inside\n", executed.stderr
        assert client(*address, "tasks", "kill", "-s", "SIGTERM", name).returncode == 0
        eventually(
            lambda: (
                "STOPPED" in client(*address, "tasks", "ls").stdout
                or name not in client(*address, "tasks", "ls").stdout
            )
        )
        assert stack.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name).stdout == "exited 6\n"


def test_no_line_is_lost_when_dockerd_and_containerd_are_killed(stack: Stack) -> None:
    with contextlib.ExitStack() as cleanup:
        names = [
            cleanup.enter_context(running(stack, "--log-opt", "max-size=-1", "busybox", "sh", "-c", _PRINT_FAST))
            for _ in range(8)
        ]
        for _ in range(3):
            stack.kill("dockerd", "containerd")
            eventually(lambda: stack.docker("ps", "-q", timeout=30).returncode == 0)
        wanted = [f"line {index}\n" for index in range(30000)]
        eventually(lambda: all(len(_log(stack, name)) >= len(wanted) for name in names), seconds=90)
        for name in names:
            assert _log(stack, name) == wanted
        assert len(stack.docker("ps", "-q").stdout.split()) == 8


def test_clean_leaves_nothing_on_the_host() -> None:
    """In a stack of its own: bridges and rules go, of users' networks too; the data stays."""
    with Stack() as stack:
        assert stack.docker("network", "create", "clean-net").returncode == 0
        directories = ["--run-dir", str(stack.run_dir), "--data-root", str(stack.data_root)]
        clean = [str(BIN / "orlop"), "daemon", "clean", *directories]

        def output(*command: str) -> str:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        def left() -> str:
            # Names alone: a bridge without ports tells of that some moments later.
            links = output("ip", "-br", "link", "show", "type", "bridge").splitlines()
            return "".join(f"{line.split()[0]}\n" for line in links) + "".join(
                line for line in output("nft", "list", "tables").splitlines(True) if "orlop" in line
            )

        refused = subprocess.run(clean, capture_output=True, text=True, check=False)
        assert refused.returncode == 1 and "`orlop daemon stop` first" in refused.stderr
        stack.daemon("stop")
        before = left()
        assert "orlop0" in before and "br-" in before and "table ip orlop" in before
        would = output(*clean, "--dry-run")
        assert left() == before and "would remove bridge orlop0\n" in would
        done = output(*clean)
        assert done == would.replace("would remove", "removed")
        assert left() == "" and not stack.run_dir.exists() and (stack.data_root / "dockerd.db").exists()
        assert output(*clean) == ""
        stack.daemon("start")  # and all of it comes back
        assert "clean-net" in stack.docker("network", "ls").stdout
