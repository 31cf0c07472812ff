# SPDX-License-Identifier: Apache-2.0
"""Volumes of the local driver that mount something: options type, o and device."""

import os
import socket
from collections.abc import Mapping

from orlop.errdefs import InternalError, InvalidArgumentError
from orlop.unix import mount
from orlop.unix.tables import rows, unescape

_OPTIONS = ("type", "o", "device", "size")
_REQUIRES = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_FLAGS = {
    "ro": mount.MS_RDONLY,
    "nosuid": mount.MS_NOSUID,
    "nodev": mount.MS_NODEV,
    "noexec": mount.MS_NOEXEC,
    "sync": mount.MS_SYNCHRONOUS,
    "dirsync": mount.MS_DIRSYNC,
    "noatime": mount.MS_NOATIME,
    "nodiratime": mount.MS_NODIRATIME,
    "relatime": mount.MS_RELATIME,
    "strictatime": mount.MS_STRICTATIME,
    "bind": mount.MS_BIND,
    "rbind": mount.MS_BIND | mount.MS_REC,
}
_NO_FLAGS = frozenset(("defaults", "rw", "suid", "dev", "exec", "async", "atime", "diratime", ""))
_PROPAGATION = {
    prefix + name: flag | recursive
    for name, flag in mount.PROPAGATION.items()
    for prefix, recursive in (("", 0), ("r", mount.MS_REC))
}


def check_options(options: Mapping[str, str]) -> None:
    """Raises InvalidArgumentError `invalid option: "x"` or `missing required option: "x"`."""
    for option in options:
        if option not in _OPTIONS:
            raise InvalidArgumentError(f'invalid option: "{option}"')
    if options.get("size"):
        raise InvalidArgumentError("quota size requested but no quota support")
    for option, required in _REQUIRES.items():
        for other in required:
            if option in options and other not in options:
                raise InvalidArgumentError(f'missing required option: "{other}"')


def needs_mount(options: Mapping[str, str]) -> bool:
    """Whether the volume's content is something that has to be mounted."""
    return bool(options.get("device") or options.get("type"))


def mount_volume(options: Mapping[str, str], target: str) -> None:
    """Mount what the options name at the volume's directory. Raises InternalError with the kernel's reason."""
    kind, device = options.get("type", ""), options.get("device", "")
    words = options.get("o", "").split(",")
    if kind in ("nfs", "nfs4", "cifs"):
        words = [_with_address(word) for word in words]
    flags = propagation = 0
    data = []
    for word in words:
        if word in _PROPAGATION:
            propagation = _PROPAGATION[word]
        elif word in _FLAGS:
            flags |= _FLAGS[word]
        elif word not in _NO_FLAGS:
            data.append(word)
    try:
        _mount(device, target, kind, flags, ",".join(data))
        if propagation:
            mount.mount("", target, "", propagation)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        shown = ",".join("password=********" if word.startswith("password=") else word for word in data)
        suffix = f", data: {shown}" if shown else ""
        raise InternalError(
            f"failed to mount local volume: mount {device}:{target}, flags: 0x{flags:x}{suffix}: {reason}"
        ) from None


def _mount(device: str, target: str, kind: str, flags: int, data: str) -> None:
    mount.mount(device, target, kind, flags, data)
    if flags & mount.MS_BIND and flags & ~(mount.MS_BIND | mount.MS_REC):
        # A bind takes the other flags only when it is mounted anew.
        try:
            mount.mount("", target, "", flags & ~mount.MS_REC | mount.MS_REMOUNT, data)
        except OSError:
            unmount_volume(target)
            raise


def unmount_volume(target: str) -> None:
    """Undo `mount_volume`; nothing to do where nothing is mounted."""
    if is_mounted(target):
        mount.umount2(target, mount.UMOUNT_NOFOLLOW)


def is_mounted(target: str) -> bool:
    """Whether something is mounted at a directory of ours."""
    return any(unescape(line.split(" ", 5)[4]) == target for line in rows("/proc/self/mountinfo"))


def _with_address(word: str) -> str:
    """`addr=name` with the name resolved: the kernel knows addresses only."""
    if not word.startswith("addr="):
        return word
    name = word.removeprefix("addr=")
    try:
        return f"addr={socket.getaddrinfo(name, None)[0][4][0]}"
    except OSError as error:
        raise InternalError(f"error resolving passed in network volume address: {name}: {error}") from None
