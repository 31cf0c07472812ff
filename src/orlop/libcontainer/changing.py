# SPDX-License-Identifier: Apache-2.0
"""Changing the limits of a container that exists."""

from typing import TYPE_CHECKING

import msgspec

from orlop.errdefs import FailedPreconditionError
from orlop.libcontainer import holdings
from orlop.oci.runtime import Resources

if TYPE_CHECKING:
    from orlop.libcontainer.handle import Handle


def update(container: "Handle", resources: Resources, l3_cache_schema: str, mem_bw_schema: str) -> None:
    """What `Handle.update` says, once it is known to run."""
    if l3_cache_schema or mem_bw_schema:
        resource_class = holdings.resource_class(container.record)
        if resource_class is None:
            raise FailedPreconditionError("the container has no linux.intelRdt to be changed")
        resource_class.update(l3_cache_schema, mem_bw_schema)
    container.manager().apply(resources)
    linux = container.record.spec.linux
    assert linux is not None
    linux.resources = _merged(linux.resources or Resources(), resources)
    container.keep()


def _merged(old: Resources, new: Resources) -> Resources:
    """`old` with what `new` says, property by property."""
    result = msgspec.to_builtins(old)
    for name, value in msgspec.to_builtins(new).items():
        if isinstance(value, dict):
            result[name] = {**result.get(name, {}), **value}
        else:
            result[name] = value
    return msgspec.convert(result, Resources)
