# SPDX-License-Identifier: Apache-2.0
"""From -v, --mount, --volumes-from and an image's VOLUMEs to the list of a container's mount points."""

import os
import posixpath
from collections.abc import Mapping

import msgspec

from orlop.dockerd.spec.mountowner import HIGHEST_ID, owner_in_mode
from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.dockerd.spec.tmpfs import tmpfs_data
from orlop.engine.types import (
    BindOptions,
    ContainerConfig,
    HostConfig,
    Mount,
    VolumeDriverConfig,
    VolumeOptions,
)
from orlop.errdefs import InvalidArgumentError, NotFoundError

PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_DEFAULT_PROPAGATION = "rprivate"
_MODES = (("rw", "ro"), ("z", "Z"), PROPAGATIONS, ("nocopy",), ("consistent", "cached", "delegated"))


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
    points: dict[str, MountPoint] = {}
    for text in host_config.volumes_from or []:
        for point in _inherited(text, volumes_from or {}):
            points[point.destination] = point
    asked = _asked_for(host_config)
    for point in asked:
        points[point.destination] = point
    for target in config.volumes:
        destination = posixpath.normpath("/" + target.lstrip("/"))  # an image may say anything
        if destination not in points and destination not in host_config.tmpfs:
            points[destination] = _anonymous(destination, host_config.volume_driver)
    for point in asked:
        create_source(point)
    return sorted(points.values(), key=lambda point: point.destination)


def parse_bind(raw: str, volume_driver: str = "") -> MountPoint:
    """`[source:]destination[:mode]` of -v. Raises InvalidArgumentError `invalid volume specification: '…'`."""
    fields = raw.split(":", 3)
    invalid = InvalidArgumentError(f"invalid volume specification: '{raw}'")
    if not fields[0] or len(fields) > 3 or (len(fields) == 2 and _valid_mode(fields[1])):
        raise invalid
    source, target = ("", fields[0]) if len(fields) == 1 else (fields[0], fields[1])
    mode = fields[2] if len(fields) == 3 else ""
    if not _valid_mode(mode):
        raise InvalidArgumentError(f"invalid mode: {mode}")
    owner = owner_in_mode(mode)
    kind = "bind" if source.startswith("/") else "volume"
    mount = Mount(type=kind, source=source, target=target, read_only="ro" in mode.split(","), owner=owner)
    if kind == "volume" and volume_driver:
        mount.volume_options = VolumeOptions(driver_config=VolumeDriverConfig(name=volume_driver))
    if "nocopy" in mode.split(","):
        mount.volume_options = mount.volume_options or VolumeOptions()
        mount.volume_options.no_copy = True
    if propagation := next((word for word in mode.split(",") if word in PROPAGATIONS), ""):
        mount.bind_options = BindOptions(propagation=propagation)
    try:
        point = parse_mount(mount, check_source=False)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{invalid}: {error}") from None
    point.mode = mode
    point.create_source = kind == "bind"
    return point


def parse_mount(mount: Mount, check_source: bool = True) -> MountPoint:
    """One --mount. Raises InvalidArgumentError `invalid mount config for type "…": …`."""
    check_mount(mount, check_source)
    point = MountPoint(
        type=mount.type,
        destination=posixpath.normpath(mount.target),
        rw=not mount.read_only,
        spec=mount,
    )
    if mount.type == "volume":
        options = mount.volume_options or VolumeOptions()
        point.name = mount.source
        point.anonymous = not mount.source
        point.driver = options.driver_config.name if options.driver_config else ""
        point.copy_data = not options.no_copy and mount.owner is None  # a copy would keep the image's ids
    elif mount.type == "bind":
        options_of_bind = mount.bind_options or BindOptions()
        point.source = posixpath.normpath(mount.source)
        point.propagation = options_of_bind.propagation or _DEFAULT_PROPAGATION
        point.create_source = options_of_bind.create_mountpoint
    elif mount.type == "image":
        point.source, point.rw, point.propagation = mount.source, False, _DEFAULT_PROPAGATION
    return point


def check_mount(mount: Mount, check_source: bool = True) -> None:
    """Refuse a mount that cannot be made. Raises InvalidArgumentError `invalid mount config for type "…": …`."""
    reason = _mount_error(mount, check_source)
    if reason:
        raise InvalidArgumentError(f'invalid mount config for type "{mount.type}": {reason}')


