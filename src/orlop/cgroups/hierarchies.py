# SPDX-License-Identifier: Apache-2.0
"""Where control group file systems are mounted, and which directory there belongs to a container."""

import os

from orlop.errdefs import FailedPreconditionError, InvalidArgumentError
from orlop.unix.tables import rows, unescape

Mount = tuple[tuple[str, ...], str, str]
"""Controllers (none for version 2; a named hierarchy as `name=systemd`), mount point, root in the hierarchy."""

_OPTIONS = frozenset(("rw", "ro", "xattr", "noprefix", "clone_children", "favordynmods", "cpuset_v2_mode"))

_found: list[Mount] = []


def mounts() -> list[Mount]:
    """The mounted hierarchies, each once, read once a process (a warm zygote's children inherit them).

    Raises FailedPreconditionError where there are none.
    """
    if not _found:
        _found.extend(parse_mountinfo(rows("/proc/self/mountinfo")))
    if not _found:
        raise FailedPreconditionError("no control group file system is mounted (see cgroups(7))")
    return _found


def mode() -> str:
    """v1, v2, or hybrid (version 1 controllers beside a version 2 hierarchy)."""
    versions = {not controllers for controllers, _, _ in mounts()}
    if versions == {True}:
        return "v2"
    return "hybrid" if versions == {True, False} else "v1"


def parse_mountinfo(table: list[str]) -> list[Mount]:
    """The hierarchies in the rows of /proc/<pid>/mountinfo (proc(5)), the first mount point of each."""
    found: list[Mount] = []
    seen: set[tuple[str, ...]] = set()
    for line in table:
        if " - cgroup" not in line:
            continue
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(" "), after.split(" ", 2)
        controllers: tuple[str, ...] = ()
        if kind == "cgroup":
            names = (name for name in options.split(",") if name not in _OPTIONS)
            controllers = tuple(name for name in names if not name.startswith("release_agent="))
        elif kind != "cgroup2":
            continue
        if controllers not in seen:
            seen.add(controllers)
            found.append((controllers, unescape(fields[4]), unescape(fields[3])))
    return found


def container_paths(cgroups_path: str, unified: bool) -> dict[str, str]:
    """The directory of a container for each controller (`{"": path}` on version 2).

    An absolute `cgroups_path` starts at the mount point, another one at this process's own group; `..` leads
    nowhere above either. Raises InvalidArgumentError for an empty path.
    """
    if not cgroups_path or "\0" in cgroups_path:
        raise InvalidArgumentError(f"cgroupsPath {cgroups_path!r} must name a group")
    inner = os.path.normpath("/" + cgroups_path).lstrip("/")
    if not inner:
        raise InvalidArgumentError(f"cgroupsPath {cgroups_path!r} must not be the root")
    own = {} if cgroups_path.startswith("/") else own_groups()
    paths: dict[str, str] = {}
    for controllers, mountpoint, root in mounts():
        if unified == bool(controllers):
            continue
        base = mountpoint
        if own:
            inside = os.path.relpath(own[controllers[0] if controllers else ""], root)
            base = os.path.normpath(os.path.join(mountpoint, "" if inside.startswith("..") else inside))
        for controller in controllers or ("",):
            paths[controller] = f"{base}/{inner}"
    return paths


def mountpoint_of(path: str) -> str:
    """The mount point of the hierarchy that a container's directory is in."""
    return max(
        (mountpoint for _, mountpoint, _ in mounts() if path.startswith(mountpoint + "/")), key=len, default="/"
    )


def own_groups() -> dict[str, str]:
    """The group of this process in each hierarchy, by controller ("" for version 2)."""
    own: dict[str, str] = {}
    for line in rows("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    return own
