# SPDX-License-Identifier: Apache-2.0
"""The metrics of a daemon, and the endpoint `/v1/metrics` that serves them in Prometheus' text format."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import prometheus_client
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from orlop.api.events_pb2 import TaskDelete, TaskOOM
from orlop.containerd.client import typeurl
from orlop.containerd.observe.calls import CallMetrics
from orlop.containerd.observe.containers import ContainerCollector
from orlop.errdefs import OrlopError, ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.api.types_pb2 import Envelope
    from orlop.containerd.core.runtime import Task
    from orlop.containerd.observe.containers import Sample
    from orlop.containerd.plugins.exchange import Exchange

PATIENCE = 2.0  # seconds that a shim is given for its statistics, as `timeout.metrics.shimstats`


class Metrics:
    """Everything that is counted. `calls` goes into the gRPC server, `collected` is told of each collection."""

    def __init__(self, version: str, revision: str, *, histogram: bool) -> None:
        client: Any = prometheus_client
        client.disable_created_metrics()  # the original has no times of creation
        self.registry = CollectorRegistry()
        self.calls = CallMetrics(self.registry, histogram=histogram)
        self.containers = ContainerCollector()
        self.registry.register(self.containers)
        ProcessCollector(registry=self.registry)
        build = Counter(
            "containerd_build_info", "what is running", ["version", "revision"], registry=self.registry
        )
        build.labels(version, revision).inc()
        self._collections = Counter(
            "containerd_gc_collections", "garbage collections", ["status"], registry=self.registry
        )
        self._seconds = Histogram(
            "containerd_gc_gc_seconds", "duration of garbage collections", registry=self.registry
        )

    def collected(self, seconds: float) -> None:
        """A garbage collection has taken so long."""
        self._collections.labels("success").inc()
        self._seconds.observe(seconds)

    async def text(self, tasks: Sequence[Task]) -> bytes:
        """All metrics, those of `tasks` among them, in Prometheus' text format."""
        samples = await asyncio.gather(*map(_sample, tasks))
        self.containers.samples = [sample for sample in samples if sample is not None]
        return prometheus_client.generate_latest(self.registry)

    async def count_ooms(self, exchange: Exchange) -> None:
        """Count what shims tell of memory limits, until the exchange closes."""
        while True:
            events = exchange.subscribe(['topic=="/tasks/oom"', 'topic=="/tasks/delete"'])
            try:
                async for event in events:
                    self._count(event.envelope)
            except ResourceExhaustedError:
                continue  # too far behind: what was lost is lost
            except OrlopError:
                return  # the daemon stops
            finally:
                events.close()

    def _count(self, envelope: Envelope) -> None:
        if envelope.topic == "/tasks/oom":
            key = typeurl.unpack(envelope.event, TaskOOM).container_id, envelope.namespace
            self.containers.oom[key] = self.containers.oom.get(key, 0) + 1
            return
        deleted = typeurl.unpack(envelope.event, TaskDelete)
        if not deleted.id or deleted.id == deleted.container_id:
            self.containers.oom.pop((deleted.container_id, envelope.namespace), None)


async def _sample(task: Task) -> Sample | None:
    with contextlib.suppress(OrlopError):  # it has ended, or does not answer: there is nothing to tell of it
        return task.id, task.namespace, (await task.call("Stats", timeout=PATIENCE)).stats
    return None


def application(metrics: Metrics, tasks: Callable[[], Sequence[Task]]) -> web.Application:
    """What the metrics address serves."""

    async def serve(_request: web.Request) -> web.Response:
        return web.Response(
            body=await metrics.text(tasks()),
            headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST},
        )

    app = web.Application()
    app.router.add_get("/v1/metrics", serve)
    return app
