# SPDX-License-Identifier: Apache-2.0
"""Images of several platforms through the Engine API: which of them a request means, and what it leaves alone."""

import io
import json
import tarfile

import pytest
from support import images
from support.image_daemons import client, containerd_daemon
from support.image_engine import DOCKER, ORLOP, Engine, engine
from support.registry import Registry, registry

from orlop.codec import decode, encode
from orlop.dockerd.images.ports import ContainerUse
from orlop.oci.build import BuiltImage, LayerBuilder, build_image, build_index, write_archive
from orlop.oci.image import ImageConfig, Index, Manifest, Platform, digest_of
from orlop.oci.platforms import host_platform, parse_platform

__all__ = ["client", "containerd_daemon", "engine", "registry"]

pytestmark = pytest.mark.root

ARM64 = json.dumps({"os": "linux", "architecture": "arm64"})
HOST = json.dumps({"os": "linux", "architecture": host_platform().architecture})


@pytest.fixture(autouse=True, params=[DOCKER, ORLOP], ids=["docker", "orlop"])
def command(request: pytest.FixtureRequest, engine: Engine) -> None:
    """Both commands do the same."""
    engine.program = request.param


def _image(name: str) -> BuiltImage:
    """An index with the host's platform, arm64, and an attestation of the first as BuildKit makes it."""
    platforms = (host_platform(), parse_platform("linux/arm64"))
    built = [_of_platform(name, platform) for platform in platforms]
    attestation = _of_platform(f"{name} attestation", Platform(os="unknown", architecture="unknown"))
    index = build_index([*built, attestation])
    document = decode(index.blobs[index.target.digest], Index)
    document.manifests[2].annotations = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": built[0].target.digest,
    }
    raw = encode(document)
    index.blobs[digest_of(raw)] = raw
    del index.blobs[index.target.digest]
    index.target.digest, index.target.size = digest_of(raw), len(raw)
    return index


def _of_platform(name: str, platform: Platform) -> BuiltImage:
    layer = LayerBuilder()
    layer.file("who", f"{name} {platform}".encode())
    return build_image([layer.finish()], ImageConfig(cmd=["/none"]), platform=platform)


def _children(image: BuiltImage) -> list[str]:
    return [child.digest for child in decode(image.blobs[image.target.digest], Index).manifests]


def _config(image: BuiltImage, number: int) -> str:
    return decode(image.blobs[_children(image)[number]], Manifest).config.digest


async def _load(engine: Engine, name: str) -> BuiltImage:
    image = _image(name)
    archive = io.BytesIO()
    write_archive({name: image}, archive)
    status, body = await engine.request("POST", "/images/load", data=archive.getvalue())
    assert (status, body) == (200, [{"stream": f"Loaded image: {name}\n"}])
    return image


async def _saved(engine: Engine, query: str) -> tuple[Index, set[str]]:
    """The index of an archive, and the digests of its blobs."""
    status, raw = await engine.bytes("GET", f"/v1.52/images/get?{query}")
    assert status == 200, raw
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        names = tar.getnames()
        member = tar.extractfile("index.json")
        assert member is not None
        blobs = {"sha256:" + name.rpartition("/")[2] for name in names if name.startswith("blobs/")}
        return decode(member.read(), Index), blobs


async def test_manifests_tell_of_attestations(engine: Engine) -> None:
    """They are shown, and are no platform that a container could have."""
    image = await _load(engine, "told:1")
    host, arm, attestation = _children(image)
    engine.uses[_config(image, 1)] = [ContainerUse("c" * 64, False)]
    _, shown = await engine.request("GET", "/v1.48/images/told:1/json?manifests=1")
    assert shown["Id"] == _config(image, 0)
    by_digest = {each["ID"]: each for each in shown["Manifests"]}
    assert by_digest[attestation]["Kind"] == "attestation"
    assert by_digest[attestation]["AttestationData"] == {"For": host}
    assert by_digest[arm]["ImageData"]["Containers"] == ["c" * 64]
    assert by_digest[host]["ImageData"]["Containers"] == []
    status, body = await engine.request("GET", "/v1.49/images/told:1/json?platform=unknown/unknown")
    assert status == 404, body


