# SPDX-License-Identifier: Apache-2.0
"""The differ for tar layers: content store on one side, directories of mounts on the other."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from orlop.containerd.core.diff import Descriptor
from orlop.containerd.core.mount import Mount
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.metadata.content import MetadataContent
from orlop.errdefs import NotImplementedByUsError


class LayerDiffer:
    """Implements `orlop.containerd.core.diff.Differ`."""

    def __init__(self, content: MetadataContent, workers: ThreadPoolExecutor) -> None:
        self._content = content
        self._workers = workers

    async def apply(
        self, scope: Scope, layer: Descriptor, mounts: Sequence[Mount], sync: bool = False
    ) -> Descriptor:
        """Unpack a layer."""
        raise NotImplementedByUsError("diff.apply is being built")

    async def compare(
        self,
        scope: Scope,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        epoch: int | None = None,
    ) -> Descriptor:
        """Make a layer."""
        raise NotImplementedByUsError("diff.diff is being built")
