# SPDX-License-Identifier: Apache-2.0
"""References to images: what Docker accepts, what it rejects and in which words."""

import pytest

from orlop.errdefs import InvalidArgumentError
from orlop.oci import reference

HEX = "a" * 64
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/library/busybox:a", "docker.io/library/busybox:a", "busybox:a"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c"),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
        ("Example.com/app", "Example.com/app", "Example.com/app"),
        ("HOST/app", "HOST/app", "HOST/app"),
        ("a__b/c--d.e", "docker.io/a__b/c--d.e", "a__b/c--d.e"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:x@{DIGEST}", f"docker.io/library/busybox:x@{DIGEST}", f"busybox:x@{DIGEST}"),
    ],
)
def test_accepted(text: str, full: str, familiar: str) -> None:
    """Each form has one full and one familiar form, and the full one reads back as itself."""
    parsed = reference.parse(text)
    assert str(parsed) == full
    assert parsed.familiar == familiar
    assert reference.parse(full) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        (" busybox", "invalid reference format"),
        ("busybox:", "invalid reference format"),
        ("busybox:-x", "invalid reference format"),
        ("busybox@sha256:12", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a/../b", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a_-b", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("https://example.com/app", "invalid reference format"),
        ("busybox\n", "invalid reference format"),
        ("büsybox", "invalid reference format"),
        ("busybox:tàg", "invalid reference format"),
        ("busybox:" + "t" * 129, "invalid reference format"),
        ("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase"),
        ("docker.io/User/app", "invalid reference format: repository name (User/app) must be lowercase"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ("a" * 256, "repository name must not be more than 255 characters"),
        (f"busybox@sha256:{'b' * 63}", "invalid checksum digest length"),
        (f"busybox@md5:{'b' * 32}", "unsupported digest algorithm"),
    ],
)
def test_rejected(text: str, message: str) -> None:
    """Docker's words, so that its users find them in the documentation."""
    with pytest.raises(InvalidArgumentError) as caught:
        reference.parse(text)
    assert str(caught.value).startswith(message)


def test_canonical_prefers_the_digest() -> None:
    """A reference with tag and digest is looked up by its digest."""
    assert str(reference.parse(f"busybox:x@{DIGEST}").canonical()) == f"docker.io/library/busybox@{DIGEST}"
    assert str(reference.parse("busybox").canonical()) == "docker.io/library/busybox:latest"


def test_with_tag_and_with_digest_check_their_argument() -> None:
    """What comes in a parameter of its own is checked too."""
    parsed = reference.parse("busybox:old")
    assert parsed.with_tag("new").familiar == "busybox:new"
    assert parsed.with_digest(DIGEST).familiar == f"busybox@{DIGEST}"
    with pytest.raises(InvalidArgumentError, match="invalid tag format"):
        parsed.with_tag("no/slash")
    with pytest.raises(InvalidArgumentError, match="invalid checksum digest"):
        parsed.with_digest("sha256:zz")