async def test_where_an_image_is_from(engine: Engine, registry: Registry) -> None:
    """Its identity is the repository that it was pulled from; an archive has none."""
    name = registry.push(_image("from:1"), "from/there:1")
    await engine.docker("pull", "-q", name)
    repository = name.rpartition(":")[0]
    _, shown = await engine.request("GET", f"/v1.53/images/{name}/json")
    assert shown["Identity"] == {"Pull": [{"Repository": repository}]}
    _, shown = await engine.request("GET", f"/v1.52/images/{name}/json")
    assert "Identity" not in shown
    _, listed = await engine.request("GET", "/v1.54/images/json?manifests=1&identity=1")
    found = [each["ImageData"].get("Identity") for each in listed[0]["Manifests"] if "ImageData" in each]
    assert {"Pull": [{"Repository": repository}]} in found
    status, _ = await engine.request("GET", "/v1.54/images/json?identity=1")
    assert status == 400
    await _load(engine, "archived:1")
    _, shown = await engine.request("GET", "/v1.53/images/archived:1/json")
    assert "Identity" not in shown


async def test_tree(engine: Engine) -> None:
    """The platforms below the image; `U` where a container uses one."""
    image = await _load(engine, "tree:1")
    host, arm, attestation = (digest.partition(":")[2][:12] for digest in _children(image))
    engine.uses[_config(image, 1)] = [ContainerUse("c" * 64, False)]
    lines = (await engine.docker("images", "--tree", "tree")).splitlines()
    shown = {line.split()[2]: (line.split()[1], line.split()[-1] == "U") for line in lines if "─" in line}
    assert shown == {host: (str(host_platform()), False), arm: ("linux/arm64", True)}
    assert not any(attestation in line for line in lines)
    assert "not yet supported" in await engine.docker("images", "--tree", "-q", fails=True)


async def test_inspect_and_history_for_a_platform(engine: Engine) -> None:
    """Each answers for the platform that is asked for, the host's else."""
    image = await _load(engine, "shown:1")
    inspected = json.loads(await engine.docker("image", "inspect", "--platform", "linux/arm64", "shown:1"))
    assert (inspected[0]["Architecture"], inspected[0]["Id"]) == ("arm64", _config(image, 1))
    ids = await engine.docker("history", "-q", "--no-trunc", "--platform", "linux/arm64", "shown:1")
    assert ids.split()[0] == _config(image, 1)
    assert (await engine.docker("history", "-q", "--no-trunc", "shown:1")).split()[0] == _config(image, 0)
    refused = await engine.docker("history", "--platform", "linux/s390x", "shown:1", fails=True)
    assert "does not provide the specified platform (linux/s390x)" in refused


async def test_save_for_platforms(engine: Engine) -> None:
    """All of an index, one manifest of it, or the index with those of some platforms."""
    image = await _load(engine, "saved:1")
    children = _children(image)
    index, blobs = await _saved(engine, "names=saved:1")
    assert [item.digest for item in index.manifests] == [image.target.digest]
    assert set(children) < blobs
    index, blobs = await _saved(engine, f"names=saved:1&platform={ARM64}")
    assert [item.digest for item in index.manifests] == [children[1]]
    assert children[0] not in blobs
    index, blobs = await _saved(engine, f"names=saved:1&platform={ARM64}&platform={HOST}")
    assert [item.digest for item in index.manifests] == [image.target.digest]
    assert blobs & set(children) == set(children[:2])
    status, _ = await engine.request("GET", f"/v1.51/images/get?names=saved:1&platform={ARM64}&platform={HOST}")
    assert status == 400


