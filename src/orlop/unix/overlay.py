# SPDX-License-Identifier: Apache-2.0
"""Overlay mounts on kernels before 6.5, which take their layers only as one option.

fsconfig(2) cuts an option at 255 bytes, so the layers are given as short paths of descriptors; more than fit are
mounted by mount(2), whose limit is a page, in a mount namespace that lasts as long as the call.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack

from orlop.unix import mount as mnt
from orlop.unix._libc import NR, syscall

_MAX_OPTION = 255  # bytes
_CLONE_NEWNS = 0x20000
_DIRECTORIES = ("upperdir", "workdir")


def layers_one_by_one() -> bool:
    """Whether this kernel has `lowerdir+` (Linux 6.5)."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor[:3])) or "0")) >= (6, 5)


def detached_overlay(layers: list[str], data: list[str]) -> int:
    """A detached overlay of `layers`, the topmost first; `data` holds all options but lowerdir. Raises OSError."""
    long_paths = any(len(os.fsencode(option)) > _MAX_OPTION for option in data)
    lower = ":".join(_escape(layer) for layer in layers)
    if len(os.fsencode(lower)) <= _MAX_OPTION and not long_paths:
        return _configured([f"lowerdir={lower}", *data])
    with ExitStack() as stack:
        short = [_short(stack, layer) for layer in layers]
        if len(":".join(short)) <= _MAX_OPTION:
            return _configured([f"lowerdir={':'.join(short)}", *_shortened(stack, data)])
    return _mounted_aside(layers, data)


def configure(context: int, options: Sequence[str]) -> None:
    """Give a context of fsopen(2) its options, `key=value` or `flag`, and create the file system; OSError."""
    for option in options:
        key, separator, value = option.partition("=")
        if separator:
            mnt.fsconfig(context, mnt.FSCONFIG_SET_STRING, key, value)
        else:
            mnt.fsconfig(context, mnt.FSCONFIG_SET_FLAG, key)
    mnt.fsconfig(context, mnt.FSCONFIG_CMD_CREATE)


def _configured(options: list[str]) -> int:
    context = mnt.fsopen("overlay")
    try:
        configure(context, options)
        return mnt.fsmount(context)
    finally:
        os.close(context)


def _mounted_aside(layers: list[str], data: list[str]) -> int:
    """In a thread, for its mount namespace must not be that of the process."""
    import threading

    result: list[int | OSError] = []

    def work() -> None:
        try:
            result.append(_mount_in_namespace(layers, data))
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=work, name="overlay")
    thread.start()
    thread.join()
    (outcome,) = result
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


def _mount_in_namespace(layers: list[str], data: list[str]) -> int:
    syscall(NR["unshare"], _CLONE_NEWNS)
    mnt.mount("", "/", "", mnt.MS_REC | mnt.MS_PRIVATE)
    with ExitStack() as stack:
        # Opened here: the kernel takes layers only from mounts of the caller's namespace.
        short = [_short(stack, layer) for layer in layers]
        options = ",".join([f"lowerdir={':'.join(short)}", *_shortened(stack, data)])
        target = layers[0]  # any directory will do: nobody else sees this
        mnt.mount("overlay", target, "overlay", 0, options)
        return mnt.open_tree(mnt.AT_FDCWD, target, mnt.OPEN_TREE_CLONE)


def _short(stack: ExitStack, path: str) -> str:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def _shortened(stack: ExitStack, data: list[str]) -> list[str]:
    shortened = []
    for option in data:
        key, _, value = option.partition("=")
        shortened.append(f"{key}={_short(stack, value)}" if key in _DIRECTORIES else option)
    return shortened


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:")
