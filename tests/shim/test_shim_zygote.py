# SPDX-License-Identifier: Apache-2.0
"""The zygote and the command line's start and delete: what they answer, what they protect, what they leave."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.shims import Attached, Lab, Shim, eventually

from orlop.api import shim_v2_pb2 as api
from orlop.api.bootstrap_pb2 import BootstrapParams, BootstrapResult

pytestmark = pytest.mark.root
# The command as it is installed, captured with its interpreter where that can be, and as a module.
COMMANDS = {
    "installed": [str(Path(sys.executable).parent / "containerd-shim-orlop-v2")],
    "module": [sys.executable, "-P", "-m", "orlop.shim.main"],
}


def test_requests_and_their_errors(lab: Lab) -> None:
    bundle = lab.bundle("c1", ["true"])
    good = {"id": "c1", "namespace": "n", "bundle": str(bundle), "address": "/a", "socket_dir": str(lab.sockets)}
    for change, complaint in [
        ({"id": ""}, "the request's id must be a string that is not empty"),
        ({"namespace": 5}, "the request's namespace must be"),
        ({"socket_dir": "/tmp/" + "x" * 100}, "longer than 106 bytes"),
    ]:
        assert complaint in lab.request(**(good | change))["error"]
    (bundle / "config.json").write_text('{"io.kubernetes.cri.sandbox-id"')
    assert "config.json" in lab.request(**good)["error"]
    (bundle / "config.json").unlink()
    assert "no such file or directory" in lab.request(**good)["error"]
    assert os.listdir(lab.sockets) == []


def test_shims_outlive_the_zygote(lab: Lab) -> None:
    shim = lab.shim(["sh", "-c", "echo a; read x; echo b"])
    shim.create(stdin=f"attach://{shim.attach_path}")
    with Attached(shim.attach_path, stdin=True) as client:
        shim.start()
        client.read_until(b"a\n")
        lab.end_zygote()
        client.send(b"\n")
        client.read_until(b"b\n")
    assert shim.wait() == 0
    shim.delete()
    shim.shutdown()
    assert lab.sink.topics() == ["create", "start", "exit", "delete"]


def test_place_of_a_shim_in_the_system(lab: Lab) -> None:
    shim = lab.shim(["true"])
    shim.call("Connect", api.ConnectRequest(id="c1"))  # it has settled when it answers
    status = dict(line.split(":", 1) for line in Path(f"/proc/{shim.pid}/status").read_text().splitlines())
    assert os.getsid(shim.pid) == shim.pid
    assert os.readlink(f"/proc/{shim.pid}/cwd") == str(shim.bundle)
    assert status["Threads"].strip() == "1"
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(Path(f"/proc/{shim.pid}/oom_score_adj").read_text()) == min(own + 1, 1000)
    words = Path(f"/proc/{shim.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert words[:5] == [b"containerd-shim-orlop-v2", b"-namespace", b"lab", b"-id", b"c1"]
    for fd in (0, 1):
        assert os.readlink(f"/proc/{shim.pid}/fd/{fd}") == "/dev/null"
    assert os.readlink(f"/proc/{shim.pid}/fd/2") == str(shim.bundle / "log")
    with pytest.raises(OSError, match=r"Text file busy|Operation not permitted"):
        os.open(f"/proc/{shim.pid}/exe", os.O_WRONLY)
    copy = os.open(f"/proc/{shim.pid}/exe", os.O_RDONLY)
    assert "memfd" in os.readlink(f"/proc/self/fd/{copy}")
    os.close(copy)
    shim.shutdown()


def test_shim_of_a_killed_one_takes_its_socket_over(lab: Lab) -> None:
    shim = lab.shim(["true"])
    os.kill(shim.pid, 9)
    eventually(lambda: not os.path.exists(f"/proc/{shim.pid}"))
    (shim.bundle / "config.json").rename(lab.directory / "config.json")
    for child in shim.bundle.iterdir():
        child.rmdir() if child.is_dir() else child.unlink()
    shim.bundle.rmdir()
    again = lab.shim(["true"])
    assert again.address == shim.address
    again.run()
    assert again.wait() == 0
    again.delete()
    again.shutdown()


def start(kind: str, lab: Lab, bundle: Path, params: bytes) -> subprocess.CompletedProcess[bytes]:
    words = ["-namespace", lab.namespace, "-id", "c1", "-address", str(lab.directory / "grpc"), "start"]
    environment = os.environ | {"TTRPC_ADDRESS": str(lab.sink.path)}
    return subprocess.run(
        [*COMMANDS[kind], *words],
        cwd=bundle,
        input=params,
        capture_output=True,
        timeout=30,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize("kind", COMMANDS)
def test_start_with_bootstrap_parameters(lab: Lab, kind: str) -> None:
    bundle = lab.bundle("c1", ["true"])
    params = BootstrapParams(
        instance_id="c1",
        namespace=lab.namespace,
        containerd_grpc_address=str(lab.directory / "grpc"),
        containerd_ttrpc_address=str(lab.sink.path),
        socket_dir=str(lab.sockets),
    )
    done = start(kind, lab, bundle, params.SerializeToString())
    assert (done.returncode, done.stderr) == (0, b"")
    result = BootstrapResult.FromString(done.stdout)
    assert (result.version, result.protocol) == (3, "ttrpc")
    shim = Shim(lab, "c1", bundle, result.address, 0)
    shim.pid = shim.call("Connect", api.ConnectRequest(id="c1")).shim_pid
    lab.shims.append(shim)
    with pytest.raises(OSError, match="exe") as refusal:  # what a container could do that has the shim's /proc
        os.open(f"/proc/{shim.pid}/exe", os.O_WRONLY)
    # A sealed copy is opened by nobody as long as it runs, and refuses each write after that.
    assert refusal.value.errno in ((errno.EROFS,) if kind == "installed" else (errno.ETXTBSY,))
    twice = start(kind, lab, bundle, params.SerializeToString())
    assert BootstrapResult.FromString(twice.stdout).address == result.address
    shim.run()
    assert shim.wait() == 0
    shim.delete()
    shim.shutdown()
    wrong = BootstrapParams(instance_id="c2", namespace=lab.namespace).SerializeToString()
    refused = start(kind, lab, bundle, wrong)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"bootstrap parameters are of lab/c2" in refused.stderr


def test_delete_after_a_crash(any_lab: Lab) -> None:
    shim = any_lab.shim(["sleep", "1000"])
    pid = shim.run().pid
    os.kill(shim.pid, 9)
    eventually(lambda: not os.path.exists(f"/proc/{shim.pid}"))
    os.kill(pid, 0)  # the container does not notice
    words = ["-namespace", any_lab.namespace, "-id", "c1", "-bundle", str(shim.bundle), "delete"]
    done = subprocess.run(
        [*COMMANDS["installed"], *words], capture_output=True, timeout=30, check=False, cwd=shim.bundle
    )
    assert done.returncode == 0, done.stderr
    response = api.DeleteResponse.FromString(done.stdout)
    assert (response.exit_status, response.pid) == (137, pid)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    again = subprocess.run(
        [*COMMANDS["installed"], *words], capture_output=True, timeout=30, check=False, cwd=shim.bundle
    )
    assert again.returncode == 0, again.stderr
