# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint does beyond writing files once: memory ahead or on demand, connections, foreign namespaces."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator

import pytest
from support.bundles import Bundle, Runtime, eventually
from support.checkpoints import COUNT, count, counting, needs_criu, restore, start
from support.networks import fresh_netns, inner_netns
from support.pace import PACE

from orlop.errdefs import FailedPreconditionError
from orlop.libcontainer.criu.session import require

pytestmark = pytest.mark.root
PORT = 27
_ADDRESS = ("--address", "127.0.0.1", "--port", str(PORT))


def _needs(feature: str) -> None:
    try:
        require(feature)
    except FailedPreconditionError as error:
        pytest.skip(str(error))


def _needs_large_pipes() -> None:
    """CRIU serves pages from pipes of some 3 MiB, and where it cannot have one it waits for ever."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4 << 20)
    except PermissionError:
        pytest.skip("large pipes need CAP_SYS_RESOURCE")
    finally:
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def _serving(command: list[str], *arguments: str) -> Iterator[None]:
    """A command that serves pages, has said so on the descriptor of --status-fd, and ends well by itself."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*command, "--status-fd", str(writer), *arguments], pass_fds=(writer,),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"\0", process.communicate(timeout=60 * PACE)
        yield
        _, errors = process.communicate(timeout=60 * PACE)
        assert process.returncode == 0, errors
    finally:
        os.close(reader)
        if process.poll() is None:
            process.kill()
            process.communicate()


# One process, most of whose memory stays as it is.
_COUNT_ALONE = "a=$(printf %0900000d 0); i=0; while :; do i=$((i+1)); echo $i > /count; done"


@needs_criu
def test_pre_dumps_and_their_parents(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    """Memory twice ahead, each time what has changed since, and the rest while the container stands still."""
    _needs("mem_track")
    container = start(runtime, bundle.args(_COUNT_ALONE))
    counting(bundle)
    runtime("checkpoint", "--pre-dump", "--image-path", str(tmp_path / "first"), container).ok()
    assert runtime.state(container)["status"] == "running"
    counting(bundle, count(bundle) + 1)
    second = ("--image-path", str(tmp_path / "second"), "--parent-path", "../first")
    runtime("checkpoint", "--pre-dump", *second, container).ok()
    assert runtime.state(container)["status"] == "running"
    images = str(tmp_path / "last")
    runtime("checkpoint", "--image-path", images, "--parent-path", "../second", container).ok()
    assert os.readlink(f"{images}/parent") == "../second"
    sizes = [
        sum(entry.stat().st_size for entry in os.scandir(tmp_path / name) if entry.name.startswith("pages-"))
        for name in ("first", "last")
    ]
    assert sizes[0] > 900_000 > sizes[1], "the last dump has all pages again"
    before = count(bundle)
    restore(runtime, bundle, images, container)
    counting(bundle, before + 3)
    runtime("delete", "--force", container).ok()


@needs_criu
def test_pages_go_to_a_page_server(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with fresh_netns():
        container = start(runtime, bundle.args(COUNT))
        counting(bundle)
        rest = ("--image-path", str(tmp_path / "rest"))
        with _serving(["criu", "page-server"], "--images-dir", str(images), *_ADDRESS):
            runtime("checkpoint", *rest, "--page-server", f"127.0.0.1:{PORT}", container).ok()
    assert [name for name in os.listdir(images) if name.startswith("pages-")]
    assert not [name for name in os.listdir(tmp_path / "rest") if name.startswith("pages-")]
    for entry in os.scandir(tmp_path / "rest"):
        os.rename(entry.path, images / entry.name)
    before = count(bundle)
    restore(runtime, bundle, str(images), container)
    counting(bundle, before + 3)
    runtime("delete", "--force", container).ok()


@needs_criu
def test_memory_is_fetched_when_it_is_used(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    """The original stands still and serves its pages, while its copy runs already; then it is deleted."""
    _needs("lazy_pages")
    _needs_large_pipes()
    images, work = str(tmp_path / "images"), str(tmp_path / "work")
    os.mkdir(work)
    with fresh_netns():
        original = start(ours, bundle.args(COUNT))
        counting(bundle)
        server = ("--page-server", f"127.0.0.1:{PORT}")
        checkpoint = [*ours.command, "--root", ours.root, "checkpoint", "--lazy-pages"]
        fetching = ("--page-server", *_ADDRESS, "--images-dir", images, "--work-dir", work)
        with (
            _serving(checkpoint, "--image-path", images, *server, original),
            _serving(["criu", "lazy-pages"], *fetching),
        ):
            before = count(bundle)
            copy = ours.new_id(bundle)
            bundle.write()
            restore(ours, bundle, images, copy, "--lazy-pages", "--work-path", work)
            counting(bundle, before + 3)
    assert ours("state", original).status != 0, "it has been deleted"
    ours("delete", "--force", copy).ok()


def test_a_status_descriptor_that_cannot_be_written(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    container = ours.start(bundle.args("sleep", "100"))
    images = str(tmp_path / "images")
    result = ours("checkpoint", "--status-fd", "77", "--image-path", images, container)
    assert (result.status, os.path.exists(images)) == (1, False)
    assert "--status-fd is 77, expected an open descriptor: bad file descriptor" in result.message
    result = ours("checkpoint", "--status-fd", "0", "--image-path", images, container, stdin="")
    assert (result.status, os.path.exists(images)) == (1, False)
    assert "--status-fd is 0, expected a descriptor that can be written" in result.message
    assert ours.state(container)["status"] == "running"


_TALK = """
count() { i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done; }
sleep 10000 | nc -l -p 99 > /heard &
until count | nc 127.0.0.1 99; do sleep 0.05; done
"""


@needs_criu
def test_connections_go_on(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    """Debian's runc 1.1.5 fails to restore this one: Network is unreachable."""
    container = start(ours, bundle.args(_TALK))
    heard = f"{bundle.rootfs}/heard"

    def hears_more(than: int) -> None:
        eventually(lambda: os.path.exists(heard) and os.path.getsize(heard) > than, "nothing is heard", timeout=30)

    hears_more(10)
    refused = ours("checkpoint", "--image-path", str(tmp_path / "refused"), container)
    assert refused.status == 1
    assert ours.state(container)["status"] == "running"
    images = str(tmp_path / "images")
    ours("checkpoint", "--tcp-established", "--image-path", images, container).ok()
    before = os.path.getsize(heard)
    restore(ours, bundle, images, container, "--tcp-established")
    hears_more(before + 10)
    ours("delete", "--force", container).ok()
    with open(heard, encoding="utf-8") as file:
        numbers = [int(line) for line in file.read().split("\n")[:-1]]
    assert numbers == list(range(1, len(numbers) + 1)), "none is lost, none comes twice"


@needs_criu
def test_a_network_namespace_that_is_somebody_elses(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    with inner_netns() as path:
        for namespace in bundle.linux["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = path
        container = start(runtime, bundle.args(COUNT))
        counting(bundle)
        images = str(tmp_path / "images")
        runtime("checkpoint", "--image-path", images, container).ok()
        before = count(bundle)
        restore(runtime, bundle, images, container)
        counting(bundle, before + 3)
        pid = runtime.state(container)["pid"]
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(path).st_ino
        runtime("delete", "--force", container).ok()
