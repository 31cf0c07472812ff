# SPDX-License-Identifier: Apache-2.0
"""Pushes an image, with progress as the Engine API's stream of messages."""

from orlop.containerd.client.push import is_complete, push
from orlop.dockerd.images.ports import PublishImageEvent
from orlop.dockerd.images.progress import Message, Messages, Send
from orlop.dockerd.images.store import ImageStore
from orlop.errdefs import NotFoundError
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import Descriptor, Platform
from orlop.oci.reference import Reference
from orlop.registry import RegistryConfig

_STATUSES = {
    "preparing": "Preparing",
    "uploading": "Pushing",
    "uploaded": "Pushed",
    "mounted": "Mounted from {source}",
    "exists": "Layer already exists",
}


class PushImage:
    """Docker's push: a tag, or every tag of a repository."""

    def __init__(
        self, store: ImageStore, registries: RegistryConfig, publish: PublishImageEvent, slots: int = 5
    ) -> None:
        self._store = store
        self._registries = registries
        self._publish = publish
        self.slots = slots
        """How many layers of an image are sent at a time."""

    async def __call__(
        self, reference: Reference, send: Send, *, auth: AuthConfig | None = None, platform: Platform | None = None
    ) -> None:
        """Push; a reference without tag means all tags of its repository, a platform that one's manifest alone.

        Raises NotFoundError if there is no such image, else what `push` raises.
        """
        await send({"status": f"The push refers to repository [{reference.name}]"})
        wanted = await self._wanted(reference)
        if platform is not None:
            wanted = [
                (tagged, (await self._store.resolve(str(tagged), platform)).manifest) for tagged, _ in wanted
            ]
        for tagged, target in wanted:
            messages = Messages(_STATUSES)
            work = push(
                self._store.client,
                tagged,
                target,
                auth=auth,
                config=self._registries,
                slots=self.slots,
                progress=messages.layer,
            )
            last = _last(tagged, target)
            await messages.during(work, send, lambda _, last=last: last)  # type: ignore[misc]
            self._publish("push", tagged.familiar, {"name": tagged.familiar_name})

    async def _wanted(self, reference: Reference) -> list[tuple[Reference, Descriptor]]:
        """The tags to push, and what each is: an index only if all of it is here, else the platform's manifest."""
        found = []
        for record in await self._store.records():
            for name, known in zip(record.names, record.parsed_names, strict=True):
                if known is None or known.name != reference.name or not known.tag:
                    continue
                if not reference.tag or reference.tag == known.tag:
                    whole = await is_complete(self._store.client, name.target)
                    found.append((known, name.target if whole else record.manifest))
        if not found:
            if reference.tag:
                raise NotFoundError(f"tag does not exist: {reference.familiar}")
            raise NotFoundError(f"An image does not exist locally with the tag: {reference.familiar_name}")
        return sorted(found, key=lambda item: item[0].tag)


def _last(reference: Reference, target: Descriptor) -> list[Message]:
    return [
        {"status": f"{reference.tag}: digest: {target.digest} size: {target.size}"},
        {
            "progressDetail": {},
            "aux": {"Tag": reference.tag, "Digest": target.digest, "Size": target.size},
        },
    ]
