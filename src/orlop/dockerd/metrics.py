# SPDX-License-Identifier: Apache-2.0
"""What the daemon counts of itself, under Docker's names, and the endpoint that tells it (`metrics-addr`)."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from orlop import __version__

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Histogram
    from prometheus_client.core import Metric

_ACTIONS = {
    ("GET", "/containers/{id}/changes"): "changes",
    ("POST", "/commit"): "commit",
    ("POST", "/containers/create"): "create",
    ("DELETE", "/containers/{id}"): "delete",
    ("POST", "/containers/{id}/start"): "start",
}
_INFO = {("GET", "/info"): "system_info", ("GET", "/version"): "system_version"}


class Sample(NamedTuple):
    """What the rest of the daemon tells when it is asked."""

    states: Mapping[str, int]
    events: int
    subscribers: int
    health_checks: int
    failed_health_checks: int


class Metrics:
    """Durations of requests. Nothing is counted, and no library loaded, before `enable`."""

    def __init__(self) -> None:
        self._actions: Histogram | None = None
        self._info: Histogram | None = None

    def enable(self, sample: Callable[[], Sample]) -> "CollectorRegistry":
        """Count from now on; everything that there is to tell."""
        from prometheus_client import CollectorRegistry, Histogram, ProcessCollector

        registry = CollectorRegistry()
        self._actions = Histogram(
            "engine_daemon_container_actions_seconds",
            "The number of seconds it takes to process each container action",
            ["action"],
            registry=registry,
        )
        self._info = Histogram(
            "engine_daemon_host_info_functions_seconds",
            "The number of seconds it takes to call functions gathering info about the host",
            ["function"],
            registry=registry,
        )
        for histogram, names in ((self._actions, _ACTIONS), (self._info, _INFO)):
            for name in names.values():
                histogram.labels(name)  # what has not happened yet is told as zero
        registry.register(_Collector(sample))
        ProcessCollector(registry=registry)
        return registry

    @contextlib.contextmanager
    def timed(self, method: str, path: str) -> Iterator[None]:
        """Count a request of a route, if it is one that Docker counts."""
        route = (method, path)
        if self._actions is not None and route in _ACTIONS:
            with self._actions.labels(_ACTIONS[route]).time():
                yield
        elif self._info is not None and route in _INFO:
            with self._info.labels(_INFO[route]).time():
                yield
        else:
            yield


class _Collector:
    """Tells at each request what the daemon knows anyway."""

    def __init__(self, sample: Callable[[], Sample]) -> None:
        self._sample = sample

    def collect(self) -> "Iterable[Metric]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        sample = self._sample()
        name = "engine_daemon_container_states_containers"
        states = GaugeMetricFamily(name, "The count of containers in various states", labels=["state"])
        for state, count in sample.states.items():
            states.add_metric([state], count)
        yield states
        uname = os.uname()
        about = {"architecture": uname.machine, "kernel": uname.release, "os": "linux", "version": __version__}
        text = "The information related to the engine and the OS it is running on"
        engine = GaugeMetricFamily("engine_daemon_engine_info", text, labels=list(about))
        engine.add_metric(list(about.values()), 1)
        yield engine
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        yield GaugeMetricFamily("engine_daemon_engine_cpus_cpus", "CPUs of the host", os.cpu_count() or 1)
        yield GaugeMetricFamily("engine_daemon_engine_memory_bytes", "Bytes of memory of the host", memory)
        yield GaugeMetricFamily("engine_daemon_events_subscribers_total", "Listeners", sample.subscribers)
        yield CounterMetricFamily("engine_daemon_events", "The number of events logged", sample.events)
        for name, count in (("", sample.health_checks), ("_failed", sample.failed_health_checks)):
            yield CounterMetricFamily(f"engine_daemon_health_checks{name}", "The number of health checks", count)


class MetricsServer:
    """Serves `/metrics` at an address of its own, where that is asked for."""

    def __init__(self, metrics: Metrics, sample: Callable[[], Sample]) -> None:
        self._metrics = metrics
        self._sample = sample
        self._registry: CollectorRegistry | None = None
        self._runner: web.ServerRunner | None = None

    async def serve(self, address: str) -> None:
        """Listen at host:port. Raises OSError."""
        self._registry = self._metrics.enable(self._sample)
        host, _, port = address.rpartition(":")
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        await web.TCPSite(self._runner, host.strip("[]") or None, int(port)).start()

    async def close(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        import prometheus_client

        if request.path != "/metrics" or self._registry is None:
            return web.Response(status=404, text="404 page not found\n")
        body = prometheus_client.generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})
