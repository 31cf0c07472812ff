# SPDX-License-Identifier: Apache-2.0
"""What images cost, and lists and events: Debian's containerd and orlop-containerd side by side, in turn.

One image of many files is pulled from docker-registry on the loopback and unpacked, exported and imported, with
Debian's ctr on both daemons and with orlop-ctr on orlop's. Then 500 containers are listed, in one answer, as a
stream and by ctr, and events go to ten subscribers. Prints medians and ratios to Debian's containerd with Debian's
ctr, by the clock and by the processor time of daemon and client together, and the highest memory (PSS) of the
daemon while pulling. Everything lies on a tmpfs. Run as root.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import socketserver
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cpu import Meter, meter
from ctr_compare import daemon
from engines import pss_kib
from google.protobuf import any_pb2
from report import timed

from orlop.api import containers_pb2, events_pb2
from orlop.containerd.client import Client
from orlop.oci import reference
from orlop.oci.build import BuiltImage, LayerBuilder, build_image
from orlop.oci.image import ImageConfig, Manifest, parse_document
from orlop.registry.upload import RegistryUploads

_LAYERS = 5
_SUBSCRIBERS = 10
_SPEC = json.dumps({"ociVersion": "1.0.2", "process": {"args": ["x" * 60] * 40}}).encode()


class Case(NamedTuple):
    """A client on a daemon."""

    ctr: str
    daemon: str


CASES = (Case("ctr", "containerd"), Case("ctr", "orlop-containerd"), Case("orlop-ctr", "orlop-containerd"))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="bench/containerd", description=__doc__)
    parser.add_argument("-n", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--files", type=int, default=20_000, help="files of the image (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=300, help="its size (default: %(default)s)")
    parser.add_argument("--only", choices=("images", "lists"), help="measure only this")
    options = parser.parse_args()
    tempfile.tempdir = "/dev/shm"
    with contextlib.ExitStack() as running:
        meters = {name: running.enter_context(meter(name)) for name in ("containerd", "orlop-containerd")}
        sockets = {name: running.enter_context(daemon(name, each)) for name, each in meters.items()}
        if options.only != "lists":
            directory = running.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            host = running.enter_context(registry(Path(directory)))
            name = f"{host}/bench/files:latest"
            asyncio.run(push(name, image(options.files, options.megabytes << 20)))
            print(f"an image of {options.files} files, {options.megabytes} MB; {options.n} of each, in turn\n")
            images(sockets, meters, name, options.n, Path(directory))
        if options.only != "images":
            for kind, socket in sockets.items():
                asyncio.run(lists(kind, socket, options.n))


def images(sockets: dict[str, str], meters: dict[str, Meter], name: str, runs: int, directory: Path) -> None:
    """Pull with unpacking, export, import with unpacking."""
    seconds: dict[tuple[str, Case], list[float]] = {}
    processor: dict[tuple[str, Case], list[float]] = {}
    memory: dict[Case, float] = {}
    archive = directory / "archive.tar"
    for _ in range(runs):
        for case in CASES:
            ctr = [case.ctr, "-a", sockets[case.daemon], "images"]
            for action, words in (
                ("pull", ["pull", "--plain-http", name]),
                ("export", ["export", str(archive), name]),
                ("import", ["import", str(archive)]),
            ):
                group = meters[case.daemon]
                command, before = group.client.command([*ctr, *words]), group.all.seconds()
                with watched(case, sockets[case.daemon], memory if action == "pull" else {}):
                    took = timed(lambda command=command: run(command))  # type: ignore[misc]
                seconds.setdefault((action, case), []).append(took)
                processor.setdefault((action, case), []).append(group.all.settled() - before)
                if action != "pull":  # both leave nothing behind for the next
                    run([*ctr, "rm", "--sync", name])
    print(f"load {os.getloadavg()[0]:.1f}; seconds of the clock (fastest), ratio; processor seconds, ratio")
    for action in ("pull", "export", "import"):
        clock, used = (statistics.median(each[action, CASES[0]]) for each in (seconds, processor))
        for case in CASES:
            times, work = seconds[action, case], statistics.median(processor[action, case])
            print(
                f"{action:7} {case.ctr:10} on {case.daemon:17} {statistics.median(times):7.2f} ({min(times):.2f})"
                f" {statistics.median(times) / clock:5.2f} {work:7.2f} {work / used:5.2f}"
            )
    for case, size in memory.items():
        print(f"highest PSS of {case.daemon} while {case.ctr} pulls: {size:.0f} MiB")


def run(command: list[str]) -> None:
    """Run a client; its output is nobody's."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.decode().strip()}")


