# SPDX-License-Identifier: Apache-2.0
"""Keeps the image store below a size: what has been used least recently goes, where a policy says so."""

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

from orlop.dockerd import timestamps
from orlop.dockerd.events import Event, Events
from orlop.dockerd.filters import Filters
from orlop.dockerd.images.ports import ContainerUses
from orlop.dockerd.images.remove import RemoveImage
from orlop.dockerd.images.sizes import LayerSizes
from orlop.dockerd.images.store import ImageRecord, ImageStore
from orlop.dockerd.images.uses import LastUses
from orlop.errdefs import ConflictError, NotFoundError, OrlopError
from orlop.oci.image import chain_ids

log = logging.getLogger("orlop.dockerd.images")

_GROWS = ("pull", "load", "import", "tag", "create", "commit", "destroy", "reload")
"""Actions after which the store may be too large, or an image free to go."""
_USES = ("create", "start", "die", "destroy")


class Policy(NamedTuple):
    """`max_size` in bytes, 0: no limit; `min_age` in nanoseconds since the last use."""

    max_size: int
    min_age: int


class Held(NamedTuple):
    """An image and what it takes up: bytes by digest, compressed blobs and unpacked layers alike."""

    record: ImageRecord
    parts: dict[str, int]
    last_used: int


class ImageKeeper:
    """Follows the daemon's events. `image_of` is a container's image, None for one that is gone."""

    def __init__(
        self,
        store: ImageStore,
        sizes: LayerSizes,
        uses: ContainerUses,
        remove: RemoveImage,
        last_uses: LastUses,
        policy: Callable[[], Policy],
        image_of: Callable[[str], str | None],
    ) -> None:
        self._store = store
        self._sizes = sizes
        self._uses = uses
        self._remove = remove
        self._last_uses = last_uses
        self._policy = policy
        self._image_of = image_of
        self._images: dict[str, str] = {}

    async def run(self, events: Events) -> None:
        """Note uses and tidy up whenever there may be something to do, until cancelled."""
        wanted = Filters({"type": ["container", "image", "daemon"], "event": [*_GROWS, *_USES]})
        subscription = events.subscribe(None, None, wanted, own=True)
        try:
            await self._tidy_logged()
            async for event in subscription:
                if not self._policy().max_size:
                    continue
                if event.type == "container" and event.action in _USES:
                    self._note(event)
                if event.action in _GROWS:
                    await self._tidy_logged()
        finally:
            subscription.close()

    def _note(self, event: Event) -> None:
        image_id = self._image_of(event.id) or self._images.get(event.id)
        if image_id is None:
            return
        self._images[event.id] = image_id
        if event.action == "destroy":
            del self._images[event.id]
        self._last_uses.note(image_id, event.time)

    async def _tidy_logged(self) -> None:
        try:
            await self.tidy()
        except OrlopError as error:
            log.warning("the image store could not be tidied: %s", error)

    async def tidy(self) -> list[str]:
        """Remove images until the store is small enough or nothing more may go; their IDs.

        What a container was made from stays, and what was used, pulled or tagged within the policy's age.
        """
        policy = self._policy()
        if not policy.max_size:
            return []
        held = await self._held()
        going = choose(
            held, policy, timestamps.now(), in_use={each.record.id for each in held if self._uses(each.record.id)}
        )
        gone = []
        for image_id in going:
            try:
                await self._remove(image_id, force=True)
            except (ConflictError, NotFoundError) as error:
                log.info("image %s stays: %s", image_id, error)  # used or removed by somebody just now
                continue
            self._last_uses.forget(image_id)
            log.info("image %s was removed: the store is over its size of %d bytes", image_id, policy.max_size)
            gone.append(image_id)
        return gone

    async def _held(self) -> list[Held]:
        last = self._last_uses.all()
        found = []
        for record in await self._store.records():
            chains = chain_ids(record.config.rootfs.diff_ids)
            parts = dict(zip(chains, await self._sizes.of(record), strict=True))
            parts |= {layer.digest: layer.size for layer in (*record.layers, record.config_descriptor)}
            updated = max(int(name.updated * timestamps.SECOND) for name in record.names)
            found.append(Held(record, parts, max(updated, last.get(record.id, 0))))
        return found


def choose(held: Iterable[Held], policy: Policy, now: int, in_use: set[str]) -> list[str]:
    """The IDs of the images that have to go, least recently used first: pure.

    A part that several images have goes with the last of them.
    """
    kept = {each.record.id: each for each in held}
    going = []
    for each in sorted(kept.values(), key=lambda each: each.last_used):
        if _total(kept.values()) <= policy.max_size:
            break
        if each.record.id not in in_use and now - each.last_used >= policy.min_age:
            del kept[each.record.id]
            going.append(each.record.id)
    return going


def _total(held: Iterable[Held]) -> int:
    parts: dict[str, int] = {}
    for each in held:
        parts |= each.parts
    return sum(parts.values())
