# SPDX-License-Identifier: Apache-2.0
"""Puts the image use cases together for the daemon and its routes."""

from orlop.containerd.client import Client
from orlop.containerd.client.pull import Puller
from orlop.dockerd.images.commit import CommitContainer
from orlop.dockerd.images.history import ImageHistory
from orlop.dockerd.images.import_ import ImportImage
from orlop.dockerd.images.inspect import InspectImage
from orlop.dockerd.images.list import ListImages
from orlop.dockerd.images.load import LoadImages
from orlop.dockerd.images.manifests import ImageManifests
from orlop.dockerd.images.ports import (
    ContainerUses,
    FindCommitSource,
    PublishImageEvent,
    no_containers,
    no_events,
    no_sources,
)
from orlop.dockerd.images.prune import PruneImages
from orlop.dockerd.images.pull import PullImage
from orlop.dockerd.images.push import PushImage
from orlop.dockerd.images.registries import InspectDistribution, Login
from orlop.dockerd.images.remove import RemoveImage
from orlop.dockerd.images.remove_platforms import RemovePlatforms
from orlop.dockerd.images.save import SaveImages
from orlop.dockerd.images.search import SearchImages
from orlop.dockerd.images.sizes import LayerSizes
from orlop.dockerd.images.store import ImageStore
from orlop.dockerd.images.tag import TagImage
from orlop.registry import RegistryConfig


class ImageService:
    """Every use case of images as an attribute; `store` finds images for the rest of the daemon.

    The owner runs `store.watch()` as a task for as long as the daemon lives.
    """

    def __init__(
        self,
        client: Client,
        *,
        snapshotter: str = "overlayfs",
        uses: ContainerUses = no_containers,
        publish: PublishImageEvent = no_events,
        commit_source: FindCommitSource = no_sources,
        registries: RegistryConfig | None = None,
        max_concurrent_downloads: int = 3,
        max_concurrent_uploads: int = 5,
    ) -> None:
        """`client` is in the daemon's namespace of containerd."""
        registries = registries or RegistryConfig()
        self._puller = puller = Puller(client, registries, slots=max_concurrent_downloads)
        self.store = ImageStore(client, snapshotter)
        self.sizes = LayerSizes(self.store)
        self.pull = PullImage(self.store, puller, publish)
        self.push = PushImage(self.store, registries, publish, max_concurrent_uploads)
        self.list = ListImages(self.store, self.sizes, uses)
        self.inspect = InspectImage(self.store, self.sizes)
        self.manifests = ImageManifests(self.store, self.sizes, uses)
        self.history = ImageHistory(self.store, self.sizes)
        self.tag = TagImage(self.store, publish)
        self.remove = RemoveImage(self.store, uses, publish)
        self.remove_platforms = RemovePlatforms(self.store, uses, publish, self.remove)
        self.prune = PruneImages(self.store, self.sizes, uses, self.remove)
        self.load = LoadImages(self.store, publish)
        self.save = SaveImages(self.store, publish)
        self.import_ = ImportImage(self.store, publish)
        self.commit = CommitContainer(self.store, commit_source, publish)
        self.distribution = InspectDistribution(registries)
        self.login = Login(registries)
        self.search = SearchImages(registries)

    def set_slots(self, downloads: int, uploads: int) -> None:
        """Change how many layers are transferred at a time; what is under way is not touched."""
        self._puller.set_slots(downloads)
        self.push.slots = uploads
