# SPDX-License-Identifier: Apache-2.0
"""What the container use cases ask of the rest of dockerd."""

from collections.abc import Mapping
from typing import Any, Protocol

from orlop.dockerd.images.store import ImageRecord
from orlop.dockerd.network.types import Attached, Detached, Sandbox, SandboxRequest
from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.engine.types import EndpointSettings, PortBinding
from orlop.oci.image import Platform


class Images(Protocol):
    """Finds the image that a container shall be made of."""

    async def resolve(self, name: str, platform: Platform | None = None) -> ImageRecord:
        """Raises NotFoundError `No such image: foo:latest`, also for an image that is not there for a platform."""
        ...

    async def ensure_unpacked(self, record: ImageRecord) -> None:
        """Make the snapshot of the image's top layer, if it is missing."""
        ...


class Networks(Protocol):
    """Gives a running container its network and takes it away."""

    async def connect(self, request: SandboxRequest) -> Sandbox:
        """Make the sandbox; everything is undone on error."""
        ...

    async def release(self, container_id: str) -> None:
        """Undo `connect`; no error if there is nothing (any more)."""
        ...

    def rename(self, container_id: str, name: str) -> None:
        """The container has another name from now on."""
        ...

    def driver_of(self, network_id: str) -> str:
        """The driver of a network, as events tell it."""
        ...


class Memberships(Protocol):
    """Changes the networks of a container that runs."""

    async def attach(self, request: SandboxRequest, reference: str, settings: EndpointSettings) -> Attached:
        """One network more; everything is undone on error."""
        ...

    async def detach(self, container_id: str, reference: str) -> Detached:
        """One network less."""
        ...

    async def force_detach(self, reference: str, name: str) -> None:
        """The endpoint of a container that is not known any more. Raises NotFoundError."""
        ...

    def find_network(self, reference: str, settings: EndpointSettings | None = None) -> dict[str, Any]:
        """A network as the Engine API shows it; checks wishes for an endpoint in it. Raises NotFoundError."""
        ...


class Publishing(Protocol):
    """Changes the published ports of a container that runs."""

    async def republish(
        self, request: SandboxRequest, removed: Mapping[str, list[PortBinding] | None]
    ) -> dict[str, list[PortBinding] | None]:
        """Publish the request's ports, and `removed` no more; everything is as it was on error."""
        ...


class Volumes(Protocol):
    """The volume calls of a container's life. All block."""

    def resolve(self, point: MountPoint, container_id: str) -> MountPoint:
        """Give a volume mount point its volume, created when missing."""
        ...

    def mount(self, name: str, container_id: str) -> str:
        """Make the content available for a start; returns the host path."""
        ...

    def unmount(self, name: str, container_id: str) -> None:
        """The container has stopped."""
        ...

    def copy_up(self, name: str, root: int, destination: str) -> bool:
        """Fill an empty volume with what the image has at `destination`."""
        ...

    def remove(self, name: str, force: bool = False) -> None:
        """Delete a volume."""
        ...
