"""What it costs to follow a thousand pods of a cluster, of which fifty change each second."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from extproc.demo.service import Service

from .figure import Figure
from .pod_server import NAMESPACE, POOL
from .programs import READY_S, PortProgram, cpu_s, rss_bytes

PODS = 1_000
MANY_PODS = 5_000
RATE = 50
"""Events a second: rolling updates of several pools at once, on top of what kubelets tell by themselves."""
SECONDS = 8.0
BURST_EVENTS = 3_000
BURST_RATE = 1_000
PAGE = Path(__file__).parent.parent / "tests" / "data" / "vllm-0.32-busy-selected.prom"
SCRAPE_INTERVAL_S = 4.0
"""Seldom enough that what pods that come and go cost the scraper is seen beside its scrapes."""


class Spell(NamedTuple):
    """What the service did in a while."""

    cores: float
    lag_p95_s: float
    lag_worst_s: float
    timers: int


class Cluster:
    """The service that follows a pool at a server of pods."""

    def __init__(self, server: PortProgram, service: Service) -> None:
        self.service = service
        self._server = server
        self._told = 0

    def churn(self, events: int, rate: float) -> None:
        """Tells of so many, so many a second."""
        url = f"http://127.0.0.1:{self._server.port}/churn?events={events}&rate={rate:g}"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60) as answer:
            answer.read()
        self._told += events

    def settle(self) -> None:
        """Until the service has taken in all that it was told."""
        self.service.wait_for("the last event", lambda: self._taken() >= self._told or None, READY_S)

    def measured(self, events: int, rate: float) -> Spell:
        """While it is told of so many events, so many a second."""
        return self._spell(lambda: self.churn(events, rate))

    def idle(self, seconds: float) -> Spell:
        return self._spell(lambda: time.sleep(seconds))

    def _spell(self, meanwhile: Callable[[], None]) -> Spell:
        before, cpu, begun = self._lags(), cpu_s(self.service.pid), time.monotonic()
        meanwhile()
        cores = (cpu_s(self.service.pid) - cpu) / (time.monotonic() - begun)
        lags = {bound: count - before[bound] for bound, count in self._lags().items()}
        timers = max(lags.values())
        return Spell(cores, _quantile(lags, 0.95 * timers), _quantile(lags, timers), round(timers))

    def ready_s(self) -> float:
        """From when it listens until it is ready."""
        begun = time.monotonic()
        self.service.wait_ready()
        return time.monotonic() - begun

    def _taken(self) -> float:
        """Events that the service counted."""
        events = next(each for each in self._families() if each.name == "extproc_kubernetes_events")
        return sum(each.value for each in events.samples if each.name.endswith("_total"))

    def _lags(self) -> dict[float, float]:
        """Timers by how late they were at most, as the service itself counts."""
        lag = next(each for each in self._families() if each.name == "extproc_event_loop_lag_seconds")
        return {float(each.labels["le"]): each.value for each in lag.samples if "le" in each.labels}

    def _families(self) -> Iterator[Metric]:
        yield from text_string_to_metric_families(self.service.metrics())


def measure(directory: Path) -> Iterator[Figure]:
    quiet = {"engine": "none"}
    with _cluster(directory, PODS, quiet) as cluster:
        yield Figure(f"ready with {PODS} pods", cluster.ready_s(), "s", 2.0, "from when it listens")
        cluster.churn(BURST_EVENTS // 3, BURST_RATE)  # warms up
        cluster.settle()
        yield from _calm(cluster)
        yield _memory(cluster)
    with _cluster(directory, MANY_PODS, quiet) as cluster:
        yield Figure(f"ready with {MANY_PODS} pods", cluster.ready_s(), "s", 5.0, "from when it listens")
    with PortProgram("bench.page_server", directory, str(PAGE)) as pages:
        metrics = {"interval_s": SCRAPE_INTERVAL_S}
        with _cluster(directory, PODS, metrics, pages.port) as cluster:
            cluster.ready_s()
            idle = cluster.idle(SECONDS / 2)
            cores = cluster.measured(round(SECONDS * RATE), RATE).cores
            note = f"of which {idle.cores:.2f} for {PODS / SCRAPE_INTERVAL_S:.0f} scrapes a second"
            yield Figure(f"following {PODS} pods that are scraped", cores, "cores", 0.25, note)


def _calm(cluster: Cluster) -> Iterator[Figure]:
    idle = cluster.idle(SECONDS / 2)
    churn = cluster.measured(round(SECONDS * RATE), RATE)
    each_us = (churn.cores - idle.cores) / RATE * 1e6
    note = f"{each_us:.0f} µs an event, half of which change who is there; {idle.cores:.3f} without any"
    yield Figure(f"following {PODS} pods, {RATE} events/s", churn.cores, "cores", 0.1, note)
    lags_ms = (1e3 * each for each in (churn.lag_worst_s, idle.lag_p95_s))
    note = "worst of {}, one of them beside a page of metrics: {:g} ms; P95 without events: {:g} ms"
    note = note.format(churn.timers, *lags_ms)
    yield Figure("event loop lag meanwhile, P95", churn.lag_p95_s * 1e3, "ms", 5.0, note)


def _memory(cluster: Cluster) -> Figure:
    before = rss_bytes(cluster.service.pid)
    cluster.churn(BURST_EVENTS, BURST_RATE)
    cluster.settle()
    grown = (rss_bytes(cluster.service.pid) - before) / 1e6
    return Figure(f"memory after {BURST_EVENTS} events more", grown, "MB", 10.0, f"of {before / 1e6:.0f} MB")


def _quantile(lags: Mapping[float, float], rank: float) -> float:
    """The bound of the histogram under which so many lie."""
    return min(bound for bound, count in lags.items() if count >= rank)


@contextmanager
def _cluster(directory: Path, pods: int, metrics: Mapping[str, Any], port: int = 8000) -> Iterator[Cluster]:
    with PortProgram("bench.pod_server", directory, str(pods), str(port)) as server:
        url = f"http://127.0.0.1:{server.port}"
        kubeconfig = directory / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(_kubeconfig(url)))
        source = {"inference_pool": POOL, "namespace": NAMESPACE}
        config = {
            "pools": [{"name": "bench", "kubernetes": source, "metrics": dict(metrics)}],
            "list_models": "forward",  # or each pod would be asked for its models
        }
        flags = ("--kubeconfig", str(kubeconfig), "--drain-delay", "0")
        with Service(config, directory, *flags, name="churn") as service:
            yield Cluster(server, service)


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
