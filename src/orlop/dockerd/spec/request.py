# SPDX-License-Identifier: Apache-2.0
"""What `build_spec` needs to know: the user's configuration and everything that dockerd has resolved for it."""

import msgspec

from orlop.dockerd.spec.host import Host
from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.engine.types import ContainerConfig, HostConfig, Ulimit
from orlop.oci.runtime import User


class SpecRequest(msgspec.Struct, kw_only=True):
    """All paths are absolute host paths; an empty path means "no such thing".

    `config` is merged with the image's, `host_config` has been through `apply_defaults`.
    """

    id: str
    config: ContainerConfig
    host_config: HostConfig
    host: Host
    """From `Host.probe()`, once a daemon."""

    rootfs: str = "rootfs"
    """root.path: relative to the bundle, where containerd mounts the snapshot."""
    args: list[str]
    """Entrypoint and command, joined: see `command_line(config)`."""
    user: User = msgspec.field(default_factory=User)
    """From `orlop.dockerd.rootfs.resolve_user`."""

    mounts: list[MountPoint] = []
    """From `resolve_mounts`, each volume having gone through `VolumeService.resolve`."""
    hostname_path: str = ""
    hosts_path: str = ""
    resolv_conf_path: str = ""
    shm_path: str = ""
    """The tmpfs to bind at /dev/shm (shareable and container: IPC modes, or the host's /dev/shm); empty: the
    runtime mounts a fresh one of `host_config.shm_size` (private)."""

    network_namespace_path: str = ""
    """To join: a netns file that dockerd owns or /proc/<pid>/ns/net of a container; empty with network_mode host:
    no namespace; else a fresh one (network none)."""
    pid_namespace_path: str = ""
    """/proc/<pid>/ns/pid for `--pid container:`."""
    ipc_namespace_path: str = ""
    """/proc/<pid>/ns/ipc for `--ipc container:`."""

    cgroup_parent: str = "/docker"
    """The daemon's default; `host_config.cgroup_parent` wins."""
    systemd_cgroup: bool = False
    time_namespace: bool = False
    init_path: str = ""
    """docker-init on the host (`find_init()`); needed when `--init` is on."""
    default_init: bool = False
    default_ulimits: list[Ulimit] = []
    no_new_privileges: bool = False
    """The daemon's `no-new-privileges` default."""
    seccomp_profile: str = ""
    """The daemon's `seccomp-profile`: "" or "builtin", "unconfined", or the profile's JSON text."""
    link_env: list[str] = []
    """Environment variables of legacy links, put after PATH, HOSTNAME, TERM and before the user's."""
