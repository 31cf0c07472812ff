# SPDX-License-Identifier: Apache-2.0
"""The Engine API's image endpoints, asked by the docker command and by hand, over both containerds."""

import asyncio
import base64
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from support import images
from support.fake_registry import FakeRegistry, fake_registry
from support.image_daemons import client, containerd_daemon, content_of, fresh_image, snapshots_of
from support.image_engine import Engine, engine
from support.registry import Registry, registry, running_registry

from orlop.codec import decode
from orlop.containerd.client import Client
from orlop.dockerd.images.ports import ContainerUse
from orlop.oci.build import BuiltImage, write_archive
from orlop.oci.image import Manifest, chain_ids
from orlop.oci.platforms import parse_platform

__all__ = ["client", "containerd_daemon", "engine", "registry"]

pytestmark = pytest.mark.root


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    """A registry that does as it is told."""
    async with fake_registry() as running:
        yield running


def _config_digest(image: BuiltImage) -> str:
    return decode(image.blobs[image.target.digest], Manifest).config.digest


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


async def _load(engine: Engine, *names: str) -> None:
    for name in names:
        await engine.docker("load", "-q", "-i", str(images.archive(name)))


async def _eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something in another task that no event announces."""
    for _ in range(500):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("timed out")


async def test_pull_as_docker_shows_it(engine: Engine, fake: FakeRegistry) -> None:
    """The transcript of a pull, and of a second one."""
    image = fresh_image(layer_count=2)
    fake.add(image)
    name = f"{fake.host}/test/app:latest"
    manifest = decode(image.blobs[image.target.digest], Manifest)
    text = await engine.docker("pull", name)
    lines = text.splitlines()
    assert lines[0] == "latest: Pulling from test/app"
    assert lines[-3:] == [
        f"Digest: {image.target.digest}",
        f"Status: Downloaded newer image for {name}",
        name,
    ]
    for layer in manifest.layers:
        steps = [line.partition(": ")[2] for line in lines if line.startswith(_short(layer.digest))]
        assert steps == ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"]
    again = await engine.docker("pull", name)
    assert again.splitlines() == [
        "latest: Pulling from test/app",
        f"Digest: {image.target.digest}",
        f"Status: Image is up to date for {name}",
        name,
    ]
    assert await engine.docker("images", "-q", "--no-trunc") == _config_digest(image) + "\n"
    assert engine.events == [("pull", name, name.removesuffix(":latest"))] * 2


async def test_pull_by_digest(engine: Engine, fake: FakeRegistry) -> None:
    """It has no tag, and is found by its digest."""
    image = fresh_image()
    fake.add(image)
    name = f"{fake.host}/test/app@{image.target.digest}"
    await engine.docker("pull", name)
    shown = json.loads(await engine.docker("inspect", name))[0]
    assert shown["RepoTags"] == []
    assert shown["RepoDigests"] == [name]
    assert shown["Id"] == _config_digest(image)


async def test_pull_that_moves_a_tag_leaves_a_dangling_image(engine: Engine, fake: FakeRegistry) -> None:
    """As Docker does: the old one is there without a name, and prune takes it."""
    first, second = fresh_image(), fresh_image()
    name = f"{fake.host}/test/app:latest"
    fake.add(first)
    await engine.docker("pull", "-q", name)
    fake.add(second)
    await engine.docker("pull", "-q", name)
    shown = await engine.docker("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}", "--no-trunc")
    assert sorted(shown.split("\n")[:-1]) == sorted(
        [f"{name} {_config_digest(second)}", f"<none>:<none> {_config_digest(first)}"]
    )
    assert await engine.docker("images", "-q", "--no-trunc", "-f", "dangling=true") == _config_digest(first) + "\n"
    pruned = await engine.docker("image", "prune", "-f")
    assert f"deleted: {_config_digest(first)}" in pruned
    assert await engine.docker("images", "-q", "--no-trunc") == _config_digest(second) + "\n"


async def test_pull_failures(engine: Engine, fake: FakeRegistry) -> None:
    """Before the first message as the request's status, later within the stream."""
    image = fresh_image()
    fake.add(image)
    name = f"{fake.host}/test/app"
    status, body = await engine.request("POST", f"/images/create?fromImage={name}&tag=nope")
    assert status == 404
    assert body == {"message": f"manifest for {name}:nope not found: manifest unknown: manifest unknown"}
    status, body = await engine.request("POST", "/images/create?fromImage=Upper&tag=x")
    assert status == 400
    assert body == {"message": "invalid reference format: repository name (library/Upper) must be lowercase"}
    status, body = await engine.request("POST", f"/images/create?fromImage={name}&tag=latest&platform=a/b/c/d")
    assert status == 400
    layer = decode(image.blobs[image.target.digest], Manifest).layers[0].digest
    fake.replaced[layer] = image.blobs[layer][:-1] + b"?"
    status, body = await engine.request("POST", f"/images/create?fromImage={name}&tag=latest")
    assert status == 200
    assert body[0] == {"status": "Pulling from test/app", "id": "latest"}
    assert body[-1]["errorDetail"]["message"] == body[-1]["error"]
    assert layer in body[-1]["error"]
    assert await engine.docker("images", "-q") == ""


