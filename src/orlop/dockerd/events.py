# SPDX-License-Identifier: Apache-2.0
"""What happens in the daemon, told to everybody who listens: `docker events`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from orlop.dockerd import timestamps
from orlop.dockerd.filters import Filters

HISTORY = 1024
"""Past events kept for `since`; Docker keeps 256."""

# A listener that does not read loses its oldest events beyond this, not the daemon its memory.
_QUEUE = 4096


class Event(NamedTuple):
    """`time` in nanoseconds since 1970."""

    type: str
    action: str
    id: str
    attributes: dict[str, str]
    time: int
    scope: str = "local"

    def message(self, *, legacy: bool) -> dict[str, Any]:
        """The Engine API's form; `legacy` adds status, id and from, as before API 1.52."""
        body: dict[str, Any] = {}
        if legacy and self.type in ("container", "image"):
            body["status"] = self.action
            body["id"] = self.id
            if self.type == "container" and self.attributes.get("image"):
                body["from"] = self.attributes["image"]
        body |= {
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": self.attributes},
            "scope": self.scope,
            "time": self.time // timestamps.SECOND,
            "timeNano": self.time,
        }
        return body


class Events:
    """The bus. Publishing never waits."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._listeners: dict[asyncio.Queue[Event], Filters] = {}
        self._own: set[asyncio.Queue[Event]] = set()
        self.published = 0
        """How many events there have been."""

    @property
    def listeners(self) -> int:
        """How many clients listen."""
        return len(self._listeners.keys() - self._own)

    def publish(self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None) -> Event:
        """Tell everybody. `type` is container, image, network, volume, daemon …"""
        event = Event(type, action, id, dict(attributes or {}), timestamps.now())
        self._history.append(event)
        self.published += 1
        for queue, filters in self._listeners.items():
            if not matches(event, filters):
                continue
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)
        return event

    def history(self, since: int, until: int, filters: Filters) -> list[Event]:
        """Kept events between two moments (0: open)."""
        return [
            event
            for event in self._history
            if event.time >= since and (not until or event.time <= until) and matches(event, filters)
        ]

    def subscribe(
        self, since: int | None, until: int | None, filters: Filters, *, own: bool = False
    ) -> "Subscription":
        """Past events from `since` (None: none), then new ones up to `until` (None: for ever).

        `own`: it is a part of the daemon that listens, not a client. What is published after this call returns is
        not missed; `close` the subscription in the end.
        """
        past = [] if since is None else self.history(since, until or 0, filters)
        queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
        self._listeners[queue] = filters
        if own:
            self._own.add(queue)
        return Subscription(past, queue, until, self._leave)

    def _leave(self, queue: "asyncio.Queue[Event]") -> None:
        self._listeners.pop(queue, None)
        self._own.discard(queue)


class Subscription:
    """The events of one listener."""

    def __init__(
        self,
        past: list[Event],
        queue: "asyncio.Queue[Event]",
        until: int | None,
        leave: Callable[["asyncio.Queue[Event]"], None],
    ) -> None:
        self._past = past
        self._queue = queue
        self._until = until
        self._leave = leave

    def close(self) -> None:
        """Listen no more."""
        self._leave(self._queue)

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self._past:
            yield event
        while True:
            left = None if self._until is None else (self._until - timestamps.now()) / timestamps.SECOND
            if left is not None and left <= 0:
                return
            try:
                event = await asyncio.wait_for(self._queue.get(), left)
            except TimeoutError:
                return
            yield event


def matches(event: Event, filters: Filters) -> bool:
    """Whether an event passes the filters of an events request."""
    return (
        _matches_action(event, filters)
        and filters.exact("type", event.type)
        and filters.exact("scope", event.scope)
        and filters.labels("label", event.attributes)
        and (not filters.get("id") or any(event.id.startswith(wanted) for wanted in filters.get("id")))
        and _matches_image(event, filters)
        and all(_matches_object(event, kind, filters) for kind in _OBJECTS if kind in filters)
    )


_OBJECTS = ("container", "daemon", "plugin", "volume", "network", "service", "node", "secret", "config")


def _matches_action(event: Event, filters: Filters) -> bool:
    # "exec_start: ls -l" and "health_status: healthy" are found by what stands before the colon, too.
    return filters.exact("event", event.action) or filters.exact("event", event.action.partition(":")[0])


def _matches_object(event: Event, kind: str, filters: Filters) -> bool:
    if event.type == kind:
        name = event.attributes.get("name", "")
        return any(event.id.startswith(want) or want == name for want in filters.get(kind))
    if kind == "container" and "container" in event.attributes:  # network connect and disconnect, volume mount
        return any(event.attributes["container"].startswith(want) for want in filters.get(kind))
    return False


def _matches_image(event: Event, filters: Filters) -> bool:
    wanted = filters.get("image")
    if not wanted:
        return True
    names = [event.id] if event.type == "image" else []
    names += [event.attributes.get("name" if event.type == "image" else "image", "")]
    names += [name.rpartition(":")[0] for name in names if ":" in name and not name.startswith("sha256:")]
    return any(name in wanted for name in names if name)
