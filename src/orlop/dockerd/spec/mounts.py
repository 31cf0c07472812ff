# SPDX-License-Identifier: Apache-2.0
"""From -v, --mount, --volumes-from and an image's VOLUMEs to the list of a container's mount points."""

from collections.abc import Mapping

from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.engine.types import ContainerConfig, HostConfig


def resolve_mounts(
    config: ContainerConfig,
    host_config: HostConfig,
    volumes_from: Mapping[str, list[MountPoint]] | None = None,
) -> list[MountPoint]:
    """All mount points of a container, one a destination.

    `volumes_from` maps the container's name in each `--volumes-from NAME[:MODE]` to its stored mount points
    (a missing key is "no such container"). Creates the missing source directories of -v binds. Raises
    InvalidArgumentError with Docker's texts, for instance `invalid mount config for type "bind": bind source path
    does not exist: /x` or `Duplicate mount point: /x`.
    """
    raise NotImplementedError
