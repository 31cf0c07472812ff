# SPDX-License-Identifier: Apache-2.0
"""What a container holds on the host besides its control groups, written down in its record before it is used.

A class of cache and memory bandwidth (linux.intelRdt), and, without a mount namespace of its own, mounts.
"""

import os

from orlop.libcontainer.intel_rdt import ResourceClass
from orlop.libcontainer.state import Record, write_record
from orlop.unix.mount import MNT_DETACH, mounts_on, umount2


def acquire(directory: str, record: Record) -> None:
    """Make the class, and note which mounts are not ours. Raises what `ResourceClass.create` does."""
    linux = record.spec.linux
    assert linux is not None
    if linux.intel_rdt is not None:
        made = ResourceClass(linux.intel_rdt, record.id)
        made.create()
        record.resctrl = made.path
    shares_mounts = all(namespace.type != "mount" for namespace in linux.namespaces)
    if shares_mounts:
        record.root_mounts = mounts_on(_root_of(record))
    if record.resctrl or shares_mounts:
        write_record(directory, record)


def release(record: Record) -> None:
    """Give back what `acquire` and the container's creation have taken."""
    found = resource_class(record)
    if found is not None:
        found.destroy()
    if record.root_mounts is not None:
        path = _root_of(record)
        while mounts_on(path) > record.root_mounts:
            umount2(path, MNT_DETACH)


def resource_class(record: Record) -> ResourceClass | None:
    """The class of the container, if it has one."""
    linux = record.spec.linux
    if not record.resctrl or linux is None or linux.intel_rdt is None:
        return None
    return ResourceClass(linux.intel_rdt, record.id, record.resctrl)


def _root_of(record: Record) -> str:
    root = record.spec.root
    assert root is not None
    return os.path.realpath(os.path.join(record.bundle, root.path))
