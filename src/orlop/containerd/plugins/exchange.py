# SPDX-License-Identifier: Apache-2.0
"""The event exchange: events of the daemon and of its shims, handed to whoever subscribed."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from orlop.api.types_pb2 import Envelope
from orlop.containerd.client import typeurl
from orlop.containerd.core import filters
from orlop.containerd.core.namespaces import validate_identifier
from orlop.errdefs import InvalidArgumentError, ResourceExhaustedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

BACKLOG = 8192  # events a subscriber may be behind


class Published:
    """An event on its way to its subscribers: what one of them has made of it serves the next."""

    __slots__ = ("_encoded", "envelope", "lookup")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.lookup = _adaptor(envelope)
        """For filters."""
        self._encoded = b""

    def encoded(self) -> bytes:
        """The envelope as it goes over the wire."""
        if not self._encoded:
            self._encoded = self.envelope.SerializeToString()
        return self._encoded


class Subscription:
    """One subscriber's events, in the order of publication. Iterate it; `close` ends it."""

    def __init__(self, exchange: Exchange, accept: filters.Filter | None, backlog: int) -> None:
        self._exchange = exchange
        self._accept = accept
        self._backlog = backlog
        self._events: deque[Published] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    def offer(self, event: Published) -> None:
        """Take an event that matches; a subscriber that is too far behind is cut off with an error."""
        if self._error is not None or (self._accept is not None and not self._accept(event.lookup)):
            return
        if len(self._events) >= self._backlog:
            self._events.clear()
            self.end(ResourceExhaustedError(f"subscriber is more than {self._backlog} events behind"))
            return
        self._events.append(event)
        self._wake()

    def end(self, error: Exception) -> None:
        """Make the iteration raise `error` once the events that are waiting are taken."""
        self._error = error
        self._wake()

    def close(self) -> None:
        """Receive no more events."""
        self._exchange.remove(self)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Published:
        while not self._events:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._events.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Exchange:
    """The `EventPublisher` of the daemon. All calls are made in the thread of the event loop."""

    def __init__(self, backlog: int = BACKLOG) -> None:
        self._backlog = backlog
        self._subscriptions: dict[Subscription, None] = {}  # in order of subscription

    def publish(self, namespace: str, topic: str, event: Message) -> None:
        """Publish an event now. Raises InvalidArgumentError for a malformed namespace or topic."""
        validate_identifier(namespace, "namespace")
        validate_topic(topic)
        if not self._subscriptions:
            return
        now = Timestamp()
        now.GetCurrentTime()
        self._broadcast(Envelope(timestamp=now, namespace=namespace, topic=topic, event=typeurl.pack(event)))

    def forward(self, envelope: Envelope) -> None:
        """Publish an event with a time and a namespace of its own.

        Raises InvalidArgumentError for a malformed envelope.
        """
        validate_identifier(envelope.namespace, "namespace")
        validate_topic(envelope.topic)
        if not envelope.HasField("timestamp"):
            raise InvalidArgumentError("timestamp must be set on forwarded event")
        self._broadcast(envelope)

    def subscribe(self, expressions: Sequence[str] = ()) -> Subscription:
        """The events from now on that match any of the filters, of every namespace.

        Filters know `namespace`, `topic` and the fields of the event (`event.container_id`). Raises
        InvalidArgumentError for a malformed filter.
        """
        accept = filters.parse_all(expressions) if expressions else None
        subscription = Subscription(self, accept, self._backlog)
        self._subscriptions[subscription] = None
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        self._subscriptions.pop(subscription, None)

    def close(self) -> None:
        """End all subscriptions: the daemon goes away."""
        for subscription in self._subscriptions:
            subscription.end(UnavailableError("containerd is shutting down"))
        self._subscriptions.clear()

    def _broadcast(self, envelope: Envelope) -> None:
        event = Published(envelope)
        for subscription in self._subscriptions:
            subscription.offer(event)


def validate_topic(topic: str) -> None:
    """Raises InvalidArgumentError unless `topic` is a path of identifiers that starts with "/"."""
    if not topic.startswith("/"):
        raise InvalidArgumentError(f'envelope topic "{topic}" must start with "/"')
    for component in topic[1:].split("/"):
        validate_identifier(component, f'component of envelope topic "{topic}"')


def _adaptor(envelope: Envelope) -> filters.Adaptor:
    event: Message | None = None

    def lookup(path: Sequence[str]) -> str | None:
        nonlocal event
        if path[0] == "namespace":
            return envelope.namespace
        if path[0] == "topic":
            return envelope.topic
        if path[0] != "event" or len(path) < 2:
            return None
        if event is None:
            try:
                event = typeurl.decode(envelope.event)
            except InvalidArgumentError:
                return None  # an event of a kind that is unknown here has no fields to match
        return _field(event, path[1:])

    return lookup


def _field(message: Message, path: Sequence[str]) -> str | None:
    """The value of a field as text; of a map of strings, that of the entry which the rest of the path names."""
    field = message.DESCRIPTOR.fields_by_name.get(path[0])
    if field is None:
        return None
    value = getattr(message, path[0])
    if field.message_type is None:
        return None if field.is_repeated or len(path) > 1 else str(value)
    if field.message_type.GetOptions().map_entry:
        found = value.get(".".join(path[1:]))
        return None if found is None else str(found)
    return _field(value, path[1:]) if len(path) > 1 and not field.is_repeated else None
