# SPDX-License-Identifier: Apache-2.0
"""Docker's defaults for what the user left open in a HostConfig."""

from orlop.dockerd.spec.host import Host
from orlop.engine.types import HostConfig

DEFAULT_SHM_SIZE = 64 << 20
"""Bytes."""


def apply_defaults(
    host_config: HostConfig,
    host: Host,
    *,
    shm_size: int = DEFAULT_SHM_SIZE,
    ipc_mode: str = "private",
    cgroupns_mode: str = "",
) -> HostConfig:
    """A copy with the open settings filled in (memory swap, shm size, IPC and cgroup namespace modes …).

    The keyword arguments are the daemon's settings `default-shm-size`, `default-ipc-mode` and
    `default-cgroupns-mode` ("": private on cgroup v2, else host).
    """
    raise NotImplementedError
