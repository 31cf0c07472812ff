# SPDX-License-Identifier: Apache-2.0
"""Blobs taken over from other repositories, and referrers, at Debian's docker-registry and at one with the API."""

import secrets

import pytest
from support import images
from support.fake_registry import fake_registry
from support.image_daemons import client, containerd_daemon
from support.registry import Registry, registry, running_registry

from orlop.codec import encode
from orlop.containerd.client import Client
from orlop.containerd.client.fetch import Progress
from orlop.containerd.client.pull import pull
from orlop.containerd.client.push import push
from orlop.errdefs import InvalidArgumentError
from orlop.oci import reference
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, digest_of, parse_document
from orlop.oci.reference import Reference
from orlop.registry import RegistryClient, RegistryConfig
from orlop.registry.referrers import referrers_tag
from orlop.registry.upload import RegistryUploads

__all__ = ["client", "containerd_daemon", "registry"]

QUICK = RegistryConfig(backoff=0.001, attempts=3)
EMPTY = Descriptor(media_type="application/vnd.oci.empty.v1+json", digest=digest_of(b"{}"), size=2)


def _layer() -> Descriptor:
    image = images.busybox()
    manifest = parse_document(image.blobs[image.target.digest], image.target.media_type)
    assert isinstance(manifest, Manifest)
    return manifest.layers[0]


async def test_mount_from_another_repository() -> None:
    """Not a byte is sent where the registry has the blob elsewhere, and False comes where it has not."""
    with running_registry(user=("me", "pass")) as running:
        running.push(images.busybox(), "one/busybox:latest")
        other = reference.parse(f"{running.host}/two/busybox:latest")
        async with RegistryUploads(QUICK, AuthConfig(username="me", password="pass")) as uploads:
            assert not await uploads.has_blob(other, _layer().digest)
            assert not await uploads.mount(other, _layer(), "nobody/nothing")
            assert await uploads.mount(other, _layer(), "one/busybox")
            assert await uploads.has_blob(other, _layer().digest)
        async with RegistryUploads(QUICK, AuthConfig(username="me", password="wrong")) as uploads:
            assert not await uploads.mount(other, _layer(), "one/busybox")


@pytest.mark.root
async def test_push_takes_layers_over(client: Client, registry: Registry) -> None:
    """An image that came from one repository goes into another of the registry without its layers being sent."""
    pulled = await pull(client, registry.push(images.busybox(), "taken/from:latest"), config=QUICK, snapshotter="")
    steps: list[Progress] = []
    target = reference.parse(f"{registry.host}/taken/over-{secrets.token_hex(4)}:latest")
    await push(client, target, pulled.target, config=QUICK, progress=steps.append)
    assert [step.source for step in steps if step.step == "mounted"] == ["taken/from"]
    assert not [step for step in steps if step.step == "uploading"]
    async with RegistryClient(QUICK) as remote:
        assert (await remote.resolve(target)).digest == pulled.target.digest


def _artifact(subject: Descriptor, kind: str) -> tuple[Descriptor, bytes]:
    raw = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": {"mediaType": EMPTY.media_type, "digest": EMPTY.digest, "size": 2},
            "layers": [],
            "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size},
            "annotations": {"kind": kind},
        }
    )
    return Descriptor(media_type=OCI_MANIFEST, digest=digest_of(raw), size=len(raw)), raw


async def _empty(uploads: RegistryUploads, name: Reference) -> None:
    async def content():  # type: ignore[no-untyped-def]
        yield b"{}"

    await uploads.upload(name, EMPTY, content)


async def test_referrers_by_tag(registry: Registry) -> None:
    """A registry without the API keeps the list under a tag, which each push adds to once."""
    name = reference.parse(registry.push(images.busybox(), "referrers/busybox:latest"))
    target = images.busybox().target
    async with RegistryClient(QUICK) as client:
        assert await client.referrers(name, target.digest) == []
    made = [_artifact(target, kind) for kind in ("a/signature", "a/sbom")]
    async with RegistryUploads(QUICK) as uploads:
        await _empty(uploads, name)
        for descriptor, raw in [*made, made[0]]:
            await uploads.put_document(name, descriptor, raw)
    async with RegistryClient(QUICK) as client:
        found = await client.referrers(name, target.digest)
        assert [item.digest for item in found] == [descriptor.digest for descriptor, _ in made]
        assert [item.artifact_type for item in found] == ["a/signature", "a/sbom"]
        assert found[0].annotations == {"kind": "a/signature"} and found[0].size == made[0][0].size
        assert [item.digest for item in await client.referrers(name, target.digest, "a/sbom")] == [
            made[1][0].digest
        ]
        listed = await client.resolve(name.with_tag(referrers_tag(target.digest)))
        assert listed.media_type == OCI_INDEX


async def test_referrers_by_the_api() -> None:
    """All pages, filtered here where the registry does not; a list without end is refused."""
    target = images.busybox().target
    made = [_artifact(target, kind)[0] for kind in ("a/signature", "a/sbom")]
    pages = []
    for descriptor, kind in zip(made, ("a/signature", "a/sbom"), strict=True):
        item = {"mediaType": OCI_MANIFEST, "digest": descriptor.digest, "size": 1, "artifactType": kind}
        pages.append(encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [item]}))
    async with fake_registry() as fake, RegistryClient(QUICK) as client:
        fake.referrers[target.digest] = pages
        name = reference.parse(f"{fake.host}/x/y:z")
        assert [item.digest for item in await client.referrers(name, target.digest)] == [d.digest for d in made]
        (one,) = await client.referrers(name, target.digest, "a/sbom")
        assert one.digest == made[1].digest
        fake.referrers[target.digest] = pages[:1] * 500
        with pytest.raises(InvalidArgumentError, match="more than 100 pages"):
            await client.referrers(name, target.digest)
