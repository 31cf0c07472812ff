# SPDX-License-Identifier: Apache-2.0
"""docker-py and aiodocker, the Python clients of others, against orlopd."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import aiodocker
import docker
import docker.errors
import pytest
from support.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.root,
    # docker-py leaves the sockets of its streams to the collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        stack.load("busybox")
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=stack.host)
    yield client
    for container in client.containers.list(all=True):
        container.remove(force=True, v=True)
    client.close()


# -- docker-py


def test_negotiation_version_info(client: docker.DockerClient) -> None:
    assert client.ping()
    assert client.version()["Version"]
    assert client.info()["OSType"] == "linux"
    assert client.info()["ID"] == client.info()["ID"]


def test_run_returns_the_output(client: docker.DockerClient) -> None:
    assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
    with pytest.raises(docker.errors.ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo no >&2; exit 4"])
    assert (failed.value.exit_status, failed.value.stderr) == (4, b"no\n")


def test_life(client: docker.DockerClient) -> None:
    container = client.containers.run("busybox", ["sleep", "100"], detach=True, name="living", labels={"a": "b"})
    container.reload()
    assert (container.status, container.labels) == ("running", {"a": "b"})
    container.pause()
    container.unpause()
    assert container.top()["Processes"][0][-1] == "sleep 100"
    container.rename("lived")
    assert client.containers.get("lived").id == container.id
    assert [found.name for found in client.containers.list(filters={"label": "a=b"})] == ["lived"]
    container.stop(timeout=0)
    assert container.wait() == {"StatusCode": 137}
    container.start()
    container.kill()
    container.remove()
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("lived")


def test_exec_streams_are_told_apart(client: docker.DockerClient) -> None:
    container = client.containers.run("busybox", ["sleep", "100"], detach=True)
    code, output = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 2"], demux=True)
    assert (code, output) == (2, (b"out\n", b"err\n"))
    code, stream = container.exec_run(["sh", "-c", "for i in 1 2 3; do echo $i; done"], stream=True)
    assert b"".join(stream) == b"1\n2\n3\n"


def test_logs_stream(client: docker.DockerClient) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.05; done"
    container = client.containers.run("busybox", ["sh", "-c", script], detach=True)
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    assert container.logs(tail=1) == b"3\n"


def test_stats_have_the_fields_of_docker(client: docker.DockerClient) -> None:
    container = client.containers.run("busybox", ["sh", "-c", "while :; do :; done"], detach=True, mem_limit="64m")
    stream = container.stats(decode=True)
    first, second = next(stream), next(stream)
    assert second["precpu_stats"] == first["cpu_stats"]
    used = second["cpu_stats"]["cpu_usage"]["total_usage"] - second["precpu_stats"]["cpu_usage"]["total_usage"]
    system = second["cpu_stats"]["system_cpu_usage"] - second["precpu_stats"]["system_cpu_usage"]
    assert 0 < used <= system
    assert second["cpu_stats"]["online_cpus"] > 0
    assert second["memory_stats"]["limit"] == 64 << 20
    assert second["memory_stats"]["usage"] > 0
    assert second["pids_stats"]["current"] == 1
    assert "eth0" in second["networks"]
    assert {"id", "name", "read", "preread", "blkio_stats", "num_procs", "storage_stats"} <= set(second)


def test_events_arrive_while_listening(client: docker.DockerClient) -> None:
    found: list[str] = []
    events = client.events(decode=True, filters={"type": "container"})

    def listen() -> None:
        for event in events:
            found.append(event["Action"])
            if event["Action"] == "destroy":
                return

    listener = threading.Thread(target=listen)
    listener.start()
    client.containers.run("busybox", ["true"], remove=True)
    listener.join(10)
    events.close()
    assert [action for action in found if action != "attach"] == ["create", "start", "die", "destroy"]


def test_volumes(client: docker.DockerClient) -> None:
    volume = client.volumes.create("kept", labels={"x": "y"})
    assert client.volumes.get("kept").attrs["Labels"] == {"x": "y"}
    client.containers.run("busybox", ["sh", "-c", "echo data > /v/file"], volumes=["kept:/v"], remove=True)
    assert client.containers.run("busybox", ["cat", "/v/file"], volumes=["kept:/v:ro"], remove=True) == b"data\n"
    assert [found.name for found in client.volumes.list(filters={"dangling": True})] == ["kept"]
    volume.remove()
    assert client.volumes.list() == []


def test_networks(client: docker.DockerClient) -> None:
    assert sorted(network.name for network in client.networks.list()) == ["bridge", "host", "none"]
    container = client.containers.run("busybox", ["sleep", "100"], detach=True)
    bridge = client.networks.list(names=["bridge"], greedy=True)[0]
    assert container.id in bridge.attrs["Containers"]


def test_conflicts_are_conflicts(client: docker.DockerClient) -> None:
    container = client.containers.create("busybox", name="only")
    with pytest.raises(docker.errors.APIError) as failed:
        client.containers.create("busybox", name="only")
    assert failed.value.status_code == 409
    with pytest.raises(docker.errors.APIError) as failed:
        container.kill()
    assert failed.value.status_code == 409


# -- aiodocker


async def test_aiodocker(stack: Stack) -> None:
    async with aiodocker.Docker(url=f"unix://{stack.socket}") as client:
        config: dict[str, Any] = {"Image": "busybox", "Cmd": ["cat"], "OpenStdin": True, "StdinOnce": True}
        container = await client.containers.create(config)
        async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
            await container.start()
            await stream.write_in(b"through aiodocker")
            message = await stream.read_out()
            assert message is not None
            assert message.data == b"through aiodocker"
        # The only client with input has left, and StdinOnce makes that the end of the input.
        assert (await container.wait())["StatusCode"] == 0
        assert (await container.show())["State"]["Status"] == "exited"
        await container.delete()


async def test_aiodocker_execs_and_logs(stack: Stack) -> None:
    async with aiodocker.Docker(url=f"unix://{stack.socket}") as client:
        command = ["sh", "-c", "echo first; sleep 100"]
        container = await client.containers.run({"Image": "busybox", "Cmd": command})
        extra = await container.exec(["echo", "extra"])
        async with extra.start() as stream:
            message = await stream.read_out()
            assert message is not None
            assert message.data == b"extra\n"
        lines = container.log(stdout=True, follow=True)
        assert await asyncio.wait_for(anext(lines), 5) == "first\n"
        await lines.aclose()
        await container.delete(force=True)


async def test_many_containers_at_once(stack: Stack) -> None:
    async with aiodocker.Docker(url=f"unix://{stack.socket}") as client:

        async def one(number: int) -> str:
            container = await client.containers.run({"Image": "busybox", "Cmd": ["echo", str(number)]})
            await container.wait()
            output = "".join(await container.log(stdout=True))
            await container.delete()
            return output

        assert await asyncio.gather(*map(one, range(20))) == [f"{number}\n" for number in range(20)]
