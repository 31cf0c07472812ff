# SPDX-License-Identifier: Apache-2.0
"""Image documents: what is refused, chain IDs, and the choice of a platform."""

import json

import pytest

from orlop.codec import decode
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci.distribution import AuthConfig, decode_registry_auth
from orlop.oci.image import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFEST_SIZE_MAX,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    chain_ids,
    parse_document,
    parse_image,
)
from orlop.oci.platforms import parse_platform, platform_rank, select_manifest

DIGEST = "sha256:" + "1" * 64
CONFIG = {"mediaType": "x", "digest": DIGEST, "size": 2}


def _document(**fields: object) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


def test_manifest_and_index_are_told_apart_by_media_type() -> None:
    """Both families of media types give the same two types."""
    for media_type in (OCI_MANIFEST, DOCKER_MANIFEST):
        manifest = parse_document(_document(config=CONFIG, layers=[CONFIG], mediaType=media_type), media_type)
        assert isinstance(manifest, Manifest)
        assert manifest.layers[0].digest == DIGEST
    for media_type in (OCI_INDEX, DOCKER_LIST):
        assert isinstance(parse_document(_document(manifests=[CONFIG]), media_type), Index)


@pytest.mark.parametrize(
    ("raw", "media_type", "message"),
    [
        (_document(config=CONFIG, layers=[CONFIG], manifests=[CONFIG]), OCI_MANIFEST, "ambiguous"),
        (_document(config=CONFIG, layers=[], manifests=[CONFIG]), OCI_INDEX, "ambiguous"),
        (_document(config=CONFIG, layers=[], mediaType=OCI_INDEX), OCI_MANIFEST, "says it is"),
        (_document(config={**CONFIG, "digest": "sha256:../../x"}), OCI_MANIFEST, "invalid checksum digest"),
        (_document(config={**CONFIG, "size": -1}), OCI_MANIFEST, "negative size"),
        (_document(config=CONFIG, layers="no"), OCI_MANIFEST, r"\$.layers"),
        (_document(layers=[]), OCI_MANIFEST, "config"),
        (b'{"schemaVersion":1,"fsLayers":[]}', OCI_MANIFEST, "schema version 1"),
        (_document(config=CONFIG), "text/plain", "unsupported manifest media type"),
        (b"<html>", OCI_MANIFEST, "invalid"),
        (b" " * (MANIFEST_SIZE_MAX + 1), OCI_MANIFEST, "larger than"),
    ],
)
def test_refused_documents(raw: bytes, media_type: str, message: str) -> None:
    """One clear line each, before anything is done with it."""
    with pytest.raises(InvalidArgumentError, match=message):
        parse_document(raw, media_type)


def test_image_with_nulls_as_go_writes_them() -> None:
    """Go writes empty lists and maps as null."""
    image = parse_image(
        b'{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Env":null,"Labels":null,"Volumes":null},'
        b'"rootfs":{"type":"layers","diff_ids":null},"history":null,"container":"x"}'
    )
    assert image.config.env == [] and image.config.cmd is None and image.rootfs.diff_ids == []


def test_chain_ids() -> None:
    """The recursive definition of the image specification, against a value computed by hand with sha256sum."""
    first, second = "sha256:" + "0" * 64, "sha256:" + "1" * 64
    import hashlib

    expected = "sha256:" + hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_ids([first, second]) == [first, expected]
    assert chain_ids([]) == []


@pytest.mark.parametrize(
    ("wanted", "offered", "rank"),
    [
        ("linux/amd64", "linux/amd64", 0),
        ("linux/amd64", "linux/arm64", None),
        ("linux/amd64", "windows/amd64", None),
        ("linux/arm64", "linux/arm64/v8", 0),
        ("linux/arm/v7", "linux/arm/v7", 0),
        ("linux/arm/v7", "linux/arm/v6", 1),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/arm", "linux/arm/v7", 0),
        ("linux/amd64/v3", "linux/amd64", 2),
        ("linux/amd64", "linux/amd64/v3", None),
        ("linux/x86_64", "linux/amd64", 0),
    ],
)
def test_platform_rank(wanted: str, offered: str, rank: int | None) -> None:
    """What runs on what."""
    assert platform_rank(parse_platform(wanted), parse_platform(offered)) == rank