def _mount_error(mount: Mount, check_source: bool) -> str:
    if mount.owner is not None:
        if mount.type not in ("bind", "volume"):
            return "field Owner must not be specified"
        if not all(0 <= number <= HIGHEST_ID for number in (mount.owner.uid, mount.owner.gid)):
            return f"field Owner: UID and GID must lie between 0 and {HIGHEST_ID}"
    exclusive = (
        ("bind", "BindOptions", mount.bind_options),
        ("volume", "VolumeOptions", mount.volume_options),
        ("image", "ImageOptions", mount.image_options),
        ("tmpfs", "TmpfsOptions", mount.tmpfs_options),
    )
    for kind, field, options in exclusive:
        if options is not None and mount.type != kind:
            return f"field {field} must not be specified"
    if not mount.target:
        return "field Target must not be empty"
    if posixpath.normpath(mount.target) in ("/", "//"):
        return "invalid specification: destination can't be '/'"
    if not mount.target.startswith("/"):
        return f"invalid mount path: '{mount.target}' mount path must be absolute"
    if "\0" in mount.target or "\0" in mount.source:
        return "paths must not contain a null byte"
    return _typed_error(mount, check_source)


def _typed_error(mount: Mount, check_source: bool) -> str:
    if mount.type == "bind":
        return _bind_error(mount, check_source)
    if mount.type == "volume":
        subpath = mount.volume_options.subpath if mount.volume_options else ""
        if subpath and not mount.source:
            return "must not set Subpath when using anonymous volumes"
        return _subpath_error(subpath)
    if mount.type == "tmpfs":
        if mount.source:
            return "field Source must not be specified"
        try:
            tmpfs_data(mount.tmpfs_options, mount.read_only)
        except InvalidArgumentError as error:
            return str(error)
        return ""
    if mount.type == "image":
        if not mount.source:
            return "field Source must not be empty"
        return _subpath_error(mount.image_options.subpath if mount.image_options else "")
    return "mount type unknown"


def _bind_error(mount: Mount, check_source: bool) -> str:
    options = mount.bind_options or BindOptions()
    if not mount.source:
        return "field Source must not be empty"
    if options.propagation and options.propagation not in PROPAGATIONS:
        return f"invalid propagation mode: {options.propagation}"
    if not mount.source.startswith("/"):
        return f"invalid mount path: '{mount.source}' mount path must be absolute"
    if check_source and not options.create_mountpoint and not os.path.exists(mount.source):
        return f"bind source path does not exist: {mount.source}"
    return ""


def _subpath_error(subpath: str) -> str:
    if subpath and (subpath.startswith("/") or posixpath.normpath(subpath).split("/")[0] == ".."):
        return "subpath must be a relative path within the volume"
    return ""


def _valid_mode(mode: str) -> bool:
    if not mode:
        return True
    words = [word for word in mode.split(",") if not word.startswith(("uid=", "gid="))]
    counts = [sum(word in group for word in words) for group in _MODES]
    return sum(counts) == len(words) and max(counts) <= 1


def _asked_for(host_config: HostConfig) -> list[MountPoint]:
    """The user's own mounts; none in the place of another."""
    points = [parse_bind(raw, host_config.volume_driver) for raw in host_config.binds or []]
    taken: set[str] = set()
    for point in points:
        if point.destination in taken or point.destination in host_config.tmpfs:
            raise InvalidArgumentError(f"Duplicate mount point: {point.destination}")
        taken.add(point.destination)
    for mount in host_config.mounts:
        point = parse_mount(mount)
        if point.destination in taken:
            raise InvalidArgumentError(f"Duplicate mount point: {mount.target}")
        taken.add(point.destination)
        points.append(point)
    return points


def _inherited(text: str, known: Mapping[str, list[MountPoint]]) -> list[MountPoint]:
    name, mode = parse_volumes_from(text)
    if name not in known:
        raise NotFoundError(f"No such container: {name}")
    writable = "ro" not in mode.split(",")
    return [
        msgspec.structs.replace(point, rw=point.rw and writable, copy_data=False, create_source=False)
        for point in known[name]
    ]


def parse_volumes_from(text: str) -> tuple[str, str]:
    """Container and mode of --volumes-from. Raises InvalidArgumentError."""
    if not text:
        raise InvalidArgumentError("volumes-from specification cannot be an empty string")
    name, _, mode = text.partition(":")
    words = mode.split(",")
    if not _valid_mode(mode) or "nocopy" in words or any(word in PROPAGATIONS or "=" in word for word in words):
        raise InvalidArgumentError(f"invalid mode: {mode}")
    return name, mode or "rw"


def _anonymous(destination: str, driver: str) -> MountPoint:
    return MountPoint(
        type="volume",
        destination=destination,
        driver=driver,
        anonymous=True,
        copy_data=True,
        spec=Mount(type="volume", target=destination),
    )


def create_source(point: MountPoint) -> None:
    """Make the directory of a bind that wants that. Raises InvalidArgumentError."""
    if point.create_source and not os.path.exists(point.source):
        try:
            os.makedirs(point.source, mode=0o755, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise InvalidArgumentError(
                f"error while creating mount source path '{point.source}': mkdir {error.filename}: {reason}"
            ) from None
