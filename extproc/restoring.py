"""From what `/debug/state` told to a router that decides as the one that told it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from . import address as addresses
from .config import checks
from .config.schema import Config, PoolConfig
from .endpoint import NEVER, Endpoint
from .health import FAILURES
from .pool import Pool
from .router import Router
from .state import FORMAT, BacklogState, EndpointState, PoolState, SpeedState, State

NOW = 0.0
"""The time, of the clock that a restored router is asked by."""


class StateError(ValueError):
    """It is no state, or none that this version reads."""


class _Head(Struct):
    format: int | None = None
    config: Any = None


def parse(text: bytes) -> State:
    """What `/debug/state` answered; raises StateError."""
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.format is None and head.config is not None:
            raise StateError("it is from a version of extproc before `explain`, and tells too little")
        if head.format is not None and head.format != FORMAT:
            raise StateError(f"its format is {head.format}, and this version of extproc reads {FORMAT}")
        state = msgspec.json.decode(text, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateError(f"it is no state as /debug/state tells it: {error}") from None
    found = list(checks.check(state.config.values))
    if found:
        raise StateError(f"its config contradicts itself: {found[0]}")
    return state


def restore(state: State, config: Config | None = None) -> Router:
    """A router that decides at `NOW` as the one that told *state*; what it knew of cached prompts is gone.

    With another *config*: as that one would, if its endpoints were in the state they are in; one that is not in
    *state* was never scraped.  Raises StateError.
    """
    told = {pool.name: pool for pool in state.pools}
    using = config or state.config.values
    try:
        pools = {p.name: _restored_pool(p, told.get(p.name), own=config is None) for p in using.pools}
    except (ValueError, ArithmeticError) as error:  # an address, a speed
        raise StateError(str(error)) from None
    return Router(using, pools, state.config.loaded_at)


def _restored_pool(config: PoolConfig, told: PoolState | None, *, own: bool) -> Pool:
    told = told or PoolState(name=config.name)
    endpoints = {e.address: _restored(e, config.metrics.max_age_s) for e in told.endpoints}
    pool = Pool(config.name, (endpoints if own else _configured(config, endpoints)).values())
    pool.mean_output, pool.adapters = told.mean_output, set(told.adapters)
    pool.others.share, pool.others.found = told.share, told.found
    for each in told.endpoints:  # as compared then: a new pool compares anew
        endpoints[each.address].token_s = each.speed.compared_token_s
        endpoints[each.address].slowness = each.speed.slowness
    return pool


def _configured(config: PoolConfig, known: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
    """Those of *known* that *config* names, and those it names anew; a cluster's are what they were."""
    if config.kubernetes is not None:
        return dict(known)
    found = {}
    for member in config.members():
        address = addresses.normalise(member.address)
        endpoint = found[address] = known.get(address) or Endpoint(address)
        most = config.max_in_flight if member.max_in_flight is None else member.max_in_flight
        by_command = endpoint.cordoned if endpoint.cordoned == "command" else None
        cordoned = "config" if member.cordoned else by_command
        endpoint.configure(member.labels, config.metrics.max_age_s, most, cordoned)
    return found


def _restored(told: EndpointState, max_age_s: float) -> Endpoint:
    endpoint = Endpoint(told.address, told.labels, max_age_s)
    endpoint.configure(told.labels, max_age_s, told.max_in_flight, told.cordoned)
    if told.metrics is not None and told.metrics_age_s is not None:
        endpoint.observe(told.metrics, NOW - told.metrics_age_s)
        endpoint.fresh_until = NEVER if told.fresh_for_s is None else NOW + told.fresh_for_s
        endpoint.queue_fresh_until = _until(told.queue_fresh_for_s, endpoint.fresh_until)
        if told.metrics.kv_cache_usage is not None:
            endpoint.kv_fresh_until = _until(told.kv_fresh_for_s, endpoint.fresh_until)
    endpoint.in_flight, endpoint.external = told.in_flight, told.external
    endpoint.in_flight_at_scrape, endpoint.allowance = told.in_flight_at_scrape, told.allowance
    endpoint.requests, endpoint.tokens_in_flight = told.requests, told.tokens_in_flight
    endpoint.loras_in_flight = dict(told.loras_in_flight)
    endpoint.full_until = NEVER if told.full_for_s is None else NOW + told.full_for_s
    endpoint.health.failures = told.health.failures
    if told.health.set_aside_for_s > 0:
        endpoint.health.set_aside_until = NOW + told.health.set_aside_for_s
    if told.health.failing:  # by requests or by scrapes, which is not told
        endpoint.health.refused_scrapes, endpoint.health.failed_at = FAILURES, NOW
    endpoint.models = tuple(told.models)
    _restore_speed(endpoint, told.speed, told.backlog)
    return endpoint


def _until(for_s: float | None, otherwise: float) -> float:
    """*otherwise*: for states of before a figure had a freshness of its own."""
    return otherwise if for_s is None else NOW + for_s


def _restore_speed(endpoint: Endpoint, speed: SpeedState, backlog: BacklogState) -> None:
    step_time = endpoint.step_time
    step_time.step_s, step_time.token_s = speed.step_s, speed.token_s
    step_time.iteration_s, step_time.prefill_rate = speed.iteration_s, speed.prefill_rate
    step_time.mean_output = speed.mean_output
    endpoint.backlog.tokens, endpoint.backlog.rate, endpoint.backlog.at = backlog.tokens, backlog.rate, NOW
    endpoint.backlog.others = backlog.others
