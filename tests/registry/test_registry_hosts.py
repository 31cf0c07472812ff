# SPDX-License-Identifier: Apache-2.0
"""`hosts.toml`: which host is asked for what, in which order, and how it is trusted."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support import images
from support.fake_registry import FakeRegistry, fake_registry
from support.registry import running_registry

from orlop.errdefs import InvalidArgumentError, UnavailableError
from orlop.oci import reference
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import Descriptor, Manifest, parse_document
from orlop.registry import RegistryClient, RegistryConfig
from orlop.registry.hosts import host_directory
from orlop.registry.upload import RegistryUploads


class Three:
    """A registry and two mirrors, all with busybox, and the directory that configures them."""

    def __init__(self, hosts: list[FakeRegistry], directory: Path) -> None:
        self.first, self.second, self.origin = hosts
        self.directory = directory
        self.config = RegistryConfig(hosts_dirs=[str(directory)], backoff=0.001, attempts=2, certs_dir="/nowhere")
        self.name = reference.parse(f"{self.origin.host}/test/busybox:latest")

    def write(self, text: str) -> None:
        """Configure the registry; FIRST and SECOND stand for the mirrors' hosts."""
        place = self.directory / (self.origin.host.replace(":", "_") + "_")
        place.mkdir(exist_ok=True)
        text = text.replace("FIRST", self.first.host).replace("SECOND", self.second.host)
        (place / "hosts.toml").write_text(text)

    async def pull(self, auth: AuthConfig | None = None) -> bytes:
        """The layer, by way of manifest and index."""
        image = images.busybox()
        async with RegistryClient(self.config, auth) as client:
            target = await client.resolve(self.name)
            assert await client.document(self.name, target) == image.blobs[target.digest]
            return b"".join([chunk async for chunk in client.blob(self.name, _layer())])


def _layer() -> Descriptor:
    image = images.busybox()
    manifest = parse_document(image.blobs[image.target.digest], image.target.media_type)
    assert isinstance(manifest, Manifest)
    return manifest.layers[0]


def _whole() -> bytes:
    return images.busybox().blobs[_layer().digest]


def _asked(fake: FakeRegistry) -> set[str]:
    return {part for _, path, _ in fake.requests for part in ("manifests", "blobs") if f"/{part}/" in path}


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Three]:
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(fake_registry()) for _ in range(3)]
        for host in hosts:
            host.add(images.busybox())
        yield Three(hosts, tmp_path)


async def test_order_and_namespace(three: Three) -> None:
    """The first mirror of the file is asked for everything, and told which registry is meant; nobody else is."""
    three.write('[host."http://FIRST"]\n[host."http://SECOND"]\n')
    assert await three.pull() == _whole()
    assert _asked(three.first) == {"manifests", "blobs"}
    assert not three.second.requests and not three.origin.requests


async def test_capabilities(three: Three) -> None:
    """Tags are resolved where that is allowed, content comes from where it may be pulled."""
    three.write('[host."http://FIRST"]\ncapabilities=["pull"]\n[host."http://SECOND"]\ncapabilities=["push"]\n')
    assert await three.pull() == _whole()
    assert three.first.paths("HEAD") == [] and _asked(three.first) == {"manifests", "blobs"}
    assert not three.second.requests
    assert three.origin.paths("HEAD") == ["/v2/test/busybox/manifests/latest"]
    three.write('capabilities=["push"]\n[host."http://FIRST"]\ncapabilities=["pull"]\n')
    with pytest.raises(UnavailableError, match="no host with the capability resolve is configured"):
        await three.pull()


async def test_next_host_where_one_fails(three: Three) -> None:
    """Gone, empty or broken in the middle: the next one delivers, a blob from where it broke off."""
    three.write('[host."http://127.0.0.1:1"]\n[host."http://FIRST"]\n[host."http://SECOND"]\n')
    three.first.tags.clear()
    three.second.cuts = [50_000, 0, 0, 0]
    assert await three.pull() == _whole()
    ranges = [headers.get("Range") for _, path, headers in three.origin.requests if "/blobs/" in path]
    first = [headers.get("Range") for _, path, headers in three.first.requests if "/blobs/" in path]
    assert ["bytes=50000-"] in (ranges, first)


async def test_path_and_headers(three: Three) -> None:
    """A path of its own, whole or with /v2 behind it, and headers, which no redirect carries away."""
    three.write('[host."http://FIRST/sub/v2"]\n[host."http://FIRST/sub/v2".header]\nx-team=["a"]\n')
    three.first.redirect = f"http://{three.second.host}"
    await asyncio.wait_for(three.pull(), 30)
    paths = [path for _, path, _ in three.first.requests]
    assert "/sub/v2/test/busybox/manifests/latest" in paths
    assert all(headers.get("x-team") == "a" for _, _, headers in three.first.requests)
    assert three.second.requests and all("x-team" not in headers for _, _, headers in three.second.requests)
    three.first.requests.clear()
    three.write('[host."http://FIRST/api"]\noverride_path=true\n')
    await three.pull()
    assert "/api/test/busybox/manifests/latest" in [path for _, path, _ in three.first.requests]


