# SPDX-License-Identifier: Apache-2.0
"""Metrics of containers: what their shims say of their control groups, under containerd's names."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

from orlop.api import cgroup_metrics_v1_pb2, cgroup_metrics_v2_pb2
from orlop.containerd.client import typeurl
from orlop.containerd.observe.cgroup_table import V1, V2, Repeated, Single

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from google.protobuf.any_pb2 import Any
    from google.protobuf.message import Message

_KINDS: dict[str, tuple[type[Message], Sequence[Single | Repeated]]] = {
    cgroup_metrics_v1_pb2.Metrics.DESCRIPTOR.full_name: (cgroup_metrics_v1_pb2.Metrics, V1),
    cgroup_metrics_v2_pb2.Metrics.DESCRIPTOR.full_name: (cgroup_metrics_v2_pb2.Metrics, V2),
}
_OWN = ["container_id", "namespace"]

Sample = tuple[str, str, "Any"]
"""A container's id, its namespace, and the statistics that its shim gave."""


class ContainerCollector:
    """A collector of prometheus_client. Statistics are asked for beforehand: shims answer in the loop."""

    def __init__(self) -> None:
        self.samples: Sequence[Sample] = ()
        self.oom: dict[tuple[str, str], int] = {}
        """How often a container met its memory limit, by id and namespace."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All families that have a value."""
        families: dict[str, GaugeMetricFamily] = {}
        for id, namespace, packed in self.samples:
            message_type, table = _KINDS.get(typeurl.name(packed), (None, ()))
            if message_type is None:
                continue  # a foreign shim's own statistics
            stats = typeurl.unpack(packed, message_type)
            for entry in table:
                if stats.HasField(entry.field.partition(".")[0]) if entry.field != "hugetlb" else True:
                    _add(families, entry, stats, [id, namespace])
        for (id, namespace), count in self.oom.items():
            family = _family(families, "memory_oom_total", _OWN)
            family.add_metric([id, namespace], count)
        yield from families.values()


def _add(families: dict[str, GaugeMetricFamily], entry: Single | Repeated, stats: Message, own: list[str]) -> None:
    value = attrgetter(entry.field)(stats)
    if isinstance(entry, Single):
        _family(families, entry.name, _OWN).add_metric(own, float(value))
        return
    names = [*_OWN, *(label for label, _ in entry.labels)]
    for number, item in enumerate(value):
        labels = [
            str(number) if attribute == "#" else str(getattr(item, attribute)) for _, attribute in entry.labels
        ]
        amount = getattr(item, entry.value) if entry.value else item
        _family(families, entry.name, names).add_metric([*own, *labels], float(amount))


def _family(families: dict[str, GaugeMetricFamily], name: str, labels: Iterable[str]) -> GaugeMetricFamily:
    if name not in families:
        families[name] = GaugeMetricFamily(f"container_{name}", name.replace("_", " "), labels=list(labels))
    return families[name]