@contextlib.contextmanager
def watched(case: Case, socket: str, memory: dict[Case, float]) -> Iterator[None]:
    """Note the highest PSS of a daemon with its helpers, in MiB, while the block runs."""
    root = _listener(socket)
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            with contextlib.suppress(OSError):  # a helper has just ended
                memory[case] = max(memory.get(case, 0.0), pss_kib(_tree(root)) / 1024)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _listener(socket: str) -> int:
    """The daemon of a socket, by the directory that its command line names."""
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdigit() and os.path.dirname(socket) in (place / "cmdline").read_text():
                return int(place.name)
    raise SystemExit(f"no daemon at {socket}")


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _tree(int(child))
    return found


@contextlib.contextmanager
def registry(directory: Path) -> Iterator[str]:
    """Debian's docker-registry on a port of the loopback; its host."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as free:
        host = f"127.0.0.1:{free.server_address[1]}"
    config = directory / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/registry}}}}\nhttp: {{addr: '{host}'}}\n"
    )
    environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        yield host
    finally:
        process.terminate()
        process.wait()


def image(files: int, size: int) -> BuiltImage:
    """An image of that many files, half of whose bytes cannot be compressed."""
    source, each = random.Random(1), size // files
    layers = []
    for number in range(_LAYERS):
        layer = LayerBuilder()
        for file in range(files // _LAYERS):
            if file % 100 == 0:
                layer.directory(f"l{number}d{file // 100}")
            text = f"{number} {file} ".encode() * (each // 10)
            layer.file(f"l{number}d{file // 100}/f{file}", source.randbytes(each // 2) + text[: each - each // 2])
        layers.append(layer.finish())
    return build_image(layers, ImageConfig(cmd=["/none"]))


async def push(name: str, built: BuiltImage) -> None:
    """Bring an image into the registry."""
    to = reference.parse(name)
    raw = built.blobs[built.target.digest]
    manifest = parse_document(raw, built.target.media_type)
    assert isinstance(manifest, Manifest)
    async with RegistryUploads() as uploads:
        for blob in (manifest.config, *manifest.layers):
            await uploads.upload(to, blob, lambda blob=blob: _once(built.blobs[blob.digest]))  # type: ignore[misc]
        await uploads.put_document(to, built.target, raw, to.tag)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def lists(kind: str, socket: str, runs: int) -> None:
    """500 containers in one answer, and how many events a second reach ten subscribers."""
    async with Client(socket, "lists") as client:
        for number in range(500):
            spec = any_pb2.Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=_SPEC)
            container = containers_pb2.Container(id=f"c{number}", image="bench", labels={"a": "b"}, spec=spec)
            container.runtime.name = "io.containerd.runc.v2"
            await client.containers.create(container)
        command = ["ctr", "-a", socket, "-n", "lists", "containers", "list", "-q"]
        ways: tuple[tuple[str, Callable[[], Awaitable[int]]], ...] = (
            ("in one answer", lambda: _listed(client)),
            ("as a stream", lambda: _streamed(client)),
            ("by ctr", lambda: asyncio.to_thread(_counted, command)),
        )
        for way, ask in ways:
            took = []
            for _ in range(runs * 5):
                started = time.monotonic()
                assert await ask() == 500
                took.append(time.monotonic() - started)
            median, fastest = statistics.median(took) * 1000, min(took) * 1000
            print(f"500 containers listed {way}, {kind}: {median:.1f} ms ({fastest:.1f})")
        rates = [await events(client, 2000) for _ in range(runs)]
        print(f"events a second to {_SUBSCRIBERS} subscribers, {kind}: {statistics.median(rates):.0f}")
        for number in range(500):
            await client.containers.delete(f"c{number}")


async def _listed(client: Client) -> int:
    return len(await client.containers.list())


async def _streamed(client: Client) -> int:
    return len([each async for each in client.containers.stream()])


def _counted(command: list[str]) -> int:
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.count(b"\n")


async def events(client: Client, count: int) -> float:
    """Publish so many, 50 at a time; how many a second had reached every subscriber."""
    async with contextlib.AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(client.events.subscribe('topic=="/bench"'))
            for _ in range(_SUBSCRIBERS)
        ]

        async def receive(stream: AsyncIterator[object]) -> None:
            for _ in range(count):
                await anext(stream)

        async def publish(share: int) -> None:
            for _ in range(share):
                await client.events.publish("/bench", events_pb2.ContainerDelete(id="x"))

        started = time.monotonic()
        await asyncio.gather(*(receive(each) for each in streams), *(publish(count // 50) for _ in range(50)))
        return count / (time.monotonic() - started)


if __name__ == "__main__":
    os.environ.pop("NOTIFY_SOCKET", None)
    main()