async def test_mirrors_get_no_credentials(three: Three) -> None:
    """The user's password is for the registry that the user named."""
    three.write('[host."http://FIRST"]\n')
    three.first.token = "wanted-by-mirror"
    three.first.tags.clear()
    three.origin.token = "wanted-by-origin"
    assert await three.pull(AuthConfig(username="u", password="p")) == _whole()
    basic = [headers for fake in (three.first, three.second) for _, _, headers in fake.requests]
    assert not any(headers.get("Authorization", "").startswith("Basic") for headers in basic)
    assert any(path == "/token" for path in three.origin.paths())


async def test_authority_client_certificate_and_skip_verify(tmp_path: Path) -> None:
    """A server with a certificate of its own is trusted by `ca`, or by `skip_verify`, and else not."""
    with running_registry(tls=True) as running:
        name = reference.parse(running.push(images.busybox(), "busybox:latest"))
        assert running.ca is not None
        place = tmp_path / running.host
        place.mkdir()
        shutil.copy(running.ca, place / "authority.pem")
        config = RegistryConfig(hosts_dirs=[str(tmp_path)], backoff=0.001, certs_dir="/nowhere")
        for extra, trusted in (("", False), ('ca="authority.pem"', True), ("skip_verify=true", True)):
            (place / "hosts.toml").write_text(f'server="https://{running.host}"\n{extra}\n')
            async with RegistryClient(config) as client:
                if trusted:
                    assert (await client.resolve(name)).digest == images.busybox().target.digest
                else:
                    with pytest.raises(UnavailableError, match="tls: failed to verify certificate"):
                        await client.resolve(name)
        (place / "hosts.toml").write_text(f'server="https://{running.host}"\nclient=[["a.cert", "a.key"]]\n')
        async with RegistryClient(config) as client:
            with pytest.raises(InvalidArgumentError, match=r"cannot use certificate .*/a\.cert"):
                await client.resolve(name)


async def test_a_registry_that_wants_a_certificate(tmp_path: Path) -> None:
    """`client` names it, for requests that read and for those that write."""
    with running_registry(tls=True, mutual=True) as running:
        name = reference.parse(running.push(images.busybox(), "mutual:latest"))
        assert running.ca is not None
        place = tmp_path / running.host
        place.mkdir()
        for file in ("ca.crt", "client.crt", "client.key"):
            shutil.copy(running.ca.parent / file, place)
        config = RegistryConfig(hosts_dirs=[str(tmp_path)], backoff=0.001, certs_dir="/nowhere")
        text = f'server="https://{running.host}"\nca="ca.crt"\n'
        (place / "hosts.toml").write_text(text)
        async with RegistryClient(config) as client:
            with pytest.raises(UnavailableError):
                await client.resolve(name)
        (place / "hosts.toml").write_text(text + 'client=[["client.crt", "client.key"]]\n')
        async with RegistryClient(config) as client:
            assert (await client.resolve(name)).digest == images.busybox().target.digest
            assert b"".join([chunk async for chunk in client.blob(name, _layer())]) == _whole()
        async with RegistryUploads(config) as uploads:
            assert await uploads.has_blob(name, _layer().digest)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("server = ", "hosts.toml: "),
        ('[host."ftp://x"]', "'ftp://x': expected http"),
        ('[host."https://u:p@x"]', "expected http"),
        (
            '[host."https://x"]\ncapabilities=["steal"]',
            'host "https://x": capabilities: expected pull, resolve or push',
        ),
        ('[host."https://x"]\nskip_verify="yes"', "skip_verify"),
        ('[host."https://x"]\ndial_timeout="soon"', "dial_timeout: expected a duration"),
        ('[host."https://x"]\nclient=[["a","b","c"]]', "client: expected a certificate and its key"),
        ('[host."https://x".header]\nx="a\\r\\nb"', "header 'x': not a header"),
    ],
)
async def test_broken_file(three: Three, text: str, complaint: str) -> None:
    """One line that names file and key, before anybody is asked."""
    three.write(text)
    with pytest.raises(InvalidArgumentError) as caught:
        await three.pull()
    assert complaint in str(caught.value) and "hosts.toml" in str(caught.value)
    assert not three.origin.requests


def test_directories(tmp_path: Path) -> None:
    """As containerd looks for them."""
    assert host_directory(str(tmp_path), "a.example:5000") is None
    for name in ("_default", "a.example:5000", "a.example_5000_"):
        (tmp_path / name).mkdir()
        assert host_directory(str(tmp_path), "a.example:5000") == tmp_path / name
    assert host_directory(str(tmp_path), "b.example") == tmp_path / "_default"
