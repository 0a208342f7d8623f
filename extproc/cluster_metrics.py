"""Metrics of what is followed in the Kubernetes API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .kube.reflector import SourceStatus
from .kube.resource import Resource

Source = tuple[Resource, SourceStatus]


class ClusterMetrics:
    """What is counted as it happens; the gauges are read when somebody asks for them."""

    def __init__(
        self,
        registry: CollectorRegistry,
        sources: Callable[[], Iterable[Source]],
        leading: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self.events = Counter(
            "extproc_kubernetes_events",
            "Watch events from the Kubernetes API.",
            ["resource", "type"],
            registry=registry,
        )
        self.errors = Counter(
            "extproc_kubernetes_errors",
            "Requests to the Kubernetes API that failed.",
            ["resource", "reason"],
            registry=registry,
        )
        self.unreadable = Counter(
            "extproc_kubernetes_unreadable_objects",
            "Objects that could not be read.",
            ["resource"],
            registry=registry,
        )
        registry.register(_SourceCollector(sources, leading, clock))


class _SourceCollector(Collector):
    def __init__(
        self, sources: Callable[[], Iterable[Source]], leading: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        self._sources = sources
        self._leading = leading
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        labels = ["resource", "namespace"]
        synced = GaugeMetricFamily(
            "extproc_kubernetes_synced",
            "1 while it is followed, or known not to exist; 0: what was last known holds.",
            labels=labels,
        )
        contact = GaugeMetricFamily(
            "extproc_kubernetes_last_contact_seconds", "Since the API last said something.", labels=labels
        )
        objects = GaugeMetricFamily("extproc_kubernetes_objects", "Objects that are followed.", labels=labels)
        for names, states in self._by_names().items():
            synced.add_metric(names, float(all(state.state in ("synced", "absent") for state in states)))
            objects.add_metric(names, float(sum(state.objects for state in states)))
            contacts = [state.last_contact for state in states if state.last_contact is not None]
            if contacts:
                contact.add_metric(names, self._clock() - min(contacts))
        leader = GaugeMetricFamily(
            "extproc_kubernetes_leader", "1 on the replica that writes conditions to statuses."
        )
        leader.add_metric([], float(self._leading()))
        yield from (synced, contact, objects, leader)

    def _by_names(self) -> dict[tuple[str, str], list[SourceStatus]]:
        """Several pools may follow pods of one namespace."""
        found: dict[tuple[str, str], list[SourceStatus]] = {}
        for resource, status in self._sources():
            found.setdefault((resource.full_title, resource.namespace or ""), []).append(status)
        return found
