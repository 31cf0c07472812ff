# SPDX-License-Identifier: Apache-2.0
"""What is wrong from outside ends in one clear line, leaves nothing behind, and the daemons go on serving."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import images
from support.e2e import BIN, Cli, Stack
from support.registry import Registry

from orlop.unix import quota

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_left_and_still_serving(stack: Stack) -> Iterator[None]:
    """After each test the traces of containers are what they were before it, and the engine works."""
    before = _traces(stack)
    yield
    assert stack.docker("run", "--rm", "busybox", "echo", "serving").stdout == "serving\n"
    # The kernel takes network devices and control groups away behind the answer: look for a while.
    deadline = time.monotonic() + 5
    while (after := _traces(stack)) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert after == before


def _traces(stack: Stack) -> dict[str, object]:
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return {
        "containers": stack.docker("ps", "-aq").stdout,
        "images": stack.docker("images", "-q").stdout,
        "mounts": sorted(stack.mounts()),
        "links": sorted(line.split(": ")[1].split("@")[0] for line in links.splitlines()),
        "cgroups": sorted(
            str(p) for root in ("memory/", "") for p in Path("/sys/fs/cgroup").glob(f"{root}docker/*/")
        ),
        "container files": sorted(p.name for p in stack.data_root.glob("containers/*")),
        "netns": sorted(os.listdir(stack.run_dir / "netns")) if (stack.run_dir / "netns").is_dir() else [],
        "shims": [line for _, line in stack.processes() if "shim" in line and "zygote" not in line],
    }


def _error(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of the error, without the hint about --help."""
    line = result.stderr.split("\n\nRun '")[0].strip().splitlines()
    assert len(line) == 1, result.stderr
    return line[0]


def test_unknown_image(cli: Cli, near_registry: Registry) -> None:
    name = f"{near_registry.host}/no/such:1"
    result = cli("pull", name)
    assert result.returncode == 1
    assert "not found" in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_no_registry_at_all(cli: Cli) -> None:
    result = cli("pull", "127.0.0.1:1/x:1")
    assert result.returncode == 1 and "connection refused" in result.stderr.lower()


def test_corrupt_layer(cli: Cli, near_registry: Registry) -> None:
    built = images.sized(1)
    near_registry.push(built, "corrupt:1")
    digest = max(built.blobs, key=lambda digest: len(built.blobs[digest]))
    path = near_registry.blob_path(digest)
    good = path.read_bytes()
    path.write_bytes(good[:-100] + bytes(100))
    result = cli("pull", f"{near_registry.host}/corrupt:1")
    assert result.returncode == 1 and "digest" in result.stderr.lower()
    assert len(result.stderr.strip().splitlines()) == 1
    path.write_bytes(good)
    name = f"{near_registry.host}/corrupt:1"
    assert cli("pull", name).returncode == 0
    assert cli("rmi", name).returncode == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-m", "1m"], "Minimum memory limit allowed is 6MB"),
        (["--cpus", "9999"], "CPUs"),
        (["--cap-add", "NOSUCH"], "NOSUCH"),
        (["--user", "nosuchuser"], "unable to find user nosuchuser: no matching entries in passwd file"),
        (["--network", "nosuchnet"], "network nosuchnet not found"),
        (["--runtime", "nosuch"], "nosuch"),
        (["-v", "relative/../path:/x"], "includes invalid characters"),
        (["-v", "/tmp:relative"], "must be absolute"),
        (["--security-opt", "nosuch=1"], "nosuch"),
        (["--device", "/dev/nosuch"], "/dev/nosuch"),
        (["--sysctl", "net.nosuch=1"], "net.nosuch"),
        (["-w", "relative"], "relative"),
    ],
)
def test_wrong_options(cli: Cli, options: list[str], reason: str) -> None:
    result = cli("run", "--rm", *options, "busybox", "true")
    assert result.returncode in (125, 126, 127), result
    assert reason in _error(result), result.stderr


def test_name_conflict(cli: Cli) -> None:
    assert cli("create", "--name", "taken", "busybox").returncode == 0
    try:
        result = cli("run", "--rm", "--name", "taken", "busybox", "true")
        assert result.returncode == 125 and 'The container name "/taken" is already in use by container' in _error(
            result
        )
    finally:
        assert cli("rm", "taken").returncode == 0


