# SPDX-License-Identifier: Apache-2.0
"""`--storage-opt size=`: how much a container may write into its own layer."""

from collections.abc import Mapping

from orlop.containerd.client import Client
from orlop.dockerd.config import parse_size
from orlop.errdefs import InvalidArgumentError, NotImplementedByUsError

_LABEL = "io.orlop.snapshot.size"  # what orlop-containerd's snapshotters understand
_CAPABILITY = "quota"


async def size_labels(client: Client, snapshotter: str, options: Mapping[str, str]) -> dict[str, str]:
    """The labels that the snapshot is to be made with.

    Raises InvalidArgumentError for options that there are not, NotImplementedByUsError where the file system, or a
    containerd that is not ours, keeps no quota: a limit that nobody watches would be worse than none.
    """
    unknown = sorted(options.keys() - {"size"})
    if unknown:
        raise InvalidArgumentError(f"unknown storage option {unknown[0]!r}: expected size")
    if "size" not in options:
        return {}
    size = parse_size(options["size"], "storage option size")
    if size <= 0:
        raise InvalidArgumentError(f"invalid storage option size: {options['size']!r} is no size")
    plugins = await client.system.plugins(f"type==io.containerd.snapshotter.v1,id=={snapshotter}")
    if not any(_CAPABILITY in plugin.capabilities for plugin in plugins):
        places = "ext4 mounted with 'prjquota' or XFS with 'pquota'"
        raise NotImplementedByUsError(f"--storage-opt size is supported only for overlayfs over {places}")
    return {_LABEL: str(size)}
