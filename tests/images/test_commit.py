# SPDX-License-Identifier: Apache-2.0
"""Images and the containers made of them, on the whole stack: commit, use, removal."""

import json
import re
from collections.abc import Iterator

import pytest
from support import images
from support.containerd import wait_until
from support.stack import Stack

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack with busybox and the image of many layers."""
    with Stack() as running:
        for name in ("busybox", "layers"):
            running.docker("load", "-q", "-i", str(images.archive(name))).ok()
        yield running


def test_commit(stack: Stack) -> None:
    """What a container changed is in the image; so are its configuration and the changes asked for."""
    script = "echo new >/new; rm /etc/shadow; mkdir /d; echo x >/d/x; chmod 600 /d/x; ln -s x /d/l; rm -r /home"
    script += "; mkdir /home"
    stack.docker("run", "--name", "source", "-e", "KEPT=1", "--user", "0", "busybox", "sh", "-c", script).ok()
    arguments = [
        "-m",
        "a message",
        "-a",
        "an author",
        "-c",
        "CMD cat /new",
        "-c",
        "ENV ADDED=2",
        "-c",
        "LABEL made=here",
    ]
    image_id = stack.docker("commit", *arguments, "source", "committed:v1").ok().strip()
    (shown,) = json.loads(stack.docker("inspect", "committed:v1").ok())
    assert shown["Id"] == image_id
    assert (shown["Comment"], shown["Author"]) == ("a message", "an author")
    assert shown["Config"]["Cmd"] == ["/bin/sh", "-c", "cat /new"]
    assert {"KEPT=1", "ADDED=2"} <= set(shown["Config"]["Env"])
    assert shown["Config"]["Labels"]["made"] == "here"
    assert len(shown["RootFS"]["Layers"]) == 2
    assert stack.docker("run", "--rm", "committed:v1").ok() == "new\n"
    look = "ls -A /home /etc/shadow; stat -c %a /d/x; readlink /d/l; echo $KEPT $ADDED"
    result = stack.docker("run", "--rm", "committed:v1", "sh", "-c", look)
    assert result.out == "/home:\n600\nx\n1 2\n"
    assert "/etc/shadow: No such file" in result.err
    history = stack.docker("history", "--format", "{{.CreatedBy}}|{{.Comment}}", "--no-trunc", "committed:v1").ok()
    assert history.splitlines()[0] == f"sh -c {script}|a message"
    stack.docker("rmi", "committed:v1").ok()
    stack.docker("rm", "source").ok()


def test_commit_of_a_running_container(stack: Stack) -> None:
    """It is stopped for the moment and runs on; without a name the image is dangling."""
    container = stack.docker("run", "-d", "busybox", "sh", "-c", "echo here >/here; exec sleep 100").ok().strip()
    stack.docker("exec", container, "true").ok()
    image_id = stack.docker("commit", container).ok().strip()
    assert stack.docker("inspect", "-f", "{{.State.Status}}", container).ok() == "running\n"
    assert stack.docker("run", "--rm", image_id, "cat", "/here").ok() == "here\n"
    assert stack.docker("images", "-q", "--no-trunc", "-f", "dangling=true").ok() == image_id + "\n"
    stack.docker("rm", "-f", container).ok()
    assert f"deleted: {image_id}" in stack.docker("image", "prune", "-f").ok()


def test_commit_refusals(stack: Stack) -> None:
    """No such container, no such instruction."""
    assert "No such container: nope" in stack.docker("commit", "nope").err
    container = stack.docker("create", "busybox", "true").ok().strip()
    assert "RUN is not a valid change command" in stack.docker("commit", "-c", "RUN x", container).err
    assert "invalid reference format" in stack.docker("commit", container, "a//b").err
    stack.docker("rm", container).ok()


def test_image_of_a_container_is_kept(stack: Stack) -> None:
    """Removal is refused while a container uses it; by force the name goes and the container still starts."""
    stack.docker("tag", "layers", "used:v1").ok()
    stack.docker("rmi", "layers").ok()
    container = stack.docker("create", "--entrypoint", "cat", "used:v1", "/changed").ok().strip()
    refused = stack.docker("rmi", "used:v1").err
    assert re.search(
        rf'conflict: unable to remove repository reference "used:v1" \(must force\) - container {container[:12]} '
        "is using its referenced image [0-9a-f]{12}",
        refused,
    )
    assert stack.docker("rmi", "-f", "used:v1").ok() == "Untagged: used:v1\n"
    assert stack.docker("start", "-a", container).ok() == "two\n"
    image_id = stack.docker("inspect", "-f", "{{.Image}}", container).ok().strip()
    assert "must be forced" in stack.docker("rmi", image_id).err
    stack.docker("rm", container).ok()
    assert f"Deleted: {image_id}" in stack.docker("rmi", image_id).ok()
    stack.docker("load", "-q", "-i", str(images.archive("layers"))).ok()


def test_defaults_of_an_image_reach_the_container(stack: Stack) -> None:
    """Entrypoint, command, environment, user, directory, volume with the image's content."""
    command = "echo $LAYERS; id -u; pwd; cat /data/seed; stat -c %u:%g /data"
    out = stack.docker("run", "--rm", "layers", "sh", "-c", command).ok()
    assert out == "3\n1000\n/work/dir\nseed\n1000:1000\n"
    assert stack.docker("run", "--rm", "layers").ok() == "layers\n"


def test_images_after_containerd_died(stack: Stack) -> None:
    """While it is away there is one clear error; then the images are back, with what changed meanwhile."""
    before = stack.docker("images", "--no-trunc").ok()
    stack.containerd.kill()
    refused = stack.docker("pull", "localhost:1/x:y")
    assert refused.status != 0
    assert refused.err.startswith("Error response from daemon: ")
    stack.start_containerd()
    stack.containerd.ctr(
        "images", "tag", "docker.io/library/busybox:latest", "docker.io/library/meanwhile:v1"
    ).ok()
    wait_until(lambda: "meanwhile" in stack.docker("images", "--no-trunc").out)
    stack.docker("rmi", "meanwhile:v1").ok()
    assert stack.docker("images", "--no-trunc").ok() == before
    assert stack.docker("run", "--rm", "busybox", "echo", "back").ok() == "back\n"
