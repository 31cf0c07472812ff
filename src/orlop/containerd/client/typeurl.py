# SPDX-License-Identifier: Apache-2.0
"""What containerd puts into google.protobuf.Any: protobuf messages by bare name, OCI documents as JSON.

A protobuf message travels under its full name without the usual "type.googleapis.com/", as
`containerd.events.TaskExit`; an OCI document travels as JSON text under one of the names below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from orlop import codec
from orlop.errdefs import InvalidArgumentError

if TYPE_CHECKING:
    from google.protobuf.message import Message

_RUNTIME_SPEC = "types.containerd.io/opencontainers/runtime-spec/1/"
SPEC = _RUNTIME_SPEC + "Spec"
PROCESS = _RUNTIME_SPEC + "Process"
LINUX_RESOURCES = _RUNTIME_SPEC + "LinuxResources"
FEATURES = _RUNTIME_SPEC + "features/Features"

M = TypeVar("M", bound="Message")


def pack(message: Message) -> Any:
    """A protobuf message as containerd's Any."""
    if isinstance(message, Any):
        return message
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def pack_json(type_url: str, document: object) -> Any:
    """JSON text (bytes, kept as they are) or a msgspec value as an Any of that type URL (`SPEC`, `PROCESS` …)."""
    value = document if isinstance(document, bytes) else codec.encode(document)
    return Any(type_url=type_url, value=value)


def name(packed: Any) -> str:
    """The type's name, without "type.googleapis.com/" where a client wrote it."""
    return packed.type_url.removeprefix("type.googleapis.com/")


def unpack(packed: Any, to: type[M]) -> M:
    """The message inside an Any. Raises InvalidArgumentError when it holds another type or broken bytes."""
    expected = to.DESCRIPTOR.full_name
    if name(packed) != expected:
        raise InvalidArgumentError(f"expected a {expected}, got {packed.type_url or 'nothing'}")
    message = to()
    try:
        message.ParseFromString(packed.value)
    except DecodeError as error:
        raise InvalidArgumentError(f"malformed {expected}: {error}") from None
    return message


def decode(packed: Any) -> Message:
    """The message inside an Any, of any type whose module has been imported.

    Raises InvalidArgumentError for a name that no imported module defines, and for broken bytes.
    """
    from google.protobuf import descriptor_pool, message_factory

    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name(packed))
    except KeyError:
        raise InvalidArgumentError(f"unknown message type {packed.type_url!r}") from None
    message = message_factory.GetMessageClass(descriptor)()
    try:
        message.ParseFromString(packed.value)
    except DecodeError as error:
        raise InvalidArgumentError(f"malformed {packed.type_url}: {error}") from None
    return message