def test_port_that_another_program_holds(cli: Cli, stack: Stack) -> None:
    import socket

    with socket.create_server(("0.0.0.0", 0)) as holder:
        port = holder.getsockname()[1]
        result = cli("run", "--rm", "-p", f"{port}:80", "busybox", "true")
        assert result.returncode == 125 and "address already in use" in _error(result)


def test_broken_daemon_configuration(tmp_path: Path) -> None:
    for text, reason in (('{"nosuch": 1}', "nosuch"), ('{"debug": "yes"}', "debug"), ("{", "JSON")):
        config = tmp_path / "daemon.json"
        config.write_text(text)
        command = [str(BIN / "orlopd"), "--validate", "--config-file", str(config)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 1, result
        assert reason.lower() in result.stderr.lower() and len(result.stderr.strip().splitlines()) == 1


def test_malformed_requests(stack: Stack) -> None:
    for body, reason in ((b"{", 400), (b'{"Image": 5}', 400), (b'{"Image": "busybox"} x', 400)):
        socket_path = stack.host.removeprefix("unix://")
        command = ["curl", "-s", "--unix-socket", socket_path, "-H", "Content-Type: application/json",
                   "-w", "\n%{http_code}", "--data-binary", "@-", "http://d/containers/create"]  # fmt: skip
        answer = subprocess.run(command, input=body, capture_output=True, check=True).stdout.decode()
        text, code = answer.rsplit("\n", 1)
        assert int(code) == reason and json.loads(text)["message"]


@contextlib.contextmanager
def _small_stack(size: str) -> Iterator[Stack]:
    """A stack of its own whose data is on a small tmpfs."""
    stack = Stack()
    stack.data_root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(stack.data_root)], check=True)
    try:
        with stack:
            yield stack
    finally:
        subprocess.run(["umount", str(stack.data_root)], check=True)
        shutil.rmtree(stack.base)


def test_full_disk(tmp_path: Path) -> None:
    archive = subprocess.run([sys.executable, "-m", "orlop.oci.busybox"], capture_output=True, check=True).stdout
    with _small_stack("16m") as small:
        load = [small.docker.program, "load", "-q"]
        subprocess.run(load, input=archive, capture_output=True, check=True, env=small.environment())
        big = tmp_path / "big.tar"
        with big.open("wb") as file:
            images.write_archive({"big:1": images.sized(24)}, file)
        failed = small.docker("load", "-q", "-i", str(big))
        assert failed.returncode == 1 and "no space left on device" in failed.stderr.lower()
        assert small.docker("run", "--rm", "busybox", "echo", "serving").stdout == "serving\n"
        assert "big" not in small.docker("images").stdout
        assert (
            small.docker("load", "-q", "-i", str(big)).returncode == 1
        )  # the space of the first try was given back
        assert small.docker("run", "--rm", "busybox", "echo", "again").stdout == "again\n"


def test_read_only_store(stack: Stack) -> None:
    snapshots = next(stack.data_root.glob("containerd/*snapshotter*overlayfs/snapshots"))
    subprocess.run(["mount", "--bind", str(snapshots), str(snapshots)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(snapshots)], check=True)
        refused = stack.docker("run", "--rm", "busybox", "true")
        assert refused.returncode == 125 and "read-only file system" in _error(refused).lower()
        assert stack.docker("ps").returncode == 0
    finally:
        subprocess.run(["umount", str(snapshots)], check=True)


def test_daemons_on_a_read_only_root_say_so(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], check=True)
    try:
        for program in ("orlopd", "orlop-containerd"):
            option = "--data-root" if program == "orlopd" else "--root"
            result = subprocess.run(
                [BIN / program, option, tmp_path / "x"], capture_output=True, text=True, check=False
            )
            assert result.returncode == 1 and "Read-only file system" in result.stderr, result
            assert len(result.stderr.strip().splitlines()) == 1
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_storage_options(cli: Cli, stack: Stack) -> None:
    """A size is a limit, or an error: never a word that nobody minds."""
    result = cli("run", "--rm", "--storage-opt", "odd=1", "busybox", "true")
    assert result.returncode == 125
    assert "unknown storage option 'odd': expected size" in _error(result)
    result = cli("run", "--rm", "--storage-opt", "size=much", "busybox", "true")
    assert result.returncode == 125
    assert "invalid storage option size: 'much' is no size" in _error(result)
    result = cli("run", "--rm", "--storage-opt", "size=1G", "busybox", "true")
    if not quota.supported(str(stack.data_root)):
        assert result.returncode == 125
        assert "--storage-opt size is supported only for overlayfs over ext4" in _error(result)
