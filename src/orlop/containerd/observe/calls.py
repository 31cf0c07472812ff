# SPDX-License-Identifier: Apache-2.0
"""Metrics of gRPC calls, under the names of Go's gRPC middleware (`grpc_server_…`)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from prometheus_client import Counter, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_LABELS = ["grpc_type", "grpc_service", "grpc_method"]
_TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
_GO_NAMES = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}


class CallMetrics(grpc.aio.ServerInterceptor):
    """Counts calls, their messages and how they ended; `histogram` also how long they took."""

    def __init__(self, registry: CollectorRegistry, *, histogram: bool) -> None:
        self._started = Counter("grpc_server_started", "RPCs started on the server", _LABELS, registry=registry)
        self._handled = Counter(
            "grpc_server_handled",
            "RPCs completed on the server, however they ended",
            [*_LABELS, "grpc_code"],
            registry=registry,
        )
        self._received = Counter(
            "grpc_server_msg_received", "stream messages received by the server", _LABELS, registry=registry
        )
        self._sent = Counter(
            "grpc_server_msg_sent", "stream messages sent by the server", _LABELS, registry=registry
        )
        self._seconds = (
            Histogram("grpc_server_handling_seconds", "duration of RPCs", _LABELS, registry=registry)
            if histogram
            else None
        )

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wrap the handler of one call (grpc.aio calls this)."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        service, _, method = handler_call_details.method.strip("/").rpartition("/")
        labels = (_TYPES[handler.request_streaming, handler.response_streaming], service, method)
        inner = handler.stream_stream or handler.unary_stream or handler.stream_unary or handler.unary_unary
        if handler.response_streaming:
            behaviour: Any = self._streaming(labels, inner, requests=handler.request_streaming)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            behaviour = self._unary(labels, inner, requests=handler.request_streaming)
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _unary(self, labels: tuple[str, str, str], inner: Any, *, requests: bool) -> Any:
        async def unary(request: Any, context: Any) -> Any:
            began = self._begin(labels)
            if requests:
                request = self._counted(labels, request)
            else:
                self._received.labels(*labels).inc()
            try:
                answer = await inner(request, context)
                self._sent.labels(*labels).inc()
                return answer
            finally:
                self._end(labels, context, began)

        return unary

    def _streaming(self, labels: tuple[str, str, str], inner: Any, *, requests: bool) -> Any:
        async def streaming(request: Any, context: Any) -> AsyncIterator[Any]:
            began = self._begin(labels)
            if requests:
                request = self._counted(labels, request)
            else:
                self._received.labels(*labels).inc()
            try:
                async for answer in inner(request, context):
                    self._sent.labels(*labels).inc()
                    yield answer
            finally:
                self._end(labels, context, began)

        return streaming

    async def _counted(self, labels: tuple[str, str, str], requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._received.labels(*labels).inc()
            yield request

    def _begin(self, labels: tuple[str, str, str]) -> float:
        self._started.labels(*labels).inc()
        return time.monotonic()

    def _end(self, labels: tuple[str, str, str], context: Any, began: float) -> None:
        self._handled.labels(*labels, _code_name(context)).inc()
        if self._seconds is not None:
            self._seconds.labels(*labels).observe(time.monotonic() - began)


def _code_name(context: Any) -> str:
    """The status of a call that is over, as Go spells it."""
    if context.cancelled():
        return "Canceled"
    code = context.code() or 0
    status = code if isinstance(code, grpc.StatusCode) else _BY_NUMBER[code]
    return _GO_NAMES.get(status) or "".join(word.capitalize() for word in status.name.split("_"))
