"""Between the scraper, which knows addresses, and the fleet, which knows pools."""

from __future__ import annotations

from collections.abc import Callable

from . import address as addresses
from .config.schema import PoolConfig
from .endpoint import Endpoint
from .engine_metrics import EngineMetrics
from .engines import ENGINES, Page
from .fleet import Fleet
from .health import Failure
from .http_response import Failure as PageFailure
from .scraper import ScrapeTarget
from .telemetry import Telemetry


def scrape_targets(fleet: Fleet) -> list[ScrapeTarget]:
    """What to scrape for *fleet*; an address that two pools scrape alike is scraped once."""
    targets = (
        _target(config, endpoint, endpoint.page)
        for config, pool in fleet.pools()
        for endpoint in pool.endpoints
        if endpoint.page is not None
    )
    return list(dict.fromkeys(targets))


def _target(pool: PoolConfig, endpoint: Endpoint, page: Page) -> ScrapeTarget:
    metrics = pool.metrics
    return ScrapeTarget(
        address=endpoint.address,
        host=endpoint.ip,
        port=page.port,
        path=page.path,
        scheme=metrics.scheme,
        insecure_skip_verify=metrics.insecure_skip_verify,
        ca_file=metrics.ca_file,
        server_name=metrics.server_name,
        bearer_token_file=metrics.bearer_token_file,
        interval_s=metrics.interval_s,
        timeout_s=metrics.timeout_s,
        select=metrics.select and ENGINES[metrics.engine].selects,
        names=page.names,
    )


def _page(target: ScrapeTarget) -> Page:
    return Page(target.names, target.port, target.path)


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
        self._fleet.scraped(target.address, metrics, self._clock(), started_at, _page(target))
        self._changed()
        self._count(target, "ok")
        self._metrics.scrape_duration.observe(duration_s)
        self._recovered(target)

    def scrape_failed(
        self, target: ScrapeTarget, reason: PageFailure, detail: str, duration_s: float
    ) -> None:
        if reason == "empty":
            self._unused(target)
            return
        refused = reason == "refused" and target.port == addresses.split(target.address)[1]
        aside = self._fleet.scrape_failed(
            target.address, refused=refused, now=self._clock(), page=_page(target)
        )
        self._count(target, reason)
        if self._failing.get(target) != reason and self._fleet.readers(target.address, _page(target)):
            # those that are not read any more will not be heard of again
            self._failing = {
                t: r for t, r in self._failing.items() if self._fleet.readers(t.address, _page(t))
            }
            self._failing[target] = reason
            self._log.warning(
                "scrape_failed", endpoint=target.address, url=target.url, reason=reason, detail=detail
            )
        for pool, endpoint, pause_s in aside:
            self._watcher.set_aside(pool, endpoint, Failure.SCRAPE_REFUSED, pause_s)
            self._changed()

    def _unused(self, target: ScrapeTarget) -> None:
        self._fleet.unused(target.address, _page(target))
        self._count(target, "empty")
        self._recovered(target)

    def _recovered(self, target: ScrapeTarget) -> None:
        if self._failing.pop(target, None) is not None:
            self._log.info("scrape_recovered", endpoint=target.address)

    def _count(self, target: ScrapeTarget, result: str) -> None:
        for pool, _ in self._fleet.readers(target.address, _page(target)):
            self._metrics.scrapes.labels(pool.name, result).inc()
