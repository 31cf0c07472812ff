# SPDX-License-Identifier: Apache-2.0
"""Metrics of gRPC calls, under the names of Go's gRPC middleware (`grpc_server_…`)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Histogram

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prometheus_client import CollectorRegistry

    from orlop.rpc.grpc_server.call import Method

_LABELS = ["grpc_type", "grpc_service", "grpc_method"]
_TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}
# As Go spells them, by number.
_CODES = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)


class CallMetrics:
    """Counts calls, their messages and how they ended; `histogram` also how long they took."""

    def __init__(self, registry: CollectorRegistry, *, histogram: bool) -> None:
        self.started = Counter("grpc_server_started", "RPCs started on the server", _LABELS, registry=registry)
        self.handled = Counter(
            "grpc_server_handled",
            "RPCs completed on the server, however they ended",
            [*_LABELS, "grpc_code"],
            registry=registry,
        )
        self.received = Counter(
            "grpc_server_msg_received", "stream messages received by the server", _LABELS, registry=registry
        )
        self.messages = Counter(
            "grpc_server_msg_sent", "stream messages sent by the server", _LABELS, registry=registry
        )
        self.seconds = (
            Histogram("grpc_server_handling_seconds", "duration of RPCs", _LABELS, registry=registry)
            if histogram
            else None
        )

    def begin(self, method: Method) -> CountedCall:
        """A call begins."""
        return CountedCall(self, method)


class CountedCall:
    """One call; an `orlop.rpc.grpc_server.server.Observed`."""

    def __init__(self, metrics: CallMetrics, method: Method) -> None:
        service, _, name = method.path.strip("/").rpartition("/")
        self._metrics = metrics
        self._labels = (_TYPES[method.many_requests, method.many_answers], service, name)
        self._many_requests = method.many_requests
        self._began = time.monotonic()
        metrics.started.labels(*self._labels).inc()

    def requests(self, request: Any) -> Any:
        """Count the message, or each one that is iterated."""
        if self._many_requests:
            return self._counted(request)
        self._metrics.received.labels(*self._labels).inc()
        return request

    def sent(self) -> None:
        """Count an answer."""
        self._metrics.messages.labels(*self._labels).inc()

    def ended(self, code: int) -> None:
        """Count the end."""
        self._metrics.handled.labels(*self._labels, _CODES[code]).inc()
        if self._metrics.seconds is not None:
            self._metrics.seconds.labels(*self._labels).observe(time.monotonic() - self._began)

    async def _counted(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._metrics.received.labels(*self._labels).inc()
            yield request
