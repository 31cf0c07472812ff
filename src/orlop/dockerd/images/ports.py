# SPDX-License-Identifier: Apache-2.0
"""What the image use cases ask of the rest of dockerd: who uses an image, and where events go."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


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


def no_containers(image_id: str) -> Sequence[ContainerUse]:
    """For a daemon without containers."""
    return ()


def no_events(action: str, actor: str, attributes: Mapping[str, str]) -> None:
    """For nobody who listens."""
