# SPDX-License-Identifier: Apache-2.0
"""Contracts of events: who publishes them, and who hands them to subscribers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from google.protobuf.message import Message


class EventPublisher(Protocol):
    """Takes an event of one of containerd's own services.

    A *topic* is a path that starts with "/", as `/containers/create`. An *event* is a message of
    `orlop.api.events_pb2` (or `image_events_pb2`); it is packed into an Any whose type URL is the bare full
    name of the message. Publishing never blocks: each subscriber has a bounded buffer of its own.

        publisher.publish("moby", "/images/delete", ImageDelete(name=name))
    """

    def publish(self, namespace: str, topic: str, event: Message) -> None:
        """Hand the event to everybody who subscribed to it.

        Raises InvalidArgumentError for a malformed namespace or topic.
        """
        ...
