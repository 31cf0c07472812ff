# SPDX-License-Identifier: Apache-2.0
"""Contract of the image store: names that point at content."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class Target(NamedTuple):
    """The descriptor of the content that an image names."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = {}


class Image(NamedTuple):
    """A named descriptor. Times are nanoseconds since the epoch; they are the store's to set."""

    name: str
    target: Target
    labels: Mapping[str, str] = {}
    created: int = 0
    updated: int = 0


class ImageStore(Protocol):
    """The images of one scope.

    An image is a root of the garbage collector: while it exists, its target, and what the labels of the target
    refer to, stay. The store does not look into the content: a client labels what it fetched. With the label
    `containerd.io/gc.expire` (RFC 3339) the image itself is garbage after that time.
    """

    def get(self, name: str) -> Image:
        """Raises NotFoundError."""
        ...

    def list(self, filters: Sequence[str] = ()) -> list[Image]:
        """The images that match, by name. Raises InvalidArgumentError for a malformed filter."""
        ...

    def create(self, image: Image, epoch: int | None = None) -> Image:
        """Add an image; `epoch` replaces the time of creation. Raises AlreadyExistsError, InvalidArgumentError."""
        ...

    def update(self, image: Image, paths: Sequence[str] = (), epoch: int | None = None) -> Image:
        """Change what the field mask `paths` names (`target`, `labels`, `labels.<key>`, `annotations`,
        `annotations.<key>`), or all without one. Raises NotFoundError, InvalidArgumentError."""
        ...

    def delete(self, name: str, digest: str = "") -> None:
        """Remove the name, when `digest` is empty or its target's. Raises NotFoundError."""
        ...
