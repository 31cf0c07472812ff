# SPDX-License-Identifier: Apache-2.0
"""Progress of a transfer as containerd's clients read it: events by name, each below its parents."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orlop.api import transfer_types_pb2 as pb
from orlop.containerd.client import typeurl
from orlop.containerd.client.fetch import ingest_ref
from orlop.containerd.client.unpack import to_proto
from orlop.errdefs import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.any_pb2 import Any

    from orlop.containerd.client.fetch import Progress
    from orlop.containerd.client.streams import Stream
    from orlop.oci.image import Descriptor

_EVENTS = {
    "fetching": "waiting",
    "waiting": "waiting",
    "preparing": "waiting",
    "downloading": "downloading",
    "downloaded": "complete",
    "uploading": "uploading",
    "uploaded": "complete",
    "mounted": "complete",
    "extracting": "extracting",
    "extracted": "extracted",
    "exists": "already exists",
}
"""The client library's steps under the names of the original's."""
PATIENCE = 10.0  # seconds that a client is given to take the last events
_STEADY = frozenset({"downloading", "uploading"})
"""Events that a newer one of the same name makes worthless."""


class ProgressReporter:
    """Reports to a client; the work never waits for it. Without a stream nothing is reported."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream
        self._waiting: dict[object, Any] = {}
        self._wake = asyncio.Event()
        self._finished = False
        self._parents: dict[str, list[str]] = {}
        self._sender = asyncio.ensure_future(self._send(stream)) if stream is not None else None

    def say(self, event: str, name: str = "", descriptor: Descriptor | None = None) -> None:
        """Report an event of the whole transfer, or of the image `name`."""
        message = pb.Progress(event=event, name=name)
        if descriptor is not None:
            message.desc.CopyFrom(to_proto(descriptor))
        self._put(object(), message)

    def children(self, parent: Descriptor, children: Sequence[Descriptor]) -> None:
        """Tell what a document is made of."""
        for child in children:
            parents = self._parents.setdefault(child.digest, [])
            if ingest_ref(parent) not in parents:
                parents.append(ingest_ref(parent))

    def blobs(self, root: str, progress: Progress) -> None:
        """Report a step of a blob; `root` is the name above those that have no parent."""
        event = _EVENTS.get(progress.step)
        if event is None:
            return
        descriptor = progress.descriptor
        name = ingest_ref(descriptor)
        message = pb.Progress(
            event=event,
            name=name,
            parents=self._parents.get(descriptor.digest) or [root],
            progress=progress.current,
            total=progress.total or descriptor.size,
            desc=to_proto(descriptor),
        )
        self._put((name, event) if event in _STEADY else object(), message)

    async def finish(self) -> None:
        """Send what is left and end the stream."""
        self._finished = True
        self._wake.set()
        if self._sender is not None:
            await asyncio.wait((self._sender,), timeout=PATIENCE)
            self._sender.cancel()

    def _put(self, key: object, message: pb.Progress) -> None:
        if self._stream is not None:
            self._waiting[key] = typeurl.pack(message)
            self._wake.set()

    async def _send(self, stream: Stream) -> None:
        try:
            while self._waiting or not self._finished:
                self._wake.clear()
                batch, self._waiting = self._waiting, {}
                for message in batch.values():
                    await stream.send(message)
                if not self._waiting and not self._finished:
                    await self._wake.wait()
        except UnavailableError:
            self._stream = None  # the client looks no longer
        stream.close()
