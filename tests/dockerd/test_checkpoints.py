# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of containers through the Engine API: where they are, what is refused, what a failure leaves."""

import os
import re
from collections.abc import Iterator

import pytest
from support.checkpoints import REMEMBER, needs_criu
from support.containerd import wait_until
from support.stack import Stack

from orlop.engine.client import Client, EngineError

pytestmark = pytest.mark.root

OURS = pytest.param(("orlop", "orlop"), id="orlop")
FOREIGN = pytest.param(("original", "runc"), id="original", marks=pytest.mark.original)


@pytest.fixture(scope="module", params=[OURS, FOREIGN])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack in experimental mode, with a container that runs and one that has ended."""
    kind, runtime = request.param
    with Stack(kind, runtime=runtime, flags=["--experimental"]) as running:
        running.load("busybox")
        running.docker("run", "-d", "--name", "runs", "busybox", "sleep", "1000").ok()
        running.docker("run", "--name", "ended", "busybox", "true").ok()
        yield running
        running.docker("rm", "-f", "runs", "ended").ok()


def _identity(stack: Stack, name: str) -> str:
    return stack.docker("inspect", "-f", "{{.Id}}", name).ok().strip()


def _directory(stack: Stack, name: str) -> str:
    return f"{stack.data_root}/containers/{_identity(stack, name)}/checkpoints"


def test_create(stack: Stack) -> None:
    """Where CRIU cannot do it, CRIU's reason is told and nothing is left; else the checkpoint is there."""
    created = stack.docker("checkpoint", "create", "--leave-running", "runs", "first")
    listed = stack.docker("checkpoint", "ls", "runs").ok()
    assert stack.docker("inspect", "-f", "{{.State.Running}}", "runs").ok() == "true\n"
    if created.status:
        assert "cannot checkpoint container runs: " in created.err
        assert "criu" in created.err.lower()
        assert listed == "CHECKPOINT NAME\n"
        assert not os.path.exists(_directory(stack, "runs"))
        return
    assert listed.split() == ["CHECKPOINT", "NAME", "first"]
    assert "already exists" in stack.docker("checkpoint", "create", "runs", "first").err
    stack.docker("checkpoint", "rm", "runs", "first").ok()


def test_refusals(stack: Stack) -> None:
    """What is no name, what does not run, what is not there."""
    for name, words in (("a/b", "invalid checkpoint ID (a/b)"), ("..", "invalid checkpoint ID (..)")):
        assert words in stack.docker("checkpoint", "create", "runs", name).err
    assert "container ended is not running" in stack.docker("checkpoint", "create", "ended", "one").err
    absent = "checkpoint one does not exist for container ended"
    assert absent in stack.docker("checkpoint", "rm", "ended", "one").err
    assert absent in stack.docker("start", "--checkpoint", "one", "ended").err
    relative = stack.docker("checkpoint", "ls", "--checkpoint-dir", "here", "ended").err
    assert "expected an absolute path" in relative
    assert "No such container: nope" in stack.docker("checkpoint", "ls", "nope").err


def test_list_and_remove(stack: Stack, tmp_path: object) -> None:
    """In the container's own place and in another; half-made ones are none."""
    identity = _identity(stack, "ended")
    for base, flags in (
        (_directory(stack, "ended"), []),
        (f"{tmp_path}/{identity}/checkpoints", ["--checkpoint-dir", str(tmp_path)]),
    ):
        for name in ("one", "two", ".three"):
            os.makedirs(f"{base}/{name}")
        assert stack.docker("checkpoint", "ls", *flags, "ended").ok().split()[2:] == ["one", "two"]
        stack.docker("checkpoint", "rm", *flags, "ended", "one").ok()
        assert stack.docker("checkpoint", "ls", *flags, "ended").ok().split()[2:] == ["two"]


def test_start_from_what_is_no_checkpoint(stack: Stack) -> None:
    """It fails as any start does, and the container can be started as usual afterwards."""
    os.makedirs(f"{_directory(stack, 'ended')}/empty")
    failed = stack.docker("start", "--checkpoint", "empty", "ended")
    assert failed.status == 1
    assert re.search("failed to (create task for|start) container", failed.err)
    assert stack.docker("start", "ended").ok() == "ended\n"
    assert stack.docker("wait", "ended").ok() == "0\n"


def test_outside_of_experimental_mode() -> None:
    """The endpoints say what would turn them on."""
    with Stack() as stack:
        stack.load("busybox")
        stack.docker("create", "--name", "made", "busybox", "true").ok()
        client = Client(stack.host)
        with pytest.raises(EngineError, match="This experimental feature is disabled by default") as off:
            client.get("/containers/made/checkpoints")
        assert off.value.status == 501
        with pytest.raises(EngineError, match="checkpoint is only supported in experimental mode") as refused:
            client.post("/containers/made/start", {"checkpoint": "one"})
        assert refused.value.status == 400
        client.close()


@needs_criu
def test_a_container_goes_on_where_it_was(stack: Stack) -> None:
    """Stopped by its checkpoint and started from it, its memory is as before; by a plain start it is another."""

    def word() -> str:
        stack.docker("exec", "box", "rm", "-f", "/word").ok()
        wait_until(lambda: stack.docker("exec", "box", "test", "-s", "/word").status == 0, timeout=30)
        return stack.docker("exec", "box", "cat", "/word").ok()

    def running() -> str:
        return stack.docker("inspect", "-f", "{{.State.Running}}", "box").ok()

    stack.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", REMEMBER).ok()
    try:
        before = word()
        stack.docker("checkpoint", "create", "box", "first").ok()
        wait_until(lambda: running() == "false\n", timeout=30)
        stack.docker("start", "--checkpoint", "first", "box").ok()
        assert (running(), word()) == ("true\n", before)
        assert stack.docker("checkpoint", "ls", "box").ok().split()[2:] == ["first"]
        stack.docker("checkpoint", "rm", "box", "first").ok()
        stack.docker("restart", "-t", "0", "box").ok()
        assert word() != before
    finally:
        stack.docker("rm", "-f", "box").ok()
