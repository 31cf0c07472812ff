# SPDX-License-Identifier: Apache-2.0
"""mounts add and mounts remove: changes to what a running container sees."""

from orlop.codec import decode
from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import Container
from orlop.libcontainer.journal import set_warning_sink
from orlop.oci.runtime import Mount
from orlop.runc.common import read_document
from orlop.runc.main import Call


def mounts(call: Call) -> int:
    """Add the mounts in a file, or take them off again."""
    set_warning_sink(call.log.warning)
    action, container_id, path = call.arguments
    if action not in ("add", "remove"):
        raise InvalidArgumentError(f'mounts {action}: expected "add" or "remove"')
    entries = decode(read_document(path), list[Mount])
    container = Container.load(call.root, container_id)
    if action == "add":
        container.add_mounts(entries)
    else:
        container.remove_mounts(entries)
    return 0
