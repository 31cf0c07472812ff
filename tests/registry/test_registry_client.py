# SPDX-License-Identifier: Apache-2.0
"""The registry client against a registry that misbehaves, and against Debian's docker-registry."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import images
from support.fake_registry import FakeRegistry, fake_registry
from support.registry import Registry, registry, running_registry

from orlop.errdefs import (
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    OrlopError,
    ResourceExhaustedError,
    UnauthorizedError,
    UnavailableError,
)
from orlop.oci import reference
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import Descriptor, Manifest, digest_of, parse_document
from orlop.oci.reference import Reference
from orlop.registry import RegistryClient, RegistryConfig
from orlop.registry.auth import parse_challenges
from orlop.registry.endpoint import Endpoint

__all__ = ["registry"]

QUICK = RegistryConfig(backoff=0.001, attempts=3)


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    """A registry with busybox, which does as it is told."""
    async with fake_registry() as running:
        running.add(images.busybox())
        yield running


def _reference(fake: FakeRegistry | Registry, name: str = "test/busybox:latest") -> Reference:
    return reference.parse(f"{fake.host}/{name}")


def _layer() -> Descriptor:
    image = images.busybox()
    manifest = parse_document(image.blobs[image.target.digest], image.target.media_type)
    assert isinstance(manifest, Manifest)
    return manifest.layers[0]


async def _read(fake: FakeRegistry, offset: int = 0, config: RegistryConfig = QUICK) -> bytes:
    async with RegistryClient(config) as client:
        return b"".join([chunk async for chunk in client.blob(_reference(fake), _layer(), offset)])


async def test_resolve_takes_one_head(fake: FakeRegistry) -> None:
    """A tag costs a ping and a HEAD, which registries do not count against rate limits."""
    async with RegistryClient(QUICK) as client:
        target = await client.resolve(_reference(fake))
        assert target == Descriptor(
            media_type=images.busybox().target.media_type,
            digest=images.busybox().target.digest,
            size=images.busybox().target.size,
        )
    assert fake.paths("GET") == ["/v2/"]
    assert fake.paths("HEAD") == ["/v2/test/busybox/manifests/latest"]


@pytest.mark.parametrize("case", ["no HEAD", "no digest header"])
async def test_resolve_without_help_of_the_registry(fake: FakeRegistry, case: str) -> None:
    """Where HEAD is refused or says too little, the digest is computed."""
    fake.head = case != "no HEAD"
    fake.announce = False
    async with RegistryClient(QUICK) as client:
        assert (await client.resolve(_reference(fake))).digest == images.busybox().target.digest


async def test_manifest_that_is_not_what_was_asked_for(fake: FakeRegistry) -> None:
    """A manifest by digest is held to it, and one by tag to what the registry announces."""
    target = images.busybox().target
    fake.replaced[target.digest] = fake.blobs[target.digest].replace(b"2", b"3")
    async with RegistryClient(QUICK) as client:
        resolved = await client.resolve(_reference(fake))
        with pytest.raises(DataLossError, match=target.digest):
            await client.document(_reference(fake), resolved)
        fake.head = False
        with pytest.raises(DataLossError, match="the registry says"):
            await client.resolve(_reference(fake))


async def test_manifest_too_large(fake: FakeRegistry) -> None:
    """A registry cannot fill the memory."""
    fake.replaced[images.busybox().target.digest] = b" " * (5 << 20)
    fake.head = False
    async with RegistryClient(QUICK) as client:
        with pytest.raises(InvalidArgumentError, match="larger than"):
            await client.resolve(_reference(fake))


async def test_blob_whole_and_from_an_offset(fake: FakeRegistry) -> None:
    """With ranges, and skipping where the registry has none."""
    whole = images.busybox().blobs[_layer().digest]
    assert await _read(fake) == whole
    assert await _read(fake, 1000) == whole[1000:]
    fake.ranges = False
    assert await _read(fake, 1000) == whole[1000:]


async def test_blob_resumes_where_it_broke_off(fake: FakeRegistry) -> None:
    """Each piece is asked for once."""
    fake.cuts = [100_000, 0, 300_000]
    assert await _read(fake) == images.busybox().blobs[_layer().digest]
    ranges = [headers.get("Range") for method, path, headers in fake.requests if "/blobs/" in path]
    assert ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=400000-"]


async def test_blob_gives_up_without_progress(fake: FakeRegistry) -> None:
    """Bounded, with one line that says how far it came."""
    fake.cuts = [5000, 0, 0, 0, 0]
    with pytest.raises(UnavailableError, match="unexpected EOF"):
        await _read(fake)
    assert len([path for path in fake.paths() if "/blobs/" in path]) == QUICK.attempts


@pytest.mark.parametrize("change", ["flipped", "short", "long"])
async def test_blob_that_is_not_its_digest(fake: FakeRegistry, change: str) -> None:
    """Found at the end at the latest, and never taken for a whole blob."""
    whole = images.busybox().blobs[_layer().digest]
    fake.replaced[_layer().digest] = {
        "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
        "short": whole[:-1],
        "long": whole + b"x",
    }[change]
    with pytest.raises(DataLossError, match=_layer().digest):
        await _read(fake)


async def test_server_errors_are_retried(fake: FakeRegistry) -> None:
    """Twice, and no more."""
    fake.failures = [0, 503, 500]  # the first is HEAD's
    async with RegistryClient(QUICK) as client:
        target = await client.resolve(_reference(fake))
        assert await client.document(_reference(fake), target)
        fake.failures = [502, 502, 502]
        with pytest.raises(UnavailableError, match="unexpected status 502"):
            await client.document(_reference(fake), target)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, b"", NotFoundError, "manifest for {name} not found: manifest unknown: manifest unknown"),
        (
            404,
            b'{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}',
            NotFoundError,
            "repository {repo} not found: name unknown: repository name not known to registry",
        ),
        (
            403,
            b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}',
            NotFoundError,
            "pull access denied for {repo}, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied",
        ),
        (
            429,
            b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}',
            ResourceExhaustedError,
            "toomanyrequests: You have reached your pull rate limit.",
        ),
        (429, b"slow down", ResourceExhaustedError, "toomanyrequests: too many requests to registry"),
        (401, b"", UnauthorizedError, "unauthorized: authentication required"),
    ],
)
async def test_refusals_in_dockers_words(
    fake: FakeRegistry, status: int, body: bytes, kind: type[OrlopError], message: str
) -> None:
    """What users search for."""
    fake.failures = [status] * 8
    fake.failure_body = body
    name = f"{fake.host}/test/busybox:latest"
    async with RegistryClient(QUICK) as client:
        with pytest.raises(kind) as caught:
            await client.resolve(_reference(fake))
    assert str(caught.value) == message.format(name=name, repo=name.removesuffix(":latest"))


async def test_token(fake: FakeRegistry) -> None:
    """Got once for all requests of a repository, with the credentials, for pulling only."""
    fake.token = "secret-token"
    async with RegistryClient(QUICK, AuthConfig(username="me", password="pass")) as client:
        target = await client.resolve(_reference(fake))
        await client.document(_reference(fake), target)
    asked = [headers for _, path, headers in fake.requests if path == "/token"]
    assert len(asked) == 1
    assert asked[0]["Authorization"].startswith("Basic ")


async def test_insufficient_scope_is_access_denied(fake: FakeRegistry) -> None:
    """As Docker Hub says that a repository is private or not there."""
    fake.token = "good"
    fake.challenge_error = "insufficient_scope"
    async with RegistryClient(QUICK, AuthConfig(registrytoken="bad")) as client:
        with pytest.raises(
            NotFoundError, match=r"pull access denied for .*'docker login': denied: requested access"
        ):
            await client.resolve(_reference(fake))


async def test_redirect_leaks_no_credentials(fake: FakeRegistry) -> None:
    """The storage behind a registry gets no Authorization."""
    fake.token = "secret-token"
    async with fake_registry() as storage:
        storage.add(images.busybox())
        fake.redirect = f"http://{storage.host}"
        assert await _read(fake) == images.busybox().blobs[_layer().digest]
        assert storage.paths() == [f"/storage/{_layer().digest}"]
        assert all("Authorization" not in headers for _, _, headers in storage.requests)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:x"])
async def test_redirect_to_nonsense(fake: FakeRegistry, location: str) -> None:
    """Refused, whatever it is."""
    fake.redirect = location
    with pytest.raises(UnavailableError, match="redirects to an invalid address"):
        await _read(fake)


async def test_redirects_end(fake: FakeRegistry) -> None:
    """A loop is left after ten rounds."""
    fake.redirect = f"http://{fake.host}/v2/x/blobs/{_layer().digest}?"
    with pytest.raises(UnavailableError, match="stopped after 10 redirects"):
        await _read(fake)


async def test_no_registry_there() -> None:
    """Go's words, which Docker's users know."""
    async with RegistryClient(QUICK) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.resolve(reference.parse("127.0.0.1:1/x:y"))
    assert str(caught.value) == 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'


async def test_silent_registry_times_out(fake: FakeRegistry) -> None:
    """A blob that stands still is given up."""
    fake.gate = asyncio.Event()
    config = RegistryConfig(backoff=0.001, attempts=2, read_timeout=0.2)
    with pytest.raises(UnavailableError, match="timeout"):
        await _read(fake, config=config)
    fake.gate.set()


async def test_mirror_first_then_origin(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that does not have the image is passed over, and gets no credentials."""
    async with fake_registry() as origin:
        origin.add(images.busybox())
        fake.tags.clear()
        config = RegistryConfig(mirrors=[f"http://{fake.host}"], backoff=0.001, attempts=2)
        real = RegistryConfig.endpoints
        monkeypatch.setattr(
            RegistryConfig,
            "endpoints",
            lambda self, domain: [*real(self, domain)[:1], Endpoint(origin.host, ("http",), True)],
        )
        origin.token = "t"
        async with RegistryClient(config, AuthConfig(username="u", password="p")) as client:
            target = await client.resolve(reference.parse("busybox:latest"))
            assert await client.document(reference.parse("busybox:latest"), target)
        assert any("/manifests/" in path for path in fake.paths("HEAD"))
        assert all("Authorization" not in headers for _, _, headers in fake.requests)


