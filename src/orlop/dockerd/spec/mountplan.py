# SPDX-License-Identifier: Apache-2.0
"""The mounts of a container's specification, in the order in which the runtime makes them."""

import posixpath

from orlop.dockerd.spec.mountowner import give_owner
from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.dockerd.spec.request import SpecRequest
from orlop.dockerd.spec.tmpfs import merge_tmpfs_options, tmpfs_data
from orlop.engine.types import BindOptions
from orlop.errdefs import InvalidArgumentError, NotImplementedByUsError
from orlop.oci.defaults import docker_mounts
from orlop.oci.runtime import Mount
from orlop.unix.tables import rows, unescape

_DEFAULT_PROPAGATION = "rprivate"
_NEVER_READONLY = ("/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev")
_SHARED, _SLAVE = ("shared", "rshared"), ("slave", "rslave")


def container_mounts(request: SpecRequest, writable_cgroups: bool) -> list[Mount]:
    """Docker's default mounts where the user has none in their place, then the user's, outer ones first."""
    users = _user_mounts(request)
    taken = {mount.destination for mount in users}
    mounts = [mount for mount in _default_mounts(request) if not _replaced(mount.destination, taken)]
    mounts += users
    config = request.host_config
    for mount in mounts:
        if (
            config.readonly_rootfs
            and mount.destination not in (*_NEVER_READONLY, *taken)
            and "ro" not in mount.options
        ):
            mount.options = [*mount.options, "ro"]
        if (config.privileged and mount.destination == "/sys") or (writable_cgroups and mount.type == "cgroup"):
            mount.options = [option for option in mount.options if option != "ro"]
    return mounts


def rootfs_propagation(points: list[MountPoint]) -> str:
    """What shared and slave binds need of the mount they appear in.

    Raises InvalidArgumentError where the source's own mount does not propagate that way.
    """
    chosen = ""
    for point in points:
        if point.propagation in _SHARED:
            _require_propagation(point.source, ("shared:",), "shared mount")
            chosen = "shared"
        elif point.propagation in _SLAVE:
            _require_propagation(point.source, ("shared:", "master:"), "shared or slave mount")
            chosen = chosen or "rslave"
    return chosen


def _default_mounts(request: SpecRequest) -> list[Mount]:
    mounts = docker_mounts()
    for mount in mounts:
        if mount.destination == "/dev/shm":
            mount.options = [*mount.options, f"size={request.host_config.shm_size}"]
    if request.host_config.ipc_mode == "none":
        mounts = [mount for mount in mounts if mount.destination != "/dev/shm"]
    return mounts


def _replaced(destination: str, taken: set[str]) -> bool:
    return destination in taken or ("/dev" in taken and destination.startswith("/dev/"))


def _user_mounts(request: SpecRequest) -> list[Mount]:
    points = request.mounts
    mounts = [_tmpfs(destination, data) for destination, data in sorted(request.host_config.tmpfs.items())]
    for point in points:
        if point.type == "tmpfs":
            options = point.spec.tmpfs_options if point.spec else None
            mounts.append(_tmpfs(point.destination, tmpfs_data(options, not point.rw)))
        else:
            mounts.append(_bind(request, point))
    mounts += _own_files(request, {point.destination for point in points})
    # Outer before inner, so that none is hidden; the order is stable otherwise.
    return sorted(mounts, key=lambda mount: posixpath.normpath(mount.destination).count("/"))


def _own_files(request: SpecRequest, taken: set[str]) -> list[Mount]:
    """What dockerd keeps for the container: three files in /etc, and /dev/shm where it is shared."""
    writable = "ro" if request.host_config.readonly_rootfs else ""
    files = (
        ("/etc/resolv.conf", request.resolv_conf_path, writable),
        ("/etc/hostname", request.hostname_path, writable),
        ("/etc/hosts", request.hosts_path, writable),
        ("/dev/shm", request.shm_path, ""),
    )
    return [
        Mount(
            destination=destination,
            type="bind",
            source=source,
            options=[option for option in ("rbind", access, _DEFAULT_PROPAGATION) if option],
        )
        for destination, source, access in files
        if source and destination not in taken
    ]


def _tmpfs(destination: str, data: str) -> Mount:
    options = ["noexec", "nosuid", "nodev", _DEFAULT_PROPAGATION, *(data.split(",") if data else [])]
    return Mount(destination=destination, type="tmpfs", source="tmpfs", options=merge_tmpfs_options(options))


def _bind(request: SpecRequest, point: MountPoint) -> Mount:
    wanted = (point.spec.bind_options if point.spec else None) or BindOptions()
    if not point.source.startswith("/"):
        raise NotImplementedByUsError(f"mount of type {point.type} at {point.destination} is not supported yet")
    options = ["bind" if wanted.non_recursive else "rbind"]
    if not point.rw:
        if wanted.read_only_non_recursive and wanted.read_only_force_recursive:
            raise InvalidArgumentError("mount options conflict: ReadOnlyNonRecursive && ReadOnlyForceRecursive")
        if wanted.read_only_force_recursive and not request.host.recursive_readonly:
            raise InvalidArgumentError("recursively read-only mounts need Linux 5.12 or newer")
        recursive = request.host.recursive_readonly and not wanted.read_only_non_recursive
        options.append("rro" if recursive else "ro")
    if point.propagation:
        options.append(point.propagation)
    mount = Mount(destination=point.destination, type="bind", source=point.source, options=options)
    if point.spec is not None and point.spec.owner is not None:
        give_owner(mount, point.spec.owner, request.user)
    return mount


def _require_propagation(path: str, kinds: tuple[str, ...], name: str) -> None:
    """Refuse a bind whose source lies on a mount without the kinds of propagation (proc(5), optional fields)."""
    resolved = posixpath.realpath(path)
    best, optional = "", ""
    for line in rows("/proc/self/mountinfo"):
        fields = line.partition(" - ")[0].split(" ")
        point = unescape(fields[4])
        if _inside(resolved, point) and len(point) >= len(best):
            best, optional = point, " ".join(fields[6:])
    if not any(field.startswith(kinds) for field in optional.split()):
        raise InvalidArgumentError(f"path {path} is mounted on {best} but it is not a {name}")


def _inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
