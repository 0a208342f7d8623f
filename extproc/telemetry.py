"""What is told of each exchange once it ended: metrics and one log line."""

from __future__ import annotations

import collections
from typing import Any, Protocol

from prometheus_client import Counter

from .answer_metrics import AnswerSeries
from .answer_reading import facts_of
from .endpoint import Endpoint
from .exchange import Exchange
from .flight import Watcher
from .health import Failure
from .logs import Logger
from .metrics import Metrics
from .pool import Pool
from .protocol.messages import ProtocolError
from .request import Headers, bare_path
from .router import Decision, Router
from .scheduling.profile import DEFAULT
from .trace_context import Trace

REMEMBERED = 100
"""Streamed answers by which it is judged whether Envoy keeps streams open to their end."""
MAX_LOGGED = 256
"""Characters of a path or request id in a log line: clients choose them."""
SERIES_KEPT_S = 300.0
"""How long the series of a model or pool that left the config stay: the last scrape before must not be the only one
that saw them.  For ever, and models that are rolled out each day would make the page megabytes within a year."""
LOOK_S = 10.0
"""How often it is looked for those: a thousand models take a millisecond, a hundred pools three."""


class Tracing(Protocol):
    """Who makes spans of exchanges."""

    def begin(self, headers: Headers, carrier: Headers) -> Trace:
        """Of a request with *headers*; *carrier*: what came with Envoy's call of us."""

    def ended(self, exchange: Exchange, lived_s: float) -> None:
        """*exchange* was just closed."""


class Telemetry:
    """Counts and logs exchanges."""

    def __init__(self, metrics: Metrics, log: Logger) -> None:
        self.metrics = metrics
        self.log = log
        self.watcher = Watcher(missed=self._missed, set_aside=self._set_aside, reported=self._reported)
        self._early: collections.deque[bool] = collections.deque(maxlen=REMEMBERED)
        self._labels: dict[tuple[str, str, str], _Series] = {}
        self._gone_pools: dict[str, float] = {}
        """Pools that the config does not name any more, and since when that is known."""
        self._look_at = 0.0
        self.tracing: Tracing | None = None

    def counts_are_exact(self) -> bool:
        """Whether Envoy keeps streams open until answers end (else in-flight counts are estimates)."""
        return sum(self._early) * 2 <= len(self._early)

    def ended(self, exchange: Exchange, lived_s: float) -> None:
        """Tell of *exchange*, which was just closed."""
        decision = exchange.decision
        if self.tracing is not None:
            self.tracing.ended(exchange, lived_s)
        if exchange.is_observed:
            self._observed(exchange)
            return
        if exchange.answer is not None and exchange.answer.streamed:
            self._early.append(exchange.early)
        series = self._series(exchange)
        series.count(exchange.outcome)
        series.duration.observe(lived_s)
        if exchange.answer is not None:
            series.response_headers.observe(exchange.answered_at - exchange.started_at)
        if exchange.read_result is not None:
            series.answers.count(exchange.read_result, exchange.answer_figures, exchange.ttft_s)
        if decision is not None:
            self.metrics.decision.observe(exchange.decided_in_s)
            if decision.target_fallback:
                series.count_also(self.metrics.target_fallbacks, series.names[2])
            if decision.tier is not None:
                self.metrics.tier_requests.labels(decision.pool.name, decision.tier).inc()
            if decision.unknown_profile:
                self.metrics.unknown_profiles.labels(decision.pool.name).inc()
            if decision.mirror is not None:
                series.count_also(self.metrics.mirrored, decision.mirror)
        self.log.info("request", **_facts(exchange, lived_s))

    def _observed(self, exchange: Exchange) -> None:
        """Nobody did as we decided, so that what came of the request says nothing of it."""
        self._series(exchange).count(exchange.outcome)
        if exchange.decision is not None:
            self.metrics.decision.observe(exchange.decided_in_s)
        facts = _facts(exchange, 0.0)
        del facts["duration_ms"]  # Envoy closes such streams some seconds late
        if exchange.rejection is not None:
            facts["refusal"] = exchange.rejection.reason.code
        self.log.info("request", **facts)

    def waited(self, pool: str, result: str, waited_s: float) -> None:
        """A request that was held is no longer; *result*: `dispatched`, `overdue`, `gone`, or why it was refused."""
        self.metrics.queue_wait.labels(pool).observe(waited_s)
        self.metrics.queue_dispatches.labels(pool, result).inc()

    def unreadable(self, error: ProtocolError) -> None:
        """A stream began with something that is no ext_proc message."""
        self.metrics.requests.labels("none", "none", "none", "protocol_error").inc()
        self.log.info("request", outcome="protocol_error", message=str(error))

    def _series(self, exchange: Exchange) -> _Series:
        decision, router = exchange.decision, exchange.router
        if decision is None:
            names = (router.model_label(exchange.model), "none", "none")
        else:
            model = router.model_label(decision.model)
            target = decision.target_model if model not in ("other", "none") else model
            names = (model, target or "none", decision.pool.name)
        series = self._labels.get(names)
        if series is None:
            series = self._labels[names] = _Series(self.metrics, names)
        return series

    def forget(self, router: Router, now: float) -> None:
        """Drop the series of what *router*, which is in force, no longer names, and has not for a while."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        for names, series in list(self._labels.items()):
            if _names(router, names):
                series.gone_at = None
            elif series.gone_at is None:
                series.gone_at = now
            elif now - series.gone_at >= SERIES_KEPT_S:
                del self._labels[names]
                series.remove()
        self._forget_pools(router, now)

    def _forget_pools(self, router: Router, now: float) -> None:
        gone = {pool: self._gone_pools.get(pool, now) for pool in self.metrics.pools() - router.pools.keys()}
        self._gone_pools = {pool: since for pool, since in gone.items() if now - since < SERIES_KEPT_S}
        for pool in gone.keys() - self._gone_pools.keys():
            self.metrics.forget_pool(pool)

    def _missed(self, pool: Pool, address: str) -> None:
        self.metrics.pin_misses.labels(pool.name).inc()
        self.log.warning("pin_miss", pool=pool.name, served=address)

    def _reported(self, pool: Pool, result: str) -> None:
        self.metrics.load_reports.labels(pool.name, result).inc()

    def _set_aside(self, pool: Pool, endpoint: Endpoint, cause: Failure, pause_s: float) -> None:
        self.metrics.set_aside.labels(pool.name, cause.name.lower()).inc()
        self.log.warning(
            "endpoint_set_aside",
            pool=pool.name,
            endpoint=endpoint.address,
            cause=cause.name.lower(),
            failures=endpoint.health.in_a_row,
            pause_s=pause_s,
        )


class _Series:
    """The series of one (model, target_model, pool), looked up once: `labels()` costs a microsecond each time."""

    def __init__(self, metrics: Metrics, names: tuple[str, str, str]) -> None:
        self.names = names
        self.duration = metrics.duration.labels(*names)
        self.response_headers = metrics.response_headers.labels(*names)
        self.answers = AnswerSeries(metrics.answers, names)
        self.gone_at: float | None = None
        """When it was first seen that the config does not name them any more."""
        self._metrics = metrics
        self._by_outcome: dict[str, Any] = {}
        self._also: set[tuple[Counter, str]] = set()

    def count(self, outcome: str) -> None:
        counter = self._by_outcome.get(outcome)
        if counter is None:
            counter = self._by_outcome[outcome] = self._metrics.requests.labels(*self.names, outcome)
        counter.inc()

    def count_also(self, counter: Counter, label: str) -> None:
        """One more of *counter*, whose labels are the model and *label*."""
        counter.labels(self.names[0], label).inc()
        self._also.add((counter, label))

    def remove(self) -> None:
        """From the page; what another target's requests count as well begins at 0 again."""
        metrics = self._metrics
        for counter, label in self._also:
            counter.remove(self.names[0], label)
        for outcome in self._by_outcome:
            metrics.requests.remove(*self.names, outcome)
        metrics.duration.remove(*self.names)
        metrics.response_headers.remove(*self.names)
        self.answers.remove()


