# SPDX-License-Identifier: Apache-2.0
"""Docker's defaults for what the user left open in a HostConfig."""

import msgspec

from orlop.dockerd.spec.host import Host
from orlop.engine.types import HostConfig
from orlop.oci.defaults import READONLY_PATHS, masked_paths

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
    config: HostConfig = msgspec.structs.replace(host_config)
    if config.memory > 0 and config.memory_swap == 0:
        config.memory_swap = 2 * config.memory
    config.shm_size = config.shm_size or shm_size
    if not config.restart_policy.name:
        config.restart_policy = msgspec.structs.replace(config.restart_policy, name="no")
    config.ipc_mode = config.ipc_mode or ipc_mode
    if not config.cgroupns_mode:
        if config.privileged and not host.cgroup_v2:
            config.cgroupns_mode = "host"
        else:
            config.cgroupns_mode = cgroupns_mode or ("private" if host.cgroup_v2 else "host")
    if _shares_with_host(config) and "label=disable" not in (config.security_opt or []):
        config.security_opt = [*(config.security_opt or []), "label=disable"]
    if config.oom_kill_disable is None and host.oom_kill_disable:
        config.oom_kill_disable = False
    if config.pids_limit is not None and config.pids_limit <= 0:
        config.pids_limit = None
    if not config.privileged:
        if config.masked_paths is None:
            config.masked_paths = masked_paths(host.throttled_cpus)
        if config.readonly_paths is None:
            config.readonly_paths = list(READONLY_PATHS)
    return config


def _shares_with_host(config: HostConfig) -> bool:
    """Whether SELinux labels would keep the container from what it was given of the host."""
    return config.privileged or "host" in (config.ipc_mode, config.pid_mode)
