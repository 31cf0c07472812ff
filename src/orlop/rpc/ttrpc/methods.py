# SPDX-License-Identifier: Apache-2.0
"""The request and response types of a service's methods, and the messages that carry one call."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from orlop.api.ttrpc_pb2 import Request, Response
from orlop.errdefs import DataLossError, NotImplementedByUsError, OrlopError
from orlop.rpc import status
from orlop.rpc.ttrpc import frame

NAMESPACE_KEY = "containerd-namespace-ttrpc"
"""The metadata key that carries containerd's namespace."""


class Method(NamedTuple):
    """The message classes of one method."""

    request: type[Message]
    response: type[Message]


_cache: dict[str, dict[str, Method]] = {}


def methods_of(service: ServiceDescriptor) -> dict[str, Method]:
    """Every method of `service` by its name."""
    known = _cache.get(service.full_name)
    if known is None:
        known = _cache[service.full_name] = {
            method.name: Method(GetMessageClass(method.input_type), GetMessageClass(method.output_type))
            for method in service.methods
        }
    return known


def method_of(service: ServiceDescriptor, name: str) -> Method:
    """One method of `service`. Raises NotImplementedByUsError when it has none of that name."""
    method = methods_of(service).get(name)
    if method is None:
        raise NotImplementedByUsError(f"method {name} of service {service.full_name}")
    return method


def encode_request(
    stream: int,
    service: ServiceDescriptor,
    method: str,
    request: Message,
    *,
    timeout: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The frame of one call. `timeout` is in seconds. Raises InvalidArgumentError when it exceeds a frame."""
    envelope = Request(service=service.full_name, method=method, payload=request.SerializeToString())
    if timeout is not None:
        envelope.timeout_nano = max(1, int(timeout * 1e9))
    for key, value in (metadata or {}).items():
        envelope.metadata.add(key=key, value=value)
    payload = envelope.SerializeToString()
    if len(payload) > frame.MAX_PAYLOAD:
        raise status.error_for(status.RESOURCE_EXHAUSTED, oversize_message(len(payload)))
    return frame.encode(stream, frame.REQUEST, 0, payload)


def decode_response(answer: frame.Frame, method: Method) -> Any:
    """The response message in a response frame; raises the errdefs error that it carries instead."""
    if answer.payload is None:
        raise status.error_for(status.RESOURCE_EXHAUSTED, oversize_message(answer.length))
    try:
        envelope = Response.FromString(answer.payload)
        if envelope.status.code != status.OK:
            raise status.error_for(envelope.status.code, envelope.status.message)
        return method.response.FromString(envelope.payload)
    except DecodeError as error:
        raise DataLossError(f"ttrpc: undecodable response: {error}") from None


def encode_reply(stream: int, response: Message) -> bytes:
    """The response frame of a call that succeeded."""
    payload = Response(payload=response.SerializeToString()).SerializeToString()
    if len(payload) > frame.MAX_PAYLOAD:
        return encode_error(stream, status.error_for(status.RESOURCE_EXHAUSTED, oversize_message(len(payload))))
    return frame.encode(stream, frame.RESPONSE, 0, payload)


def encode_error(stream: int, error: BaseException) -> bytes:
    """The response frame of a call that failed."""
    envelope = Response()
    envelope.status.code = status.code_of(error)
    envelope.status.message = status.message_of(error)
    return frame.encode(stream, frame.RESPONSE, 0, envelope.SerializeToString())


def oversize_message(length: int) -> str:
    """What both sides say of a frame that is too long."""
    return f"message length {length} exceeds the maximum message size of {frame.MAX_PAYLOAD}"


def decode_request(received: frame.Frame, last_stream: int) -> Request:
    """Check a frame that a client sent and return the call in it.

    Raises the OrlopError to answer with: the connection goes on.
    """
    if received.payload is None:
        raise status.error_for(status.RESOURCE_EXHAUSTED, oversize_message(received.length))
    if received.type != frame.REQUEST:
        raise status.error_for(status.UNIMPLEMENTED, f"frame type {received.type} without a stream")
    if received.stream % 2 == 0:
        raise status.error_for(status.INVALID_ARGUMENT, "stream id must be odd for client initiated streams")
    if received.stream <= last_stream:
        raise status.error_for(status.INVALID_ARGUMENT, "stream id cannot be re-used and must increment")
    try:
        return Request.FromString(received.payload)
    except DecodeError as error:
        raise status.error_for(status.INVALID_ARGUMENT, f"undecodable request: {error}") from None


def decode_payload(call: Request, method: Method) -> Message:
    """The request message of a call. Raises InvalidArgumentError."""
    try:
        return method.request.FromString(call.payload)
    except DecodeError as error:
        raise status.error_for(status.INVALID_ARGUMENT, f"undecodable {call.method} request: {error}") from None


def unknown_service(name: str) -> OrlopError:
    """What a call to a service that is not served is answered with."""
    return NotImplementedByUsError(f"service {name}")


def unknown_method(name: str) -> OrlopError:
    """What a call to a method that is not served is answered with."""
    return NotImplementedByUsError(f"method {name}")