def test_insecure_registries() -> None:
    """The loopback always, others by name, name and port, or network."""
    config = RegistryConfig(insecure=["registry.example", "other.example:5000", "10.1.0.0/16"])
    for host in (
        "localhost",
        "localhost:5000",
        "127.0.0.1:5000",
        "127.9.9.9",
        "[::1]:5000",
        "registry.example:80",
    ):
        assert config.is_insecure(host), host
    for host in ("other.example:5000", "10.1.2.3:5000"):
        assert config.is_insecure(host), host
    for host in ("example.com", "other.example", "10.2.0.1", "128.0.0.1"):
        assert not config.is_insecure(host), host
    with pytest.raises(InvalidArgumentError, match="invalid mirror"):
        RegistryConfig(mirrors=["mirror.example"]).endpoints("docker.io")


def test_challenges() -> None:
    """Quotes, commas within them, several schemes in one header."""
    header = 'Bearer realm="https://a.example/token?x=1,2",service="s \\"q\\"",scope="repository:a:pull,push"'
    header += ', Basic realm="b"'
    bearer, basic = parse_challenges([header])
    assert bearer.scheme == "bearer"
    assert bearer.parameters == {
        "realm": "https://a.example/token?x=1,2",
        "service": 's "q"',
        "scope": "repository:a:pull,push",
    }
    assert basic.scheme == "basic"
    assert parse_challenges(["nonsense"]) == []