def _names(router: Router, names: tuple[str, str, str]) -> bool:
    """Whether a request that *router* routes can still count under them."""
    model, target, pool = names
    if pool != "none" and pool not in router.pools:
        return False
    route = router.routes.listed.get(model)
    if route is None:
        return model in ("other", "none")
    return target == "none" or any(target == each.model for each in route.all_targets_for(model))


def _facts(exchange: Exchange, lived_s: float) -> dict[str, Any]:
    """The log line: what was asked, decided, and came of it.  No body, no query, no credentials."""
    headers = exchange.headers
    facts: dict[str, Any] = {
        "outcome": exchange.outcome,
        "method": headers.get(":method", "")[:MAX_LOGGED],
        "path": bare_path(headers.get(":path", ""))[:MAX_LOGGED],
        "duration_ms": round(lived_s * 1e3, 3),
    }
    if "x-request-id" in headers:
        facts["request_id"] = headers["x-request-id"][:MAX_LOGGED]
    if exchange.decision is not None:
        facts |= _decision(exchange.decision)
        facts["decision_us"] = round(exchange.decided_in_s * 1e6, 1)
    elif exchange.model is not None:
        facts["model"] = exchange.model[:MAX_LOGGED]
    if exchange.queued_s is not None:
        facts["queued_ms"] = round(exchange.queued_s * 1e3, 3)
    if exchange.listed:
        facts["status"] = 200
    if exchange.fault_text:
        facts["message"] = exchange.fault_text
    if exchange.rejection is not None:
        facts["status"], facts["message"] = exchange.rejection.reason.status, exchange.rejection.message
    if exchange.answer is not None:
        facts["status"] = exchange.answer.status
        facts["headers_ms"] = round((exchange.answered_at - exchange.started_at) * 1e3, 3)
        if exchange.answer.served is not None:
            facts["served"] = exchange.answer.served
    if exchange.read_result is not None:
        facts["answer"] = exchange.read_result
    if exchange.answer_figures is not None:
        facts |= facts_of(exchange.answer_figures, exchange.ttft_s)
    return facts


def _decision(decision: Decision) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "model": decision.model,
        "target_model": decision.target_model,
        "pool": decision.pool.name,
        "endpoint": decision.endpoint.address,
        "candidates": decision.candidates,
        "scores": {name: round(score, 3) for name, score in decision.choice.scores.items()},
    }
    if decision.tier is not None:
        facts["tier"] = decision.tier
    if decision.profile != DEFAULT:
        facts["profile"] = decision.profile
    if decision.unknown_profile:
        facts["unknown_profile"] = True
    if decision.fallbacks:
        facts["fallbacks"] = [endpoint.address for endpoint in decision.fallbacks]
    if decision.choice.dropped:
        facts["dropped"] = decision.choice.dropped
    if decision.target_fallback:
        facts["target_fallback"] = True
    if decision.mirror is not None:
        facts["mirror"] = decision.mirror
    return facts
