# SPDX-License-Identifier: Apache-2.0
"""Options of tmpfs mounts: checked, merged, and written as mount(8) has them."""

from collections.abc import Sequence

from orlop.engine.types import TmpfsOptions
from orlop.errdefs import InvalidArgumentError

# Flags of mount(2) by the bit that they set or clear: of those with one key the last one counts.
_FLAGS = {
    flag: group[-1]
    for group in (
        ("rw", "ro"), ("suid", "nosuid"), ("dev", "nodev"), ("exec", "noexec"), ("async", "sync"),
        ("nodirsync", "dirsync"), ("nomand", "mand"), ("atime", "noatime"), ("diratime", "nodiratime"),
        ("norelatime", "relatime"), ("nostrictatime", "strictatime"), ("bind", "rbind"), ("remount",),
        ("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"),
    )
    for flag in group
}  # fmt: skip
_DATA = frozenset(("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"))


def merge_tmpfs_options(options: Sequence[str]) -> list[str]:
    """Of options that contradict each other the last. Raises InvalidArgumentError `invalid tmpfs option "x"`."""
    merged: dict[str, str] = {}
    for option in reversed(options):
        if option == "defaults":
            continue
        key = _FLAGS.get(option)
        if key is None:
            key, equals, _ = option.partition("=")
            if not equals or key not in _DATA:
                raise InvalidArgumentError(f'invalid tmpfs option "{key}"')
        merged.setdefault(key, option)
    return list(reversed(merged.values()))


def tmpfs_data(options: TmpfsOptions | None, read_only: bool) -> str:
    """The options of --mount type=tmpfs as one string. Raises InvalidArgumentError."""
    parts = ["ro"] if read_only else []
    if options is None:
        return ",".join(parts)
    if options.mode:
        parts.append(f"mode={options.mode:o}")
    if options.size_bytes:
        parts.append(f"size={_size(options.size_bytes)}")
    for option in options.options:
        if not 1 <= len(option) <= 2:
            raise InvalidArgumentError("invalid option array length")
        if option[0] not in ("exec", "noexec"):
            raise InvalidArgumentError(f"invalid option: {option[0]}")
        parts.append("=".join(option))
    return ",".join(parts)


def _size(size: int) -> str:
    for suffix, factor in (("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor}{suffix}"
    return str(size)
