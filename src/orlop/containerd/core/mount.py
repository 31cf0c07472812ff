# SPDX-License-Identifier: Apache-2.0
"""The value in which file systems travel: what to mount, as mount(8) would be told."""

from collections.abc import Iterable
from typing import NamedTuple

from orlop.api import types_pb2
from orlop.errdefs import InvalidArgumentError


class Mount(NamedTuple):
    """One mount: file system type (`bind` and `overlay` here), source and options. Targets are the caller's."""

    type: str
    source: str
    options: tuple[str, ...] = ()
    target: str = ""

    def option(self, name: str) -> str | None:
        """The value of the option `name=value`; None when it is not there. The last one counts."""
        found = None
        for option in self.options:
            key, equals, value = option.partition("=")
            if equals and key == name:
                found = value
        return found


def to_proto(mounts: Iterable[Mount]) -> list[types_pb2.Mount]:
    """Mounts as messages of the API."""
    return [
        types_pb2.Mount(type=mount.type, source=mount.source, target=mount.target, options=mount.options)
        for mount in mounts
    ]


def from_proto(messages: Iterable[types_pb2.Mount]) -> list[Mount]:
    """Mounts from messages of the API; raises InvalidArgumentError for one without a type."""
    mounts = []
    for number, message in enumerate(messages):
        if not message.type:
            raise InvalidArgumentError(f"mounts[{number}].type must be set")
        mounts.append(Mount(message.type, message.source, tuple(message.options), message.target))
    return mounts
