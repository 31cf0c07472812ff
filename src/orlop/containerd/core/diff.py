# SPDX-License-Identifier: Apache-2.0
"""Contract of the differ: layers to file systems, and back."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from google.protobuf.any_pb2 import Any

from orlop.containerd.core.mount import Mount
from orlop.containerd.core.namespaces import Scope

Payloads = Mapping[str, Any]


class Descriptor(NamedTuple):
    """A blob and what it is."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = {}


class Differ(Protocol):
    """Applies and makes layers.

    A layer is a tar stream, plain or compressed, in which `.wh.<name>` deletes a name of the layers below and
    `.wh..wh..opq` everything that they have in a directory (OCI image specification, layer.md). Both methods work
    in threads and leave the event loop free.
    """

    async def apply(
        self,
        scope: Scope,
        layer: Descriptor,
        mounts: Sequence[Mount],
        sync: bool = False,
        payloads: Payloads | None = None,
    ) -> Descriptor:
        """Unpack a layer onto the mounts; answers what the uncompressed layer is (its digest is the diffID).

        `sync` brings the file system to the disk before it returns. `payloads` are for stream processors, by their
        names. Raises NotFoundError for the content,
        NotImplementedByUsError for a media type that is no layer, InvalidArgumentError for a malformed layer,
        DataLossError when the content is not what its digest says, ResourceExhaustedError when the disk is full.
        """
        ...

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
        """Write the layer that turns `lower` into `upper` into the content store.

        `media_type` is an OCI or Docker layer type, by default tar+gzip; `ref` names the ingest; `epoch`
        (nanoseconds) is the latest modification time that the layer may show. Raises InvalidArgumentError for
        mounts that cannot be read, NotImplementedByUsError for another media type.
        """
        ...
