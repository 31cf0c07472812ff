# SPDX-License-Identifier: Apache-2.0
"""Remove all stopped containers."""

from orlop.dockerd import timestamps
from orlop.dockerd.containers.inspect import Inspect
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remove import Remove
from orlop.dockerd.events import Events
from orlop.dockerd.filters import Filters
from orlop.errdefs import ConflictError, InvalidArgumentError, NotFoundError

_ACCEPTED = ("label", "label!", "until")


class Prune:
    """The use case."""

    def __init__(self, registry: Registry, remove: Remove, inspect: Inspect, events: Events) -> None:
        self._registry = registry
        self._remove = remove
        self._inspect = inspect
        self._events = events

    async def __call__(self, filters: Filters) -> tuple[list[str], int]:
        """Ids of the removed containers and the bytes that they had written. Raises InvalidArgumentError."""
        filters.validate(_ACCEPTED)
        until = _until(filters)
        deleted, reclaimed = [], 0
        for container in self._registry:
            record = container.record
            labels = record.config.labels
            wanted = filters.labels("label", labels) and (
                "label!" not in filters or not filters.labels("label!", labels)
            )
            if record.state.running or not wanted or (until and record.created > until):
                continue
            ((written, _),) = await self._inspect.sizes([container])
            try:
                await self._remove(container.id)
            except (ConflictError, NotFoundError):
                continue  # started or removed meanwhile
            deleted.append(container.id)
            reclaimed += written
        self._events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
        return deleted, reclaimed


def _until(filters: Filters) -> int:
    values = filters.get("until")
    if len(values) > 1:
        raise InvalidArgumentError("more than one until filter specified")
    return timestamps.parse_ago(values[0], name="until") if values else 0
