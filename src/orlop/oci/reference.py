# SPDX-License-Identifier: Apache-2.0
"""References to images: the grammar, the familiar and the full form, as Docker reads and writes them."""

import re
from typing import NamedTuple

from orlop.errdefs import InvalidArgumentError
from orlop.oci.image import check_digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
NAME_LENGTH_MAX = 255

_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"

_ALNUM = r"[a-z0-9]+"
_PART = rf"{_ALNUM}(?:(?:[._]|__|-+){_ALNUM})*"
_PATH = rf"{_PART}(?:/{_PART})*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_WHOLE_DOMAIN = re.compile(rf"{_DOMAIN}\Z", re.ASCII)
_REFERENCE = re.compile(rf"({_DOMAIN})/({_PATH})(?::({_TAG}))?(?:@({_DIGEST}))?\Z", re.ASCII)
_TAG_ONLY = re.compile(rf"{_TAG}\Z", re.ASCII)
_ID = re.compile(r"[a-f0-9]{64}\Z")


class Reference(NamedTuple):
    """A normalised reference: `docker.io`, `library/busybox`, `latest`, a digest; the last two may be empty."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository with its domain: `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: `busybox`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in short else short

    @property
    def familiar(self) -> str:
        """The whole reference as people write it: `busybox:latest`."""
        return self.familiar_name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix

    def with_tag(self, tag: str) -> "Reference":
        """The same repository under a tag, without digest. Raises InvalidArgumentError."""
        if not _TAG_ONLY.match(tag):
            raise InvalidArgumentError("invalid tag format")
        return self._replace(tag=tag, digest="")

    def with_digest(self, digest: str) -> "Reference":
        """The same repository at a digest, without tag. Raises InvalidArgumentError."""
        return self._replace(tag="", digest=check_digest(digest))

    def tagged(self) -> "Reference":
        """With the default tag if it has neither tag nor digest."""
        return self if self.tag or self.digest else self._replace(tag=DEFAULT_TAG)

    def canonical(self) -> "Reference":
        """As Docker looks it up: tagged, or with its digest only where both are given."""
        return self._replace(tag="") if self.digest else self.tagged()


def is_domain(text: str) -> bool:
    """Whether it is a registry's `host[:port]`."""
    return _WHOLE_DOMAIN.match(text) is not None


def parse(text: str) -> Reference:
    """Read a reference in familiar or full form; no tag is added.

    Raises InvalidArgumentError with Docker's words.
    """
    if _ID.match(text):
        raise InvalidArgumentError(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split_domain(text)
    remote = rest.partition(":")[0]
    if remote.lower() != remote:
        raise InvalidArgumentError(f"invalid reference format: repository name ({remote}) must be lowercase")
    match = _REFERENCE.match(f"{domain}/{rest}")
    if match is None:
        raise InvalidArgumentError("invalid reference format")
    reference = Reference(match[1], match[2], match[3] or "", match[4] or "")
    if len(reference.path) > NAME_LENGTH_MAX:
        raise InvalidArgumentError(f"repository name must not be more than {NAME_LENGTH_MAX} characters")
    if reference.digest:
        check_digest(reference.digest)
    return reference


def is_image_id(text: str) -> bool:
    """Whether it is a full image ID without algorithm: 64 hexadecimal digits."""
    return _ID.match(text) is not None


def _split_domain(text: str) -> tuple[str, str]:
    head, slash, tail = text.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, _OFFICIAL + text
    if head == _LEGACY_DOMAIN:
        domain, rest = DEFAULT_DOMAIN, tail
    elif head == "localhost" or any(mark in head for mark in ".:") or head.lower() != head:
        domain, rest = head, tail
    else:
        domain, rest = DEFAULT_DOMAIN, text
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return domain, rest
