# SPDX-License-Identifier: Apache-2.0
"""What the image use cases ask of the rest of dockerd: who uses an image, and where events go."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from orlop.errdefs import NotFoundError
from orlop.oci.image import ImageConfig


class ContainerUse(NamedTuple):
    """A container made from an image: its id, whether it runs, and the reference it was made with."""

    id: str
    running: bool
    image: str = ""


class ContainerUses(Protocol):
    """Answers which containers were made from an image; called with the image's ID, `sha256:…`."""

    def __call__(self, image_id: str) -> Sequence[ContainerUse]: ...


class PublishImageEvent(Protocol):
    """Takes an event of type image: action (pull, tag, untag, delete, load, import), actor ID, attributes.

    The actor is the image's ID (for pull the reference); `name` is among the attributes.
    """

    def __call__(self, action: str, actor: str, attributes: Mapping[str, str]) -> None: ...


class CommitSource(NamedTuple):
    """A container to make an image of.

    `paused()` stops its processes for the block if they run; `committed` is told the image's ID, its name in
    familiar form (or nothing) and the comment. `inside` gives the container's ids for the host's if they differ.
    """

    id: str
    snapshot_key: str
    image_id: str
    config: ImageConfig
    paused: Callable[[], AbstractAsyncContextManager[None]]
    committed: Callable[[str, str, str], None]
    inside: Callable[[int, int], tuple[int, int]] | None = None


class FindCommitSource(Protocol):
    """Finds a container by ID, beginning of an ID, or name. Raises NotFoundError, ConflictError (going away)."""

    def __call__(self, container: str) -> CommitSource: ...


def no_sources(container: str) -> CommitSource:
    """For a daemon without containers."""
    raise NotFoundError(f"No such container: {container}")


def no_containers(image_id: str) -> Sequence[ContainerUse]:
    """For a daemon without containers."""
    return ()


def no_events(action: str, actor: str, attributes: Mapping[str, str]) -> None:
    """For nobody who listens."""
