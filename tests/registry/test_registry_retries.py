# SPDX-License-Identifier: Apache-2.0
"""What is tried again and how long that takes, and what a hostile registry cannot do."""

import asyncio
import time
from collections.abc import AsyncIterator
from email.utils import formatdate

import pytest
from support import images
from support.fake_registry import FakeRegistry, fake_registry

from orlop.codec import encode
from orlop.errdefs import (
    DataLossError,
    InvalidArgumentError,
    OrlopError,
    ResourceExhaustedError,
    UnauthorizedError,
    UnavailableError,
)
from orlop.oci import reference
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import OCI_INDEX, Descriptor, Manifest, digest_of, parse_document
from orlop.registry import RegistryClient, RegistryConfig
from orlop.registry.transport import retry_after

QUICK = RegistryConfig(backoff=0.001, attempts=3)


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    """A registry with busybox, which does as it is told."""
    async with fake_registry() as running:
        running.add(images.busybox())
        yield running


async def test_waits_as_long_as_the_registry_asks(fake: FakeRegistry) -> None:
    """429 with Retry-After is a pause, not an end."""
    name = reference.parse(f"{fake.host}/test/busybox:latest")
    fake.failure_headers = {"Retry-After": "1"}
    async with RegistryClient(QUICK) as client:
        target = await client.resolve(name)
        fake.failures = [429]
        started = time.monotonic()
        assert await client.document(name, target)
        assert time.monotonic() - started >= 1.0
        fake.failures = [429]
        fake.failure_headers = {"Retry-After": "3600"}
        with pytest.raises(ResourceExhaustedError, match="toomanyrequests"):
            await client.document(name, target)


def test_retry_after() -> None:
    """Seconds or a date; nonsense and the past are nothing."""
    assert retry_after("7") == 7.0
    assert 50 < retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    for text in ("", "soon", "-5", formatdate(0, usegmt=True), "1e9"):
        assert retry_after(text) == 0.0, text


async def test_login_is_tried_again_and_ends_in_one_error(fake: FakeRegistry) -> None:
    """Also where the registry hangs up on every request."""
    fake.token = "t"
    async with RegistryClient(QUICK, AuthConfig(registrytoken="wrong")) as client:
        with pytest.raises(UnauthorizedError, match="incorrect username or password"):
            await client.login(fake.host)


async def test_stalls_on_a_document(fake: FakeRegistry) -> None:
    """A registry that takes the request and says nothing."""
    document = encode({"schemaVersion": 2, "manifests": [], "annotations": {"x": "y" * 5000}})
    descriptor = Descriptor(media_type=OCI_INDEX, digest=digest_of(document), size=len(document))
    fake.blobs[descriptor.digest] = document
    fake.gate = asyncio.Event()
    config = RegistryConfig(backoff=0.001, attempts=2, read_timeout=0.2)
    async with RegistryClient(config) as client:
        with pytest.raises(UnavailableError, match=r"[Tt]imeout"):
            await client.small_blob(reference.parse(f"{fake.host}/test/busybox:latest"), descriptor)
    fake.gate.set()


@pytest.mark.long
async def test_a_trickle_is_no_stall(fake: FakeRegistry) -> None:
    """A blob that takes longer in all than the longest silence, of which none is that long."""
    image = images.busybox()
    manifest = parse_document(image.blobs[image.target.digest], image.target.media_type)
    assert isinstance(manifest, Manifest)
    layer = manifest.layers[0]
    fake.trickle = 0.25
    config = RegistryConfig(backoff=0.001, attempts=1, read_timeout=10.0)
    async with RegistryClient(config) as client:
        name = reference.parse(f"{fake.host}/test/busybox:latest")
        began = asyncio.get_running_loop().time()
        whole = b"".join([chunk async for chunk in client.blob(name, layer)])
    assert whole == image.blobs[layer.digest]
    assert asyncio.get_running_loop().time() - began > config.read_timeout


@pytest.mark.parametrize("size", [-1, 1, 5 << 20])
async def test_sizes_that_lie(fake: FakeRegistry, size: int) -> None:
    """A document is held to its descriptor's size, and no descriptor asks for more than 4 MiB."""
    name = reference.parse(f"{fake.host}/test/busybox:latest")
    async with RegistryClient(QUICK) as client:
        target = await client.resolve(name)
        lying = Descriptor(media_type=target.media_type, digest=target.digest, size=size)
        with pytest.raises((DataLossError, InvalidArgumentError), match=target.digest):
            await client.document(name, lying)


async def test_redirects_of_a_document_end(fake: FakeRegistry) -> None:
    """A loop of a manifest's address is one error as a blob's is."""
    fake.failures = [307] * 40
    fake.failure_headers = {"Location": f"http://{fake.host}/v2/test/busybox/manifests/latest"}
    async with RegistryClient(QUICK) as client:
        with pytest.raises(OrlopError, match="stopped after 10 redirects"):
            await client.resolve(reference.parse(f"{fake.host}/test/busybox:latest"))


async def test_endless_refusal_is_not_read(fake: FakeRegistry) -> None:
    """The body of an error costs 64 KiB at most."""
    fake.failures = [400, 400]
    fake.failure_body = b"x" * (8 << 20)
    async with RegistryClient(QUICK) as client:
        with pytest.raises(OrlopError, match="unexpected status 400") as caught:
            await client.resolve(reference.parse(f"{fake.host}/test/busybox:latest"))
    assert len(str(caught.value)) < 300
