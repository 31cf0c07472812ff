# SPDX-License-Identifier: Apache-2.0
"""Pulls an image, with progress as the Engine API's stream of messages."""

from orlop.containerd.client.fetch import Progress
from orlop.containerd.client.pull import PulledImage, Puller
from orlop.dockerd.images.names import drop_dangling, keep_dangling
from orlop.dockerd.images.ports import PublishImageEvent
from orlop.dockerd.images.progress import Message, Messages, Send
from orlop.dockerd.images.store import ImageStore
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import Platform
from orlop.oci.reference import Reference

_STATUSES = {
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
        messages = Messages(_STATUSES)

        def report(progress: Progress) -> None:
            if progress.step == "resolved":
                tag = reference.tag or str(reference)
                messages.put({"status": f"Pulling from {reference.path}", "id": tag})
            else:
                messages.layer(progress)

        async def pull() -> PulledImage:
            pulled = await self._puller.pull(
                reference,
                platform=platform,
                auth=auth,
                snapshotter=self._store.snapshotter,
                progress=report,
                before_naming=self._keep_former,
            )
            self._store.changed(pulled.name)
            await drop_dangling(self._store, pulled.target)
            attributes = {**pulled.content.image.config.labels, "name": reference.familiar_name}
            self._publish("pull", reference.familiar, attributes)
            return pulled

        return await messages.during(pull(), send, lambda pulled: _last(reference, pulled))

    async def all_tags(
        self, reference: Reference, send: Send, *, platform: Platform | None = None, auth: AuthConfig | None = None
    ) -> list[PulledImage]:
        """Pull every tag of a repository, one after the other; the first failure ends it."""
        tags = await self._puller.tags(reference, auth=auth)
        return [await self(reference.with_tag(tag), send, platform=platform, auth=auth) for tag in tags]

    async def _keep_former(self, pulled: PulledImage) -> None:
        if pulled.previous is not None and pulled.previous.digest != pulled.target.digest:
            await keep_dangling(self._store, pulled.name, pulled.previous)


def _last(reference: Reference, pulled: PulledImage) -> list[Message]:
    status = "Downloaded newer image for" if pulled.changed else "Image is up to date for"
    return [
        {"status": f"Digest: {pulled.target.digest}"},
        {"status": f"Status: {status} {reference.familiar}"},
    ]