async def test_client_that_goes_away_ends_the_pull(engine: Engine, fake: FakeRegistry) -> None:
    """The transfer stops; nothing is named."""
    fake.add(fresh_image())
    fake.gate = asyncio.Event()
    reader, writer = await asyncio.open_unix_connection(engine.socket_path)
    target = f"/images/create?fromImage={fake.host}/test/app&tag=latest"
    writer.write(f"POST {target} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()

    async def ended() -> bool:
        return not await engine.service.store.client.leases.list()

    await _eventually(ended)
    fake.gate.set()
    assert await engine.docker("images", "-q") == ""


async def test_credentials_in_the_header(engine: Engine) -> None:
    """X-Registry-Auth, as the docker command makes it from its configuration."""
    with running_registry(user=("me", "pass")) as running:
        name = running.push(images.busybox(), "busybox:latest")
        path = f"/images/create?fromImage={running.host}/busybox&tag=latest"
        status, body = await engine.request("POST", path)
        assert status == 401
        assert "no basic auth credentials" in body["message"]
        auth = base64.urlsafe_b64encode(b'{"username":"me","password":"pass"}').decode()
        status, body = await engine.request("POST", path, headers={"X-Registry-Auth": auth})
        assert status == 200
        assert body[-1] == {"status": f"Status: Downloaded newer image for {name}"}
        login = {"username": "me", "password": "pass", "serveraddress": running.host}
        assert (await engine.request("POST", "/auth", json=login))[0] == 200
        status, body = await engine.request("POST", "/auth", json={**login, "password": "wrong"})
        assert status == 401
        assert "incorrect username or password" in body["message"]
        status, body = await engine.request("POST", "/auth", json={**login, "serveraddress": "[\\x"})
        assert (status, "invalid serveraddress" in body["message"]) == (400, True)


async def test_load_list_inspect_history(engine: Engine) -> None:
    """One image in all its views."""
    assert await engine.docker("load", "-i", str(images.archive("layers"))) == "Loaded image: layers:latest\n"
    image = images.layers()
    assert image.image is not None
    (shown,) = json.loads(await engine.docker("inspect", "layers"))
    assert shown["Id"] == _config_digest(image)
    assert shown["RepoTags"] == ["layers:latest"]
    assert shown["Created"] == "2023-11-14T22:13:20Z"
    assert (shown["Architecture"], shown["Os"]) == ("amd64", "linux")
    assert shown["Comment"] == "the last"
    config = shown["Config"]
    assert config["Cmd"] == ["sh", "-c", "echo layers"]
    assert config["Entrypoint"] == ["/bin/env", "--"]
    assert config["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert config["Volumes"] == {"/data": {}}
    assert config["Labels"]["test.quote"] == 'a "b" ü'
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("1000:1000", "/work/dir", "SIGINT")
    assert shown["RootFS"] == {"Type": "layers", "Layers": image.image.rootfs.diff_ids}
    assert shown["Size"] > 2_000_000
    history = (await engine.request("GET", "/images/layers/history"))[1]
    assert [item["CreatedBy"] for item in history] == ["third", "second", "ENV LAYERS=3", "first", "busybox"]
    assert history[0]["Id"] == _config_digest(image)
    assert history[0]["Tags"] == ["layers:latest"]
    assert [bool(item["Size"]) for item in history] == [True, True, False, True, True]
    assert sum(item["Size"] for item in history) == shown["Size"]
    listed = await engine.docker("images", "--format", "{{.Repository}} {{.Tag}} {{.ID}}")
    assert listed == f"layers latest {_short(_config_digest(image))}\n"


async def test_versions_of_the_api(engine: Engine) -> None:
    """Fields that came and went."""
    await _load(engine, "busybox")
    old = (await engine.request("GET", "/v1.40/images/json"))[1][0]
    assert old["VirtualSize"] == old["Size"]
    assert old["Containers"] == -1
    assert "Descriptor" not in old
    new = (await engine.request("GET", "/v1.51/images/json"))[1][0]
    assert "VirtualSize" not in new
    assert new["Containers"] == 0
    assert new["Descriptor"]["digest"] == images.busybox().target.digest
    old = (await engine.request("GET", "/v1.40/images/busybox/json"))[1]
    assert old["ContainerConfig"] is None and old["Config"]["AttachStdin"] is False
    assert old["Config"]["Entrypoint"] is None and old["GraphDriver"]["Name"] == "overlayfs"
    new = (await engine.request("GET", "/v1.52/images/busybox/json"))[1]
    assert "AttachStdin" not in new["Config"] and "Entrypoint" not in new["Config"] and "GraphDriver" not in new


async def test_names_that_find_an_image(engine: Engine) -> None:
    """Tag, default tag, ID, its beginning, digest of the manifest; and those that do not."""
    await _load(engine, "busybox")
    image_id = _config_digest(images.busybox())
    target = images.busybox().target.digest
    names = ["busybox", "busybox:latest", "docker.io/busybox", "docker.io/library/busybox:latest", image_id]
    names += [
        image_id[7:],
        image_id[7:19],
        image_id[:19],
        image_id[7:9],
        target,
        f"busybox@{target}",
        target[7:17],
    ]
    for name in names:
        assert (await engine.service.store.resolve(name)).id == image_id, name
    for name in ("busybox:1", "busy", "other/busybox", "f" * 12, f"busybox@sha256:{'0' * 64}", "0" * 64):
        status, body = await engine.request("GET", f"/images/{name}/json")
        assert status == 404
        assert re.match(r"No such image: ", body["message"])
    assert (await engine.request("GET", "/images/busybox:1/json"))[1]["message"] == "No such image: busybox:1"
    assert (await engine.request("GET", "/images/nope/json"))[1]["message"] == "No such image: nope:latest"
    assert (await engine.request("GET", "/images/-x/json"))[0] == 400


async def test_platforms_of_an_image(engine: Engine) -> None:
    """The host's, another of the same index, and one that is not there."""
    await _load(engine, "multi")
    resolve = engine.service.store.resolve
    assert (await resolve("multi")).config.architecture == images.busybox().image.architecture  # type: ignore[union-attr]
    foreign = await resolve("multi", parse_platform("linux/arm/v7"))
    assert foreign.config.variant == "v7"
    await engine.service.store.ensure_unpacked(foreign)
    assert foreign.chain_id in await snapshots_of(engine.service.store.client)
    status, body = await engine.request("GET", "/images/multi/json?platform=linux/s390x")
    assert status == 404
    assert body["message"] == (
        "image with reference multi was found but does not provide the specified platform (linux/s390x)"
    )


async def test_filters(engine: Engine) -> None:
    """Each of them."""
    await _load(engine, "busybox", "layers")
    await engine.docker("tag", "busybox", "example.com/team/box:v1")

    async def listed(*filters: str) -> set[str]:
        arguments = [part for item in filters for part in ("-f", item)]
        shown = await engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}", *arguments)
        return set(shown.split())

    box, bus, lay = "example.com/team/box:v1", "busybox:latest", "layers:latest"
    assert await listed() == {box, bus, lay}
    assert await listed("reference=busybox") == {bus}
    assert await listed("reference=*box*") == {bus}
    assert await listed("reference=example.com/*/*:v?") == {box}
    assert await listed("reference=layers", "reference=busybox:latest") == {bus, lay}
    assert await listed("label=test.layers") == {lay}
    assert await listed("label=test.layers=3") == {lay}
    assert await listed("label=test.layers=4") == set()
    assert await listed("before=busybox") == {lay}
    assert await listed("since=layers") == {bus, box}
    assert await listed("dangling=true") == set()
    assert await listed("dangling=false") == {box, bus, lay}
    assert await listed("until=2024-01-01") == {lay}
    assert "invalid filter 'color'" in await engine.docker("images", "-f", "color=red", fails=True)
    assert "No such image: nope:latest" in await engine.docker("images", "-f", "since=nope", fails=True)


async def test_shared_size(engine: Engine) -> None:
    """Busybox is wholly a part of the other image."""
    await _load(engine, "busybox", "layers")
    shown = (await engine.request("GET", "/v1.51/images/json?shared-size=1"))[1]
    by_tag = {item["RepoTags"][0]: item for item in shown}
    assert by_tag["busybox:latest"]["SharedSize"] == by_tag["busybox:latest"]["Size"]
    assert by_tag["layers:latest"]["SharedSize"] == by_tag["busybox:latest"]["Size"]


async def test_tag_untag_delete(engine: Engine) -> None:
    """Names come and go; the image goes with the last, and its layers that nobody else has."""
    await _load(engine, "busybox", "layers")
    image_id = _config_digest(images.layers())
    engine.events.clear()
    await engine.docker("tag", "layers", "other:v1")
    assert await engine.docker("rmi", "layers") == "Untagged: layers:latest\n"
    removed = (await engine.docker("rmi", "other:v1")).splitlines()
    chains = chain_ids(images.layers().image.rootfs.diff_ids)  # type: ignore[union-attr]
    assert removed == [
        "Untagged: other:v1",
        f"Deleted: {image_id}",
        *(f"Deleted: {chain}" for chain in reversed(chains[1:])),
    ]
    assert await snapshots_of(engine.service.store.client) == {chains[0]}
    assert await content_of(engine.service.store.client) == set(images.busybox().blobs)
    assert engine.events == [
        ("tag", image_id, "other:v1"),
        ("untag", image_id, "layers:latest"),
        ("untag", image_id, "other:v1"),
        ("delete", image_id, image_id),
    ]


async def test_tag_that_another_image_had(engine: Engine) -> None:
    """It moves, and the other stays without a name."""
    await _load(engine, "busybox", "layers")
    await engine.docker("tag", "layers", "busybox:latest")
    assert (await engine.service.store.resolve("busybox")).id == _config_digest(images.layers())
    dangling = await engine.service.store.resolve(_config_digest(images.busybox()))
    assert dangling.repo_tags == []
    await engine.docker("tag", dangling.id, "named:again")
    assert (await engine.service.store.resolve("named:again")).id == dangling.id
    assert not any(name.dangling for name in (await engine.service.store.resolve("named:again")).names)
    for repo, tag, message in (
        ("busybox", "no/tag", "invalid tag format"),
        ("UPPER", "x", "must be lowercase"),
        ("sha256", "x", "refusing to create an ambiguous tag using digest algorithm as name"),
        (f"a@sha256:{'0' * 64}", "", "refusing to create a tag with a digest reference"),
    ):
        status, body = await engine.request("POST", f"/images/layers:latest/tag?repo={repo}&tag={tag}")
        assert status == 400
        assert message in body["message"]


async def test_images_in_use(engine: Engine) -> None:
    """Docker's conflicts, word for word, and what force does about them."""
    await _load(engine, "busybox")
    image_id = _config_digest(images.busybox())
    container = "c0ffee" + "0" * 58
    engine.uses[image_id] = [ContainerUse(container, running=False)]
    text = await engine.docker("rmi", "busybox", fails=True)
    assert text == (
        'Error response from daemon: conflict: unable to remove repository reference "busybox" (must force) - '
        f"container {container[:12]} is using its referenced image {_short(image_id)}\n"
    )
    text = await engine.docker("rmi", image_id, fails=True)
    assert text == (
        f"Error response from daemon: conflict: unable to delete {_short(image_id)} (must be forced) - "
        f"image is being used by stopped container {container[:12]}\n"
    )
    engine.uses[image_id] = [ContainerUse(container, running=True)]
    text = await engine.docker("rmi", "-f", image_id, fails=True)
    assert text == (
        f"Error response from daemon: conflict: unable to delete {_short(image_id)} (cannot be forced) - "
        f"image is being used by running container {container[:12]}\n"
    )
    assert "Total reclaimed space: 0B" in await engine.docker("image", "prune", "-af")
    # By force a name goes; the image stays for its container.
    assert await engine.docker("rmi", "-f", "busybox") == "Untagged: busybox:latest\n"
    assert (await engine.service.store.resolve(image_id)).repo_tags == []
    engine.uses.clear()
    assert f"Deleted: {image_id}" in await engine.docker("rmi", image_id)


async def test_remove_by_id_with_several_repositories(engine: Engine) -> None:
    """Only by force."""
    await _load(engine, "busybox")
    image_id = _config_digest(images.busybox())
    await engine.docker("tag", "busybox", "other:v1")
    text = await engine.docker("rmi", image_id[7:19], fails=True)
    assert text == (
        f"Error response from daemon: conflict: unable to delete {image_id[7:19]} (must be forced) - "
        "image is referenced in multiple repositories\n"
    )
    removed = await engine.docker("rmi", "-f", image_id[7:19])
    assert {"Untagged: busybox:latest", "Untagged: other:v1", f"Deleted: {image_id}"} <= set(removed.splitlines())
    assert await engine.docker("rmi", "nope", fails=True) == (
        "Error response from daemon: No such image: nope:latest\n"
    )


async def test_save_and_load(engine: Engine) -> None:
    """What was saved is what is loaded, with its names."""
    await _load(engine, "busybox", "layers")
    await engine.docker("tag", "busybox", "busybox:two")
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/saved.tar"
        await engine.docker("save", "-o", path, "busybox", "layers:latest")
        for name in ("busybox:latest", "busybox:two", "layers:latest"):
            await engine.docker("rmi", name)
        assert await engine.docker("images", "-q") == ""
        loaded = await engine.docker("load", "-i", path)
    assert set(loaded.splitlines()) == {
        "Loaded image: busybox:latest",
        "Loaded image: busybox:two",
        "Loaded image: layers:latest",
    }
    assert (await engine.service.store.resolve("layers")).id == _config_digest(images.layers())
    status, body = await engine.request("GET", "/images/get?names=nope")
    assert (status, body) == (404, {"message": "No such image: nope:latest"})


async def test_load_of_an_image_without_a_name(engine: Engine) -> None:
    """It is told and found by its ID."""
    image = fresh_image()
    output = io.BytesIO()
    write_archive({"x:y": image}, output)
    data = output.getvalue().replace(b'"docker.io/library/x:y"', b'""' + b" " * 21).replace(b'"x:y"', b'""   ')
    status, body = await engine.request("POST", "/images/load", data=data)
    assert (status, body) == (200, [{"stream": f"Loaded image ID: {_config_digest(image)}\n"}])
    assert await engine.docker("images", "-q", "--no-trunc") == _config_digest(image) + "\n"


async def test_load_of_rubbish(engine: Engine) -> None:
    """In the stream, as the answer has begun."""
    status, body = await engine.request("POST", "/images/load", data=b"rubbish" * 1000)
    assert status == 200
    assert "not a tar" in body[-1]["error"]


async def test_import(engine: Engine) -> None:
    """A root filesystem becomes an image of one layer, with the changes asked for."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz") as tar:
        info = tarfile.TarInfo("hello")
        info.size = 5
        tar.addfile(info, io.BytesIO(os.urandom(5)))
    changes = ['CMD ["/hello"]', "ENV A=b C='d e'", "EXPOSE 80", "WORKDIR /x", "LABEL l=1", "USER 7"]
    arguments = [part for change in changes for part in ("-c", change)]
    text = await engine.docker("import", *arguments, "-m", "made", "-", "made:v1", stdin=output.getvalue())
    (shown,) = json.loads(await engine.docker("inspect", "made:v1"))
    assert shown["Id"] == text.strip()
    assert shown["Config"]["Cmd"] == ["/hello"]
    assert shown["Config"]["Env"] == ["A=b", "C=d e"]
    assert shown["Config"]["ExposedPorts"] == {"80/tcp": {}}
    assert shown["Config"]["WorkingDir"] == "/x"
    assert shown["Comment"] == "made"
    refused = await engine.docker("import", "-c", "RUN x", "-", "made:v2", stdin=output.getvalue(), fails=True)
    assert "RUN is not a valid change command" in refused


async def test_import_from_a_url(engine: Engine) -> None:
    """The daemon fetches the archive; what cannot be fetched is an error before anything is sent."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("hello"))

    async def serve(request: web.BaseRequest) -> web.Response:
        return web.Response(body=output.getvalue()) if request.path == "/a.tar" else web.Response(status=404)

    runner = web.ServerRunner(web.Server(serve))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    place = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        text = await engine.docker("import", f"http://{place}/a.tar", "fetched:v1")
        assert text.splitlines()[0] == f"Downloading from http://{place}/a.tar"
        assert "fetched:v1" in json.loads(await engine.docker("inspect", "fetched:v1"))[0]["RepoTags"]
        status, body = await engine.request("POST", f"/images/create?fromSrc={place}/b.tar")
        assert (status, body["message"]) == (503, f"unexpected status 404 from GET http://{place}/b.tar")
    finally:
        await runner.cleanup()
    assert (await engine.request("POST", "/images/create?fromSrc=ftp://x"))[0] == 400


async def test_other_clients_of_containerd_are_noticed(engine: Engine, client: Client) -> None:
    """An image that ctr removes or makes is gone or there at once, by containerd's events."""
    await _load(engine, "busybox")
    store = engine.service.store
    record = await store.resolve("busybox")
    from orlop.containerd.client.unpack import to_proto

    await client.images.create("docker.io/library/foreign:v1", to_proto(record.target))

    async def noticed() -> bool:
        return len((await store.resolve("busybox")).names) == 2

    await _eventually(noticed)
    assert (await store.resolve("foreign:v1")).id == record.id


async def test_resolving_reads_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the way of `docker run`, an image that is known costs no call of containerd."""
    await _load(engine, "busybox")
    store = engine.service.store

    async def watched() -> bool:
        return store.watched

    await _eventually(watched)
    first = await store.resolve("busybox")

    async def refuse(*_: object) -> None:
        raise AssertionError("containerd was asked")

    monkeypatch.setattr(store.client.images, "_call", refuse)
    monkeypatch.setattr(store.client.content, "_call", refuse)
    assert await store.resolve("busybox:latest") is first


async def test_push(engine: Engine, registry: Registry) -> None:
    """To docker-registry: the transcript, a second time, all tags, an index; what is pulled back is the same."""
    await _load(engine, "layers", "multi")
    name = f"{registry.host}/{engine.service.store.client.namespace}/app"
    await engine.docker("tag", "layers", f"{name}:v1")
    await engine.docker("tag", "multi", f"{name}:v2")
    image, index = images.layers(), images.multi_platform()
    layers = decode(image.blobs[image.target.digest], Manifest).layers
    lines = (await engine.docker("push", f"{name}:v1")).splitlines()
    assert lines[0] == f"The push refers to repository [{name}]"
    assert lines[-1] == f"v1: digest: {image.target.digest} size: {image.target.size}"
    for layer in layers:
        steps = [line.partition(": ")[2] for line in lines if line.startswith(_short(layer.digest))]
        assert steps == ["Preparing", "Pushed"]
    again = (await engine.docker("push", f"{name}:v1")).splitlines()
    assert [line.partition(": ")[2] for line in again].count("Layer already exists") == len(layers)
    everything = await engine.docker("push", "-a", name)
    assert f"v2: digest: {index.target.digest} size: {index.target.size}" in everything
    for tag in ("layers:latest", "multi:latest", f"{name}:v1", f"{name}:v2"):
        await engine.docker("rmi", "-f", tag)
    await engine.docker("pull", f"{name}:v1")
    assert (await engine.service.store.resolve(f"{name}:v1")).id == _config_digest(image)
    assert ("push", f"{name}:v1", name) in engine.events
    refused = await engine.docker("push", f"{name}:nope", fails=True)
    assert f"tag does not exist: {name}:nope" in refused


async def test_push_of_a_part_of_an_index(engine: Engine, registry: Registry, fake: FakeRegistry) -> None:
    """Where only the host's manifest is here, that is pushed in place of the index."""
    fake.add(images.multi_platform())
    await engine.docker("pull", "-q", f"{fake.host}/test/multi:latest")
    name = f"{registry.host}/pushed/part:v1"
    await engine.docker("tag", f"{fake.host}/test/multi:latest", name)
    assert images.busybox().target.digest in await engine.docker("push", name)


async def test_push_with_and_without_password(engine: Engine) -> None:
    """A refusal is told in the stream, which began before."""
    await _load(engine, "busybox")
    with running_registry(user=("me", "pass")) as running:
        await engine.docker("tag", "busybox", f"{running.host}/box:v1")
        path = f"/images/{running.host}/box/push?tag=v1"
        status, body = await engine.request("POST", path, headers={"X-Registry-Auth": "e30="})
        assert status == 200
        assert "no basic auth credentials" in body[-1]["error"]
        auth = base64.urlsafe_b64encode(b'{"username":"me","password":"pass"}').decode()
        status, body = await engine.request("POST", path, headers={"X-Registry-Auth": auth})
        assert status == 200
        target = images.busybox().target
        assert body[-1]["aux"] == {"Tag": "v1", "Digest": target.digest, "Size": target.size}


async def test_manifests(engine: Engine) -> None:
    """An image of several platforms, in list and inspect, for clients that know to ask."""
    await _load(engine, "multi")
    status, shown = await engine.request("GET", "/v1.48/images/multi/json?manifests=1")
    assert status == 200
    by_platform = {str(each["ImageData"]["Platform"]["architecture"]): each for each in shown["Manifests"]}
    assert {"amd64", "arm64"} <= set(by_platform)
    for each in by_platform.values():
        assert (each["Kind"], each["ID"]) == ("image", each["Descriptor"]["digest"])
        assert each["Size"]["Total"] == each["Size"]["Content"] + each["ImageData"]["Size"]["Unpacked"]
        assert each["Size"]["Content"] > each["Descriptor"]["size"]
    status, images = await engine.request("GET", "/v1.47/images/json?manifests=1")
    assert [each["Manifests"] for each in images if each["Id"] == shown["Id"]] == [shown["Manifests"]]
    for path in ("/v1.46/images/json?manifests=1", "/v1.48/images/json"):
        _, images = await engine.request("GET", path)
        assert all("Manifests" not in each for each in images)
    status, _ = await engine.request("GET", "/v1.49/images/multi/json?manifests=1&platform=linux/amd64")
    assert status == 400


async def test_search(engine: Engine) -> None:
    """An index of its own: what it is asked, and what is left of its answer by filters."""
    asked = []
    results = [
        {"name": "one", "description": "first", "star_count": 5, "is_official": True, "is_automated": False},
        {"name": "two", "description": "second", "star_count": 1, "is_official": False, "is_automated": False},
    ]

    async def index(request: web.BaseRequest) -> web.Response:
        asked.append((request.path, dict(request.query), request.headers.get("Authorization", "")))
        return web.json_response({"results": results})

    runner = web.ServerRunner(web.Server(index))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    place = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        assert await engine.request("GET", f"/images/search?term={place}/word&limit=7") == (200, results)
        assert asked == [("/v1/search", {"q": "word", "n": "7"}, "")]
        for filter, names in (('{"is-official":["true"]}', ["one"]), ('{"stars":["2"]}', ["one"])):
            _, found = await engine.request("GET", f"/images/search?term={place}/word&filters={filter}")
            assert [each["name"] for each in found] == names
    finally:
        await runner.cleanup()
    for query, status in (("", 400), ("term=x&limit=1000", 400), ('term=x&filters={"odd":["x"]}', 400)):
        assert (await engine.request("GET", f"/images/search?{query}"))[0] == status
    status, body = await engine.request("GET", f"/images/search?term={place}/word")
    assert (status, "127.0.0.1" in body["message"]) == (503, True)


async def test_distribution(engine: Engine, registry: Registry) -> None:
    """A registry's image is described without being pulled."""
    name = registry.push(images.multi_platform(), "multi:latest")
    status, body = await engine.request("GET", f"/distribution/{name}/json")
    assert status == 200
    assert body["Descriptor"]["digest"] == images.multi_platform().target.digest
    assert {"os": "linux", "architecture": "arm", "variant": "v7"} in body["Platforms"]
    assert await content_of(engine.service.store.client) == set()
