# SPDX-License-Identifier: Apache-2.0
"""Rules that clients of containerd's shims rely on, one by one: exec streams, runc options, checkpoints, -info."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from support.shims import Lab, Shim, eventually

from orlop import cgroups
from orlop.api import shim_v2_pb2 as api
from orlop.api.runc_options_pb2 import CheckpointOptions, Options
from orlop.api.types_pb2 import RuntimeInfo
from orlop.errdefs import InvalidArgumentError, NotFoundError

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def managed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shim's environment is that of a daemon which systemd has started."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/no/such/socket")


def finish(shim: Shim) -> None:
    if shim.state().status != 3:
        shim.kill(9)
        shim.wait()
    shim.delete()
    shim.shutdown()


def test_fifos_of_an_exec_are_opened_at_its_start(lab: Lab) -> None:
    shim = lab.shim(["sleep", "1000"])
    shim.run()
    fifo = shim.bundle / "out"
    shim.exec("e", ["echo", "said"], stdout=str(fifo), stderr="")
    assert shim.state("e").status == 1
    with pytest.raises(NotFoundError, match="out: no such file or directory"):
        shim.start("e")
    os.mkfifo(fifo)
    with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader:
        shim.start("e")
        assert shim.wait("e") == 0
        assert eventually(lambda: reader.read(100)) == b"said\n"
    shim.delete("e")
    finish(shim)


def test_streams_belong_to_whom_the_options_say(lab: Lab) -> None:
    lab.options.io_uid, lab.options.io_gid = 1234, 5678
    shim = lab.shim(["sleep", "1000"])
    pid = shim.run().pid
    for number in (1, 2):
        # The runtime then gives them to the process's user, whose group it leaves.
        found = os.stat(f"/proc/{pid}/fd/{number}")
        assert (found.st_uid, found.st_gid) == (0, 5678)
    finish(shim)


@pytest.fixture
def group(lab: Lab) -> Iterator[str]:
    """A control group for the shim itself."""
    path = f"/orlop-shim-{lab.name}-own"
    manager = cgroups.new_manager(path)
    manager.create()
    yield path
    manager.destroy()


def test_shim_cgroup(lab: Lab, group: str) -> None:
    lab.options.shim_cgroup = "/no/such/group"
    shim = lab.shim(["sleep", "1000"])
    with pytest.raises(InvalidArgumentError, match="shim_cgroup /no/such/group: no such control group"):
        shim.create()
    lab.options.shim_cgroup = group
    pid = shim.run().pid
    assert f":{group}\n" in Path(f"/proc/{shim.pid}/cgroup").read_text()
    assert f":{group}\n" not in Path(f"/proc/{pid}/cgroup").read_text()
    finish(shim)


def test_checkpoint_says_the_options_to_the_runtime(lab: Lab) -> None:
    calls = lab.directory / "calls"
    stand_in = lab.directory / "runtime.sh"
    stand_in.write_text(
        f'#!/bin/sh\necho "$NOTIFY_SOCKET $@" >>{calls}\n'
        'case " $* " in *" checkpoint "*) exit 0;; esac\nexec runc "$@"\n'
    )
    stand_in.chmod(0o755)
    lab.options.binary_name = str(stand_in)
    shim = lab.shim(["sleep", "1000"])
    shim.run()
    options = CheckpointOptions(
        open_tcp=True, empty_namespaces=["network"], work_path="/work", cgroups_mode="soft"
    )
    request = api.CheckpointTaskRequest(id="c1", path="/images")
    request.options.type_url = options.DESCRIPTOR.full_name
    request.options.value = options.SerializeToString()
    shim.call("Checkpoint", request)
    lines = calls.read_text().splitlines()
    assert all(line.startswith(" --root") for line in lines), "the runtime gets no NOTIFY_SOCKET"
    words = next(line for line in lines if " checkpoint " in line).partition(" checkpoint ")[2].split()
    assert words == [
        "--image-path", "/images", "--work-path", "/work", "--leave-running", "--tcp-established",
        "--empty-ns", "network", "--manage-cgroups-mode", "soft", "c1",
    ]  # fmt: skip
    assert lab.sink.wait_for("checkpointed").checkpoint == "/images"
    finish(shim)


@pytest.mark.parametrize("binary", ["", "/usr/sbin/runc", "/bin/false"])
def test_info_tells_the_features_of_the_runtime(binary: str) -> None:
    options = Options(binary_name=binary)
    asked = AnyMessage(type_url=options.DESCRIPTOR.full_name, value=options.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-P", "-m", "orlop.shim.main", "-info"],
        input=asked.SerializeToString(), capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    info = RuntimeInfo.FromString(done.stdout)
    assert info.name == "io.containerd.orlop.v2"
    assert info.options == asked
    if binary == "/bin/false":
        assert not info.HasField("features")
    else:
        assert info.features.type_url == "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
        assert json.loads(info.features.value)["linux"]["cgroup"]["v2"] is True
