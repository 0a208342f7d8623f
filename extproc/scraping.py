"""Between the scraper, which knows addresses, and the fleet, which knows pools."""

from __future__ import annotations

from collections.abc import Callable

from . import address as addresses
from .config.schema import PoolConfig
from .endpoint import Endpoint
from .engine_metrics import EngineMetrics
from .engines import ENGINES
from .fleet import Fleet
from .health import Failure
from .http_response import Failure as PageFailure
from .scraper import ScrapeTarget
from .telemetry import Telemetry


def scrape_targets(fleet: Fleet) -> list[ScrapeTarget]:
    """What to scrape for *fleet*; an address that two pools scrape alike is scraped once."""
    targets = (
        _target(config, endpoint)
        for config, pool in fleet.pools()
        if config.metrics.engine != "none"
        for endpoint in pool.endpoints
    )
    return list(dict.fromkeys(targets))


def _target(pool: PoolConfig, endpoint: Endpoint) -> ScrapeTarget:
    metrics = pool.metrics
    engine = ENGINES[metrics.engine]
    return ScrapeTarget(
        address=endpoint.address,
        host=endpoint.ip,
        port=metrics.port
        or int(endpoint.address.rpartition(":")[2]),  # to parse it anew takes ten times as long
        path=metrics.path or engine.path,
        scheme=metrics.scheme,
        insecure_skip_verify=metrics.insecure_skip_verify,
        ca_file=metrics.ca_file,
        server_name=metrics.server_name,
        bearer_token_file=metrics.bearer_token_file,
        interval_s=metrics.interval_s,
        timeout_s=metrics.timeout_s,
        select=metrics.select and engine.selects,
        names=engine.names,
    )


class ScrapeListener:
    """Brings what was scraped into the fleet; counts, and logs what changes rather than every failure."""

    def __init__(
        self,
        fleet: Fleet,
        telemetry: Telemetry,
        clock: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._fleet = fleet
        self._changed = changed
        """Told whenever an endpoint may have got room, or was set aside."""
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        self._watcher = telemetry.watcher
        self._clock = clock
        self._failing: dict[ScrapeTarget, PageFailure] = {}

    def scraped(
        self, target: ScrapeTarget, metrics: EngineMetrics, started_at: float, duration_s: float
    ) -> None:
        self._fleet.scraped(target.address, metrics, self._clock(), started_at)
        self._changed()
        self._count(target, "ok")
        self._metrics.scrape_duration.observe(duration_s)
        if self._failing.pop(target, None) is not None:
            self._log.info("scrape_recovered", endpoint=target.address)

    def scrape_failed(
        self, target: ScrapeTarget, reason: PageFailure, detail: str, duration_s: float
    ) -> None:
        refused = reason == "refused" and target.port == addresses.split(target.address)[1]
        aside = self._fleet.scrape_failed(target.address, refused=refused, now=self._clock())
        self._count(target, reason)
        if self._failing.get(target) != reason:
            # those that left the fleet will not be heard of again
            self._failing = {t: r for t, r in self._failing.items() if self._fleet.at(t.address)}
            self._failing[target] = reason
            self._log.warning("scrape_failed", endpoint=target.address, reason=reason, detail=detail)
        for pool, endpoint, pause_s in aside:
            self._watcher.set_aside(pool, endpoint, Failure.SCRAPE_REFUSED, pause_s)
            self._changed()

    def _count(self, target: ScrapeTarget, result: str) -> None:
        for pool, _ in self._fleet.at(target.address):
            self._metrics.scrapes.labels(pool.name, result).inc()
