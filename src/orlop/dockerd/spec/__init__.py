# SPDX-License-Identifier: Apache-2.0
"""From a container's configuration to its OCI specification, by pure functions.

How dockerd uses it, in order:

    warnings = validate(config, host_config, host)             # at create and update; raises with Docker's text
    host_config = apply_defaults(host_config, host)            # at create, stored
    mounts = resolve_mounts(config, host_config, volumes_from) # at create, stored
    mounts = [volumes.resolve(point, container_id) for point in mounts]
    with rootfs.opened(snapshot_mounts) as root:               # at start
        user = rootfs.resolve_user(root, config.user, host_config.group_add)
    spec = build_spec(SpecRequest(...))                        # at start

`host = Host.probe()` is read once a daemon.
"""

from orlop.dockerd.spec.build import build_spec, command_line, find_init, resources_of
from orlop.dockerd.spec.defaults import apply_defaults
from orlop.dockerd.spec.host import Host
from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.dockerd.spec.mounts import resolve_mounts
from orlop.dockerd.spec.request import SpecRequest
from orlop.dockerd.spec.validate import validate

__all__ = [
    "Host",
    "MountPoint",
    "SpecRequest",
    "apply_defaults",
    "build_spec",
    "command_line",
    "find_init",
    "resolve_mounts",
    "resources_of",
    "validate",
]
