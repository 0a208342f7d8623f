"""Every metric that the router has, as its own code declares it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from extproc import config_file, metrics, tls
from extproc.cluster_metrics import ClusterMetrics
from extproc.errors import Reason
from extproc.fleet import Fleet
from extproc.holding import Lobby
from extproc.tls_reload import CertificateWatcher

CONFIG = b"pools: [{name: a, endpoints: []}]"
SUFFIXES: dict[str, dict[str, tuple[str, ...]]] = {
    "histogram": {"_bucket": ("le",), "_sum": (), "_count": ()},
    "counter": {"_total": ()},
    "gauge": {"": ()},
}
"""The series of a family by the ends of their names, with the labels that come on top."""

ERRORS = (
    "upstream_error",
    "protocol_error",
    *(reason.code for reason in Reason if reason.status >= 500),
)
"""Outcomes of requests that should have been served: not clients' mistakes, nor work that is shed as configured."""
LOAD = ("saturated", "queue_timeout", "overloaded")
"""Outcomes of requests for which there was no room."""
OUTCOMES = frozenset(
    (
        *("completed", "aborted", "upstream_error", "protocol_error", "observed"),
        *(reason.code for reason in Reason),
    )
)


class Family(Struct, frozen=True):
    """A metric: all series of one name."""

    name: str
    """As it is written in expressions; of a histogram without the end."""
    kind: str
    """counter, gauge or histogram."""
    labels: tuple[str, ...]
    help: str

    @property
    def series(self) -> dict[str, frozenset[str]]:
        """Labels by the names that expressions use."""
        name = self.name.removesuffix("_total")
        return {name + end: frozenset((*self.labels, *more)) for end, more in SUFFIXES[self.kind].items()}


@cache
def families() -> dict[str, Family]:
    """By name: what `/metrics` has where everything is configured."""
    return {family.name: family for family in sorted(_families(), key=lambda family: family.name)}


@cache
def series() -> dict[str, frozenset[str]]:
    """Labels of every series that an expression can name."""
    return {name: labels for family in families().values() for name, labels in family.series.items()}


def _families() -> Iterator[Family]:
    for collector in list(registry()._collector_to_names):
        for found in _described(collector):
            # The labels of a family without samples are told nowhere else.
            labels: Iterable[str] = getattr(found, "_labelnames", ()) or getattr(collector, "_labelnames", ())
            name = found.name + ("_total" if found.type == "counter" else "")
            yield Family(name=name, kind=found.type, labels=tuple(labels), help=found.documentation)


def _described(collector: Collector) -> list[Any]:
    """A metric that has labels and no sample yet is described only; our collectors describe nothing."""
    describe = getattr(collector, "describe", None)
    return list(describe() if describe else ()) or list(collector.collect())


def registry() -> CollectorRegistry:
    """Of a router with everything configured, on which nothing happened yet."""
    fleet = Fleet()
    fleet.apply(config_file.parse(CONFIG), 0.0)
    made = metrics.Metrics(fleet, time.monotonic, "0")
    made.show_queues(Lobby[Any]())
    ClusterMetrics(made.registry, lambda: (), lambda: False, time.monotonic)
    with tempfile.TemporaryDirectory() as directory:
        files = tls.CertificateFiles(Path(directory, "cert"), Path(directory, "key"))
        for file, text in zip((files.chain, files.key), tls.make_certificate(["localhost"]), strict=True):
            file.write_bytes(text)
        CertificateWatcher(files, made.registry, structlog.get_logger())
    return made.registry