async def test_load_for_platforms(engine: Engine) -> None:
    """An archive that lacks one is refused, and nothing is named."""
    archive = io.BytesIO()
    write_archive({"came:1": _image("came:1")}, archive)
    path = f"/v1.52/images/load?platform={ARM64}"
    absent = json.dumps({"os": "linux", "architecture": "s390x"})
    _, body = await engine.request("POST", f"{path}&platform={absent}", data=archive.getvalue())
    assert "requested platform (linux/s390x) not found" in body[-1]["error"]
    assert await engine.docker("images", "-q", "came") == ""
    _, body = await engine.request("POST", f"{path}&platform={HOST}", data=archive.getvalue())
    assert body == [{"stream": "Loaded image: came:1\n"}]


async def test_push_of_one_platform(engine: Engine, registry: Registry) -> None:
    """That one's manifest is what the registry gets under the tag."""
    image = await _load(engine, "sent:1")
    name = f"{registry.host}/sent:1"
    await engine.docker("tag", "sent:1", name)
    told = await engine.docker("push", "--platform", "linux/arm64", name)
    assert f"digest: {_children(image)[1]}" in told
    refused = await engine.docker("push", "--platform", "linux/s390x", name, fails=True)
    assert "does not provide the specified platform" in refused


async def test_pull_of_all_tags(engine: Engine, registry: Registry) -> None:
    """Every tag that the registry has of a repository."""
    for tag in ("one", "two", "three"):
        registry.push(images.busybox(), f"all/tags:{tag}")
    name = f"{registry.host}/all/tags"
    told = await engine.docker("pull", "-a", name)
    assert told.count("Status: ") == 3
    listed = await engine.docker("images", "--format", "{{.Tag}}", name)
    assert set(listed.split()) == {"one", "two", "three"}
    assert "tag can't be used with --all-tags/-a" in await engine.docker("pull", "-a", f"{name}:one", fails=True)
    status, _ = await engine.request("POST", f"/images/create?fromImage={registry.host}/no/such")
    assert status == 404


async def test_remove_one_platform(engine: Engine) -> None:
    """What is not here, in use or part of another image stays; the last platform takes the image along."""
    image = await _load(engine, "gone:1")
    host, arm, _ = _children(image)
    absent = await engine.docker("rmi", "--platform", "linux/s390x", "gone:1", fails=True)
    assert "does not provide the specified platform" in absent
    engine.uses[_config(image, 1)] = [ContainerUse("c" * 64, True)]
    used = await engine.docker("rmi", "-f", "--platform", "linux/arm64", "gone:1", fails=True)
    assert "(cannot be forced) - image is being used by running container cccccccccccc" in used
    del engine.uses[_config(image, 1)]
    assert await engine.docker("rmi", "--platform", "linux/arm64", "gone:1") == f"Deleted: {arm}\n"
    _, shown = await engine.request("GET", "/v1.48/images/gone:1/json?manifests=1")
    assert {each["ID"]: each["Available"] for each in shown["Manifests"]}[arm] is False
    status, _ = await engine.request("GET", "/v1.49/images/gone:1/json?platform=linux/arm64")
    assert status == 404
    told = await engine.docker("rmi", "--platform", str(host_platform()), "gone:1")
    assert "Untagged: gone:1" in told
    assert f"Deleted: {_config(image, 0)}" in told
    assert await engine.docker("images", "-q", "gone") == ""
    assert host not in told


async def test_platform_that_another_image_shares(engine: Engine) -> None:
    """A manifest of two images cannot be taken from one."""
    image = await _load(engine, "first:1")
    children = [_of_platform("first:1", parse_platform("linux/arm64")), _of_platform("else", host_platform())]
    assert children[0].target.digest == _children(image)[1]
    archive = io.BytesIO()
    write_archive({"second:1": build_index(children)}, archive)
    await engine.request("POST", "/images/load", data=archive.getvalue())
    refused = await engine.docker("rmi", "--platform", "linux/arm64", "first:1", fails=True)
    assert "(cannot be forced) - it is part of docker.io/library/second:1" in refused
    status, _ = await engine.request("GET", "/v1.49/images/first:1/json?platform=linux/arm64")
    assert status == 200