# Debian's docker-registry


async def test_docker_registry(registry: Registry) -> None:
    """Every kind of image arrives whole."""
    for name, (tag, make) in images.IMAGES.items():
        pushed = reference.parse(registry.push(make(), f"client/{tag}"))
        async with RegistryClient(QUICK) as client:
            target = await client.resolve(pushed)
            assert target.digest == make().target.digest, name
            raw = await client.document(pushed, target)
            assert digest_of(raw) == target.digest


async def test_docker_registry_with_password() -> None:
    """Basic authentication: without, wrong and right credentials."""
    with running_registry(user=("me", "pass")) as running:
        name = reference.parse(running.push(images.busybox(), "busybox:latest"))
        async with RegistryClient(QUICK) as client:
            with pytest.raises(UnauthorizedError, match=f'Head "http://{running.host}/v2/.*": no basic auth'):
                await client.resolve(name)
        async with RegistryClient(QUICK, AuthConfig(username="me", password="wrong")) as client:
            with pytest.raises(UnauthorizedError, match="unauthorized: authentication required"):
                await client.resolve(name)
            with pytest.raises(UnauthorizedError, match="incorrect username or password"):
                await client.login(name.domain)
        async with RegistryClient(QUICK, AuthConfig(username="me", password="pass")) as client:
            assert (await client.resolve(name)).digest == images.busybox().target.digest
            await client.login(name.domain)


async def test_docker_registry_with_an_authority_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate is verified against certs.d's authority; unknown ones are refused where that counts."""
    with running_registry(tls=True) as running:
        name = reference.parse(running.push(images.busybox(), "busybox:latest"))
        monkeypatch.setattr(RegistryConfig, "is_insecure", lambda self, domain: False)
        config = RegistryConfig(certs_dir=str(tmp_path), backoff=0.001)
        async with RegistryClient(config) as client:
            with pytest.raises(UnavailableError, match="tls: failed to verify certificate"):
                await client.resolve(name)
        assert running.ca is not None
        (tmp_path / running.host).mkdir()
        shutil.copy(running.ca, tmp_path / running.host / "ca.crt")
        async with RegistryClient(config) as client:
            assert (await client.resolve(name)).digest == images.busybox().target.digest
        (tmp_path / running.host / "bad.crt").write_text("nonsense")
        async with RegistryClient(config) as client:
            with pytest.raises(InvalidArgumentError, match=r"bad\.crt"):
                await client.resolve(name)
