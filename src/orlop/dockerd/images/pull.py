# SPDX-License-Identifier: Apache-2.0
"""Pulls an image, with progress as the Engine API's stream of messages."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from orlop.containerd.client.fetch import Progress
from orlop.containerd.client.pull import PulledImage, Puller
from orlop.dockerd.images.names import drop_dangling, keep_dangling
from orlop.dockerd.images.ports import PublishImageEvent
from orlop.dockerd.images.store import ImageStore
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import Platform
from orlop.oci.reference import Reference

INTERVAL = 0.1
"""Seconds between two messages about one layer's bytes."""

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]

_STATUS = {
    "fetching": "Pulling fs layer",
    "waiting": "Waiting",
    "downloading": "Downloading",
    "verifying": "Verifying Checksum",
    "downloaded": "Download complete",
    "extracting": "Extracting",
    "extracted": "Pull complete",
    "exists": "Already exists",
}


class PullImage:
    """Docker's pull: the reference is tagged or has a digest; its former image stays, dangling."""

    def __init__(self, store: ImageStore, puller: Puller, publish: PublishImageEvent) -> None:
        self._store = store
        self._puller = puller
        self._publish = publish

    async def __call__(
        self, reference: Reference, send: Send, *, platform: Platform | None = None, auth: AuthConfig | None = None
    ) -> PulledImage:
        """Pull, sending progress from the moment that the registry has named the image.

        Raises what `Puller.pull` raises; before the first message that is the request's own failure.
        """
        reference = reference.canonical()
        messages = _Messages(reference)
        sending = asyncio.create_task(_forward(messages.queue, send))
        pulling = asyncio.create_task(self._pull(reference, messages, platform, auth))
        try:
            # A client that is gone ends the sending, and with it the pull.
            await asyncio.wait({sending, pulling}, return_when=asyncio.FIRST_COMPLETED)
            if pulling.done():
                pulled = pulling.result()
                messages.finish(pulled)
            await sending
            return await pulling
        finally:
            for task in (pulling, sending):
                task.cancel()
            await asyncio.wait({pulling, sending})

    async def _pull(
        self, reference: Reference, messages: "_Messages", platform: Platform | None, auth: AuthConfig | None
    ) -> PulledImage:
        pulled = await self._puller.pull(
            reference,
            platform=platform,
            auth=auth,
            snapshotter=self._store.snapshotter,
            progress=messages.report,
            before_naming=self._keep_former,
        )
        self._store.changed(pulled.name)
        await drop_dangling(self._store, pulled.target)
        attributes = {**pulled.content.image.config.labels, "name": reference.familiar_name}
        self._publish("pull", reference.familiar, attributes)
        return pulled

    async def _keep_former(self, pulled: PulledImage) -> None:
        if pulled.previous is not None and pulled.previous.digest != pulled.target.digest:
            await keep_dangling(self._store, pulled.name, pulled.previous)


class _Messages:
    """Turns progress into messages: those about bytes at most every `INTERVAL`, the others always."""

    def __init__(self, reference: Reference) -> None:
        self.queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._reference = reference
        self._last: dict[str, float] = {}

    def report(self, progress: Progress) -> None:
        if progress.step == "resolved":
            tag = self._reference.tag or str(self._reference)
            self.queue.put_nowait({"status": f"Pulling from {self._reference.path}", "id": tag})
            return
        layer = progress.descriptor.digest.partition(":")[2][:12]
        detail: dict[str, int] = {}
        if progress.step in ("downloading", "extracting"):
            now = time.monotonic()
            if now - self._last.get(layer, 0.0) < INTERVAL and progress.current < progress.total:
                return
            self._last[layer] = now
            detail = {"current": progress.current, "total": progress.total}
        self.queue.put_nowait({"status": _STATUS[progress.step], "progressDetail": detail, "id": layer})

    def finish(self, pulled: PulledImage) -> None:
        """The last two lines, and the end."""
        name = self._reference.familiar
        status = "Downloaded newer image for" if pulled.changed else "Image is up to date for"
        self.queue.put_nowait({"status": f"Digest: {pulled.target.digest}"})
        self.queue.put_nowait({"status": f"Status: {status} {name}"})
        self.queue.put_nowait(None)


async def _forward(queue: asyncio.Queue[Message | None], send: Send) -> None:
    while (message := await queue.get()) is not None:
        await send(message)
