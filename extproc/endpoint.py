"""One model server: where it is, what it last said of itself, and what we count ourselves.

State changes only in its methods; `now` (seconds, monotonic) is always an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from . import address as addresses
from .health import Health
from .vllm import EngineMetrics

NEVER = -math.inf
NO_LORAS: frozenset[str] = frozenset()


class Endpoint:
    """A model server's state; shared by all configs that name its pool and address, so counts survive reloads.

    The figures below are flat attributes because scorers read them for every endpoint of every request.
    """

    __slots__ = (
        "_in_flight_at_scrape",
        "_max_age_s",
        "address",
        "external",
        "fresh_until",
        "health",
        "in_flight",
        "ip",
        "kv_usage",
        "labels",
        "lingering",
        "max_loras",
        "metrics",
        "models",
        "requests",
        "running",
        "running_loras",
        "scraped_at",
        "tried",
        "waiting",
        "waiting_loras",
    )

    def __init__(self, address: str, labels: Mapping[str, str] | None = None, max_age_s: float = 2.0) -> None:
        self.address = address
        self.ip = addresses.split(address)[0]
        self.labels: Mapping[str, str] = dict(labels or {})
        self.health = Health()
        self.in_flight = 0
        """Requests that we sent here and that have not ended."""
        self.lingering: list[float] = []
        """Part of `in_flight`: streams that Envoy closed at the response headers; until when each is counted."""
        self.requests = 0
        """Requests that we ever sent here."""
        self.models: tuple[str, ...] = ()
        """What its /v1/models lists."""
        self.tried = False
        """Whether a scrape has succeeded or failed yet."""
        self.scraped_at = NEVER
        self.fresh_until = NEVER
        """Until when the scraped figures count as knowledge."""
        self.metrics: EngineMetrics | None = None
        self.waiting = 0
        self.running = 0
        self.kv_usage = 0.0
        self.external = 0
        """Requests there that are not ours (another router's, or a direct client's), as of the last scrape."""
        self.running_loras = NO_LORAS
        self.waiting_loras = NO_LORAS
        self.max_loras = 0
        self._in_flight_at_scrape = 0
        self._max_age_s = max_age_s

    def __repr__(self) -> str:
        return f"Endpoint({self.address!r}, in_flight={self.in_flight})"

    def configure(self, labels: Mapping[str, str], max_age_s: float) -> None:
        """Take over what a (re)loaded config says."""
        self.labels = dict(labels)
        self._max_age_s = max_age_s
        self.fresh_until = self.scraped_at + max_age_s

    def observe(self, metrics: EngineMetrics, now: float) -> None:
        """Take over a scrape that was answered just now."""
        self.metrics, self.scraped_at, self.tried = metrics, now, True
        self.fresh_until = now + self._max_age_s
        self.waiting, self.running, self.kv_usage = metrics.waiting, metrics.running, metrics.kv_cache_usage
        self.running_loras, self.waiting_loras = metrics.running_loras, metrics.waiting_loras
        self.max_loras = metrics.max_loras
        self.expire(math.inf)
        self.external = max(0, self.waiting + self.running - self.in_flight)
        self._in_flight_at_scrape = self.in_flight

    def is_fresh(self, now: float) -> bool:
        return self.fresh_until > now

    def is_saturated(self, now: float, waiting: float, kv_usage: float) -> bool:
        """At or over one of the limits; what is unknown or stale is not saturated."""
        return self.fresh_until > now and (self.queue >= waiting or self.kv_usage >= kv_usage)

    @property
    def load(self) -> int:
        """Requests there now: ours exactly, others' as of the last scrape."""
        return self.in_flight + self.external

    @property
    def queue(self) -> int:
        """Requests that wait there: where some waited at the last scrape, those we sent since wait behind them."""
        since = self.in_flight - self._in_flight_at_scrape
        return self.waiting + since if self.waiting > 0 and since > 0 else self.waiting

    def acquire(self) -> None:
        """A request was sent here.  Each is paired with exactly one `release` or `linger`."""
        self.in_flight += 1
        self.requests += 1

    def release(self) -> None:
        """A request that was sent here has ended."""
        self.in_flight -= 1

    def linger(self, until: float) -> None:
        """Envoy closed the stream while the answer goes on: count it until a scrape can tell, or until *until*."""
        self.lingering.append(until)

    def expire(self, now: float) -> None:
        """Let go of what lingered long enough."""
        if self.lingering:
            left = [until for until in self.lingering if until > now]
            self.in_flight -= len(self.lingering) - len(left)
            self.lingering = left
