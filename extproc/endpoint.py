"""One model server: where it is, what it last said of itself, and what we count ourselves.

State changes only in its methods; `now` (seconds, monotonic) is always an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import xxhash
from msgspec.structs import replace

from . import address as addresses
from .engine_metrics import EngineMetrics
from .engines import Page
from .health import Health
from .load_report import LoadReport
from .speed import StepTime
from .traffic import Traffic
from .work import Backlog, Work

Cordon = Literal["config", "command"]
NEVER = -math.inf
UNKNOWN_TOKEN_S = 1e-4
"""Where nothing was measured: an 8B model on an A100 takes 0.7, a 70B model on four of them 1.6 of this."""
NO_LORAS: frozenset[str] = frozenset()
MAX_ALLOWANCE = 64
"""A quarter of the smallest batch (`max_num_seqs`) that vLLM allows by default: an idle endpoint takes a burst."""


class Endpoint:
    """A model server's state; shared by all configs that name its pool and address, so counts survive reloads.

    The figures below are flat attributes because scorers read them for every endpoint of every request.
    """

    __slots__ = (
        "_max_age_s",
        "_report",
        "address",
        "allowance",
        "backlog",
        "cordoned",
        "external",
        "fresh_until",
        "full_until",
        "health",
        "in_flight",
        "in_flight_at_scrape",
        "ip",
        "kv_fresh_until",
        "kv_usage",
        "labels",
        "lingering",
        "loras_in_flight",
        "max_in_flight",
        "max_loras",
        "metrics",
        "models",
        "page",
        "queue_fresh_until",
        "reported_at",
        "requests",
        "running",
        "running_loras",
        "salt",
        "scraped_at",
        "slowness",
        "step_time",
        "token_s",
        "tokens_in_flight",
        "traffic",
        "tried",
        "uid",
        "unread_since",
        "waiting",
        "waiting_loras",
    )

    def __init__(
        self, address: str, labels: Mapping[str, str] | None = None, max_age_s: float = 2.0, uid: str = ""
    ) -> None:
        self.address = address
        self.uid = uid
        """Of its pod; "" for a static one."""
        self.ip = addresses.split(address)[0]
        self.salt = xxhash.xxh3_64_intdigest(address.encode()) | 1
        """Its part in rendezvous hashing; odd."""
        self.labels: Mapping[str, str] = dict(labels or {})
        self.health = Health()
        self.cordoned: Cordon | None = None
        """Who took it out of service; None: nobody.  It gets no new request, whatever becomes of the others."""
        self.max_in_flight = math.inf
        """It gets no new request while so many of ours are there; infinite: no maximum."""
        self.in_flight = 0
        """Requests that we sent here and that have not ended."""
        self.tokens_in_flight = 0.0
        """Prompts of these requests and what is expected of their answers, in tokens."""
        self.backlog = Backlog()
        """Prompts that it has yet to compute."""
        self.step_time = StepTime()
        self.traffic = Traffic()
        self.token_s = UNKNOWN_TOKEN_S
        """Seconds that it takes to compute a prompt token, as the pool compares its endpoints."""
        self.slowness = 1.0
        """Time of its iterations, relative to the pool's median."""
        self.loras_in_flight: dict[str, int] = {}
        """Adapters of our requests there, with their numbers."""
        self.full_until = NEVER
        """Of an endpoint that was full for its tier: until when it counts as full at least; NEVER: it has room."""
        self.lingering: list[float] = []
        """Part of `in_flight`: streams that Envoy closed at the response headers; until when each is counted."""
        self.requests = 0
        """Requests that we ever sent here."""
        self.models: tuple[str, ...] = ()
        """What its /v1/models lists."""
        self.page: Page | None = None
        """What is scraped of it; None: nothing."""
        self.tried = False
        """Whether a scrape has succeeded or failed yet."""
        self.unread_since: float | None = None
        """When a scrape first failed, before the page was ever read."""
        self.scraped_at = NEVER
        self.fresh_until = NEVER
        """Until when the scraped figures count as knowledge."""
        self.queue_fresh_until = NEVER
        """Until when `waiting` does: load reports in answers tell it, too."""
        self.kv_fresh_until = NEVER
        """Until when `kv_usage` does; NEVER also where the engine does not tell it."""
        self.reported_at = NEVER
        """When the last load report came."""
        self._report = LoadReport()
        self.metrics: EngineMetrics | None = None
        self.waiting = 0
        self.running = 0
        self.kv_usage = 0.0
        self.external = 0
        """Requests there that are not ours (another router's, or a direct client's), as of the last scrape."""
        self.running_loras = NO_LORAS
        self.waiting_loras = NO_LORAS
        self.max_loras = 0
        self.allowance = MAX_ALLOWANCE
        """How many requests more than end there it can take between two scrapes, for all that we know."""
        self.in_flight_at_scrape = 0
        """Of `in_flight`, what the last scrape may have seen."""
        self._max_age_s = max_age_s

    def __repr__(self) -> str:
        return f"Endpoint({self.address!r}, in_flight={self.in_flight})"

    def configure(
        self,
        labels: Mapping[str, str],
        max_age_s: float,
        max_in_flight: int | None = None,
        cordoned: Cordon | None = None,
        page: Page | None = None,
    ) -> None:
        """Take over what a (re)loaded config says; where another *page* is read than before, that begins anew."""
        if page != self.page:
            self.page = page
            self._forget_scrapes()
        self.labels = dict(labels)
        self.max_in_flight = math.inf if max_in_flight is None else max_in_flight
        self.cordoned = cordoned
        self.fresh_until = self.scraped_at + max_age_s
        self.queue_fresh_until += max_age_s - self._max_age_s
        self.kv_fresh_until += max_age_s - self._max_age_s
        self._max_age_s = max_age_s

    def _forget_scrapes(self) -> None:
        """What they told is of a page that is not read any more: it would grow old, or be taken for the next one's."""
        self.metrics, self.tried, self._report, self.unread_since = None, False, LoadReport(), None
        self.scraped_at = self.fresh_until = self.queue_fresh_until = self.kv_fresh_until = NEVER
        self.reported_at = NEVER
        self.waiting = self.running = self.external = self.max_loras = self.in_flight_at_scrape = 0
        self.kv_usage, self.running_loras, self.waiting_loras = 0.0, NO_LORAS, NO_LORAS
        self.allowance = MAX_ALLOWANCE
        self.step_time, self.token_s, self.slowness = StepTime(), UNKNOWN_TOKEN_S, 1.0
        self.traffic = Traffic(self.requests - self.in_flight)
        self.backlog.rate = self.backlog.others = 0.0
        if self.page is None:
            self.health.reachable()  # no scrape will end a pause that a scrape began

    def observe(self, metrics: EngineMetrics, now: float, asked_at: float = math.inf) -> None:
        """Take over a scrape that was answered just now, and asked for at *asked_at*.

        What a load report told since then stays: the page may be older.
        """
        if asked_at < self.reported_at:
            metrics = _with_report(metrics, self._report)
        if self.metrics is not None:
            self._measure(self.metrics, metrics, now - self.scraped_at)
        self.metrics, self.scraped_at, self.tried = metrics, now, True
        self.fresh_until = self.queue_fresh_until = now + self._max_age_s
        self.waiting, self.running = metrics.waiting, metrics.running
        usage = metrics.kv_cache_usage
        self.kv_usage, self.kv_fresh_until = (0.0, NEVER) if usage is None else (usage, self.fresh_until)
        self.running_loras, self.waiting_loras = metrics.running_loras, metrics.waiting_loras
        self.max_loras = metrics.max_loras
        self.in_flight -= len(self.lingering)  # they are among those that it tells of
        self.lingering = []
        self.external = max(0, self.waiting + self.running - self.in_flight)
        self.backlog.scraped(self.waiting, self.running, now)
        self.in_flight_at_scrape = self.in_flight
        # As TCP finds what a path can take: down to the least where requests wait, else twice as many.
        self.allowance = 1 if self.waiting else min(2 * self.allowance, MAX_ALLOWANCE)

    def reported(self, report: LoadReport, now: float) -> None:
        """Take over what came just now with the answer to a request of ours.

        An endpoint whose page was never read stays unknown: a report tells too little of it.
        """
        if self.metrics is None:
            return
        until = now + self._max_age_s
        if report.waiting is not None:
            self.waiting, self.queue_fresh_until = report.waiting, until
            # the request that is answered does not wait, though it counts until its last byte
            self.in_flight_at_scrape = max(0, self.in_flight - 1)
            if report.waiting:
                self.allowance = 1
        if report.kv_cache_usage is not None:
            self.kv_usage, self.kv_fresh_until = report.kv_cache_usage, until
        self.metrics = _with_report(self.metrics, report)
        self.reported_at, self._report = now, report

    def _measure(self, before: EngineMetrics, metrics: EngineMetrics, elapsed_s: float) -> None:
        """How fast it worked between two scrapes."""
        self.step_time.measure(before, metrics, elapsed_s)
        self.traffic.measure(before, metrics, self.requests - self.in_flight, elapsed_s)
        self.backlog.rate = self.step_time.prefill_rate

    def unreadable(self, now: float) -> None:
        """A scrape failed."""
        self.tried = True
        if self.metrics is None and self.unread_since is None:
            self.unread_since = now

    def unused(self) -> None:
        """Its page was answered, and tells nothing yet, as it has had no request."""
        if self.metrics is not None:  # it was restarted
            self._forget_scrapes()
        self.tried, self.unread_since = True, None

    def figures_age(self, now: float) -> float | None:
        """Seconds since its page was read, or of one that never was since it first failed; None: it tells nothing."""
        since = self.scraped_at if self.metrics else self.unread_since
        return None if since is None else now - since

    def is_fresh(self, now: float) -> bool:
        return self.fresh_until > now

    def is_saturated(self, now: float, waiting: float, kv_usage: float) -> bool:
        """At or over one of the limits; what is unknown or stale is not saturated."""
        if self.queue_fresh_until > now and self.queue >= waiting:
            return True
        return self.kv_usage >= kv_usage and self.kv_fresh_until > now

    def filled(self, until: float) -> None:
        """It is full for its tier, and counts as full until *until* at least; NEVER: it has room again."""
        self.full_until = until

    @property
    def load(self) -> int:
        """Requests there now: ours exactly, others' as of the last scrape."""
        return self.in_flight + self.external

    @property
    def queue(self) -> int:
        """Requests that wait there: where some waited at the last scrape, those we sent since wait behind them."""
        since = self.in_flight - self.in_flight_at_scrape
        return self.waiting + since if self.waiting > 0 and since > 0 else self.waiting

    def has_room(self, waiting: int) -> bool:
        """Whether one more request would find fewer than *waiting* in the queue, as far as a fresh scrape tells.

        What ended since makes room for what waited.  Where nobody waited, nobody knows how many more fit into the
        batch: as many as ended, and `allowance`.
        """
        since = self.in_flight - self.in_flight_at_scrape
        return self.waiting + since < (waiting if self.waiting else max(waiting, self.allowance))

    def acquire(self, work: Work | None = None, now: float = 0.0) -> None:
        """A request was sent here.  Each is paired with exactly one `release` or `linger`, of the same *work*."""
        self.in_flight += 1
        self.requests += 1
        if work is not None:
            work.sent_at = now
            self.tokens_in_flight += work.prompt_tokens + work.output_tokens
            self.backlog.add(work, now)
            if work.adapter is not None:
                self.loras_in_flight[work.adapter] = self.loras_in_flight.get(work.adapter, 0) + 1

    def release(self, work: Work | None = None) -> None:
        """A request that was sent here has ended."""
        self.in_flight -= 1
        if work is not None:
            self._release(work)
            self.backlog.remove(work)

    def linger(self, until: float, work: Work | None = None) -> None:
        """Envoy closed the stream while the answer goes on: count it until a scrape can tell, or until *until*."""
        self.lingering.append(until)
        if work is not None:
            self._release(work)
            self.backlog.linger(work, until)

    def _release(self, work: Work) -> None:
        self.tokens_in_flight -= work.prompt_tokens + work.output_tokens
        if work.adapter is not None:
            left = self.loras_in_flight[work.adapter] - 1
            if left:
                self.loras_in_flight[work.adapter] = left
            else:
                del self.loras_in_flight[work.adapter]

    def expire(self, now: float) -> None:
        """Let go of what lingered long enough."""
        if self.lingering:
            left = [until for until in self.lingering if until > now]
            self.in_flight -= len(self.lingering) - len(left)
            self.lingering = left
        self.backlog.expire(now)


def _with_report(metrics: EngineMetrics, report: LoadReport) -> EngineMetrics:
    """*metrics* with what *report* tells."""
    waiting = metrics.waiting if report.waiting is None else report.waiting
    usage = metrics.kv_cache_usage if report.kv_cache_usage is None else report.kv_cache_usage
    return replace(metrics, waiting=waiting, kv_cache_usage=usage)
