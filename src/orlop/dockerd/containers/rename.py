# SPDX-License-Identifier: Apache-2.0
"""Give a container another name."""

from orlop.dockerd.containers.names import check_name
from orlop.dockerd.containers.ports import Networks
from orlop.dockerd.containers.registry import Registry
from orlop.errdefs import ConflictError, InvalidArgumentError

_FAILED = "Error when allocating new name: "


class Rename:
    """The use case."""

    def __init__(self, registry: Registry, networks: Networks) -> None:
        self._registry = registry
        self._networks = networks

    async def __call__(self, reference: str, name: str) -> None:
        """Rename. Raises NotFoundError, InvalidArgumentError, ConflictError when the name is taken."""
        if not name:
            raise InvalidArgumentError("Neither old nor new names may be empty")
        container = self._registry.get(reference)
        try:
            name = check_name(name)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{_FAILED}{error}") from None
        async with container.lock:
            old = container.name
            if container.record.state.removing:
                raise ConflictError(f"container {container.id} is being removed")
            if name == old:
                raise InvalidArgumentError("Renaming a container with the same name as its current name")
            try:
                self._registry.reserve(name, container.id)
            except ConflictError as error:
                raise ConflictError(f"{_FAILED}{error}") from None
            try:
                self._registry.rename(container, name)
            except BaseException:
                self._registry.release(name)
                raise
            self._networks.rename(container.id, name)
            for settings in container.record.endpoints.values():
                settings.dns_names = [name if each == old else each for each in settings.dns_names or ()] or None
            self._registry.save(container)
        self._registry.publish(container, "rename", oldName=f"/{old}")