def test_best_manifest_of_an_index() -> None:
    """The nearest variant wins over the first; attestations never do."""
    index = Index(
        manifests=[
            Descriptor(
                media_type=OCI_MANIFEST,
                digest="attestation",
                platform=Platform(os="linux", architecture="arm", variant="v7"),
                annotations={"vnd.docker.reference.type": "attestation-manifest"},
            ),
            Descriptor(media_type=OCI_MANIFEST, digest="v6", platform=parse_platform("linux/arm/v6")),
            Descriptor(media_type=OCI_MANIFEST, digest="v7", platform=parse_platform("linux/arm/v7")),
        ]
    )
    assert select_manifest(index, parse_platform("linux/arm/v7")).digest == "v7"
    assert select_manifest(index, parse_platform("linux/arm/v6")).digest == "v6"
    with pytest.raises(NotFoundError) as caught:
        select_manifest(index, parse_platform("linux/arm64"))
    assert str(caught.value) == "no matching manifest for linux/arm64 in the manifest list entries: not found"


@pytest.mark.parametrize("text", ["", "a/b/c/d", "linux/", "nosuch", "linux/amd64;x"])
def test_malformed_platforms(text: str) -> None:
    """The text is named."""
    with pytest.raises(InvalidArgumentError, match=r"platform|unknown"):
        parse_platform(text)


def test_registry_auth_header() -> None:
    """base64url with or without padding; empty means none; the secret stays out of repr."""
    import base64

    raw = b'{"username":"u","password":"p>?","serveraddress":"r"}'
    for text in (base64.urlsafe_b64encode(raw), base64.urlsafe_b64encode(raw).rstrip(b"=")):
        auth = decode_registry_auth(text.decode())
        assert auth is not None
        assert auth.credentials() == ("u", "p>?")
        assert "p>?" not in repr(auth)
    assert decode_registry_auth("") is None
    assert decode_registry_auth(base64.urlsafe_b64encode(b"{}").decode()) is None
    with pytest.raises(InvalidArgumentError, match="X-Registry-Auth"):
        decode_registry_auth("!!!!")
    with pytest.raises(InvalidArgumentError, match="X-Registry-Auth"):
        decode_registry_auth(base64.urlsafe_b64encode(b"[1]").decode())
    assert AuthConfig(auth=base64.b64encode(b"a:b:c").decode()).credentials() == ("a", "b:c")


def test_mangled_documents_give_errors_of_ours() -> None:
    """Whatever a registry serves, the daemon lives (CVE-2021-21285): random damage, JSON of other shapes."""
    import random

    from support import images

    chance = random.Random(1)
    image = images.layers()
    manifest = image.blobs[image.target.digest]
    config = image.blobs[decode(manifest, Manifest).config.digest]
    index = images.multi_platform().blobs[images.multi_platform().target.digest]
    odd = [None, True, 0, -1, 1e300, 2**70, "", "x" * 99, [], [None], {}, {"a": None}, [[[[]]]]]
    for raw, parse in (
        (manifest, lambda data: parse_document(data, OCI_MANIFEST)),
        (index, lambda data: parse_document(data, OCI_INDEX)),
        (config, parse_image),
    ):
        cases = [bytes(chance.choices(raw, k=50)) for _ in range(100)] + [
            json.dumps(value).encode() for value in odd
        ]
        for _ in range(500):
            damaged = bytearray(raw)
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(len(damaged))] = chance.choice(b'{}[]",:0aZ\x00\xff')
            cases.append(bytes(damaged))
        fields = json.loads(raw)
        for name in fields:
            cases += [json.dumps({**fields, name: value}).encode() for value in odd]
        cases += [b"[" * 100_000, b'{"a":"\xff"}', b'{"schemaVersion":1e400}']
        for case in cases:
            try:
                parse(case)
            except InvalidArgumentError as error:
                assert str(error)
