"""What could be otherwise at an endpoint, for `changes` to try.  Applied, a lever changes the endpoint itself."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator

from msgspec import Struct

from ..endpoint import NEVER, Endpoint
from ..pool import Pool
from ..prefix_index import PrefixIndex
from ..request import CHECKPOINTS
from .question import Question, cache


class Lever(Struct, frozen=True):
    """One thing that could be otherwise, more or less of it."""

    what: str
    most: int
    apply: Callable[[int], None]
    text: Callable[[int], str]
    least: int = 1


def levers(question: Question, endpoint: Endpoint) -> Iterator[Lever]:
    """What could be otherwise at *endpoint*; `idle` last."""
    now = question.now
    if endpoint.cordoned is not None:
        yield Lever("cordoned", 1, lambda _: _uncordon(endpoint), lambda _: "it were not cordoned")
    if endpoint.health.is_set_aside(now):
        yield Lever("set_aside", 1, lambda _: _bring_back(endpoint), lambda _: "it were not set aside")
    if endpoint.metrics is not None and not endpoint.is_fresh(now):
        yield Lever("fresh", 1, lambda _: _refresh(endpoint), lambda _: "its figures were fresh")
    yield _requests(question, endpoint)
    yield _tokens_ahead(question, endpoint)
    if endpoint.is_fresh(now):
        yield _waiting(endpoint)
    if endpoint.kv_fresh_until > now:
        yield _kv_usage(endpoint)
    yield from _cached(question, endpoint)
    yield from _lora(question, endpoint)
    token_s, slowness = _fastest(question, endpoint)
    if endpoint.slowness > slowness or endpoint.token_s > token_s:
        yield Lever("speed", 1, lambda _: _speed_up(question, endpoint), lambda _: "it were as fast as any")
    yield from _tier(question, endpoint)
    yield Lever("idle", 1, lambda _: _empty(question, endpoint), lambda _: "it were idle")


def _requests(question: Question, endpoint: Endpoint) -> Lever:
    def apply(count: int) -> None:
        ours = min(count, endpoint.in_flight)
        endpoint.in_flight -= ours
        endpoint.external -= count - ours

    external = endpoint.external if endpoint.is_fresh(question.now) else 0
    most = endpoint.in_flight + external
    return Lever("requests", most, apply, lambda n: f"it had {counted(n, 'fewer request')}")


def _tokens_ahead(question: Question, endpoint: Endpoint) -> Lever:
    left = endpoint.backlog.left(question.now)

    def apply(count: int) -> None:
        endpoint.backlog.tokens, endpoint.backlog.at = max(0.0, left - count), question.now

    return Lever(
        "tokens_ahead", math.ceil(left), apply, lambda n: f"it had {counted(n, 'fewer prompt token')} ahead"
    )


def _waiting(endpoint: Endpoint) -> Lever:
    def apply(count: int) -> None:
        endpoint.waiting -= count
        endpoint.running += count

    return Lever("waiting", endpoint.waiting, apply, lambda n: f"{n} of those that wait there were running")


def _kv_usage(endpoint: Endpoint) -> Lever:
    def apply(points: int) -> None:
        endpoint.kv_usage = max(0.0, endpoint.kv_usage - points / 100)

    most = math.ceil(endpoint.kv_usage * 100)
    return Lever("kv_usage", most, apply, lambda n: f"{n} % more of its KV cache were free")


def _cached(question: Question, endpoint: Endpoint) -> Iterator[Lever]:
    prefix = question.request.prompt.prefix
    pool = pool_of(question, endpoint)
    known = dict(question.request.cached)
    if not prefix:
        return

    def apply(checkpoints: int) -> None:
        pool.index = PrefixIndex()
        pool.index.keep(pool.endpoints)
        cache(question, {**known, endpoint: CHECKPOINTS[checkpoints - 1]})

    had = bisect_right(CHECKPOINTS, known.get(endpoint, 0))
    yield Lever(
        "cached_tokens",
        len(prefix),
        apply,
        lambda n: f"it had {CHECKPOINTS[n - 1]:,} tokens of the prompt in its cache",
        had + 1,
    )


def _lora(question: Question, endpoint: Endpoint) -> Iterator[Lever]:
    request = question.request
    adapter = request.target_model
    if not request.is_adapter or adapter in endpoint.running_loras or adapter in endpoint.loras_in_flight:
        return

    def apply(_: int) -> None:
        endpoint.running_loras |= {adapter}

    yield Lever("lora", 1, apply, lambda _: f"it had the adapter {adapter} loaded")


def _tier(question: Question, endpoint: Endpoint) -> Iterator[Lever]:
    pool = pool_of(question, endpoint)
    tiers = question.router.tiers.get(pool.name)
    if tiers is None:
        return
    names = [tier.name for tier in tiers.tiers]
    before = names[: names.index(tiers.name(endpoint))]
    members = [each for each in pool.endpoints if tiers.name(each) in before]

    def apply(_: int) -> None:
        for each in members:
            each.filled(math.inf)

    if members:
        yield Lever("tier", 1, apply, lambda _: f"tier {', '.join(before)} were full")


def pool_of(question: Question, endpoint: Endpoint) -> Pool:
    """The one pool that has *endpoint*."""
    return next(pool for pool in question.router.pools.values() if endpoint in pool.endpoints)


def _fastest(question: Question, endpoint: Endpoint) -> tuple[float, float]:
    """(token_s, slowness), the least of each in the pool of *endpoint*."""
    endpoints = pool_of(question, endpoint).endpoints
    return min(each.token_s for each in endpoints), min(each.slowness for each in endpoints)


def _speed_up(question: Question, endpoint: Endpoint) -> None:
    endpoint.token_s, endpoint.slowness = _fastest(question, endpoint)


def _bring_back(endpoint: Endpoint) -> None:
    endpoint.health.set_aside_until = NEVER


def _uncordon(endpoint: Endpoint) -> None:
    endpoint.cordoned = None


def _refresh(endpoint: Endpoint) -> None:
    endpoint.fresh_until = endpoint.queue_fresh_until = math.inf
    if endpoint.metrics is not None and endpoint.metrics.kv_cache_usage is not None:
        endpoint.kv_fresh_until = math.inf


def _empty(question: Question, endpoint: Endpoint) -> None:
    """Nothing runs, waits or is cached for others there, and that is known."""
    _bring_back(endpoint)
    _refresh(endpoint)
    endpoint.filled(NEVER)
    endpoint.in_flight = endpoint.external = endpoint.waiting = endpoint.running = 0
    endpoint.in_flight_at_scrape = 0
    endpoint.tokens_in_flight = endpoint.kv_usage = 0.0
    endpoint.kv_fresh_until = math.inf
    endpoint.backlog.tokens, endpoint.backlog.at = 0.0, question.now


def counted(number: int, noun: str) -> str:
    """`1 request`, `1,900 requests`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
