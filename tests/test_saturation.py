"""Sheddable work is refused while a pool is saturated; other work never is, for load alone."""

from __future__ import annotations

import random

import pytest
from fleets import NOW, decide, metrics, request, router

from extproc import address
from extproc.errors import Reason, Rejected
from extproc.router import Router

ONE_POOL = "pools: [{name: p, endpoints: ['10.0.0.1:80', '10.0.0.2:80']}]\n"
SHEDDABLE = "models: [{name: m, pool: p, criticality: Sheddable}]"


def reason(router: Router, **fields: object) -> Reason:
    """Why the request is refused."""
    with pytest.raises(Rejected) as caught:
        decide(router, **fields)
    return caught.value.reason


def saturate(router: Router, **waiting: int) -> None:
    """`_1=5`: 5 requests wait at 10.0.0.1."""
    for number, count in waiting.items():
        router.pools["p"].by_address[f"10.0.0.{number[1:]}:80"].observe(metrics(waiting=count), NOW)


@pytest.mark.parametrize(
    ("importance", "sheds"),
    [
        ("criticality: Sheddable", True),
        ("priority: -1", True),
        ("priority: -100", True),
        ("criticality: Standard", False),
        ("priority: 0", False),
        ("criticality: Critical", False),
        ("priority: 1", False),
    ],
)
def test_only_sheddable_work_is_refused_while_the_pool_is_saturated(importance: str, sheds: bool) -> None:
    full = router(ONE_POOL + "models: [{name: m, pool: p, %s}]" % importance)  # noqa: UP031
    saturate(full, _1=5, _2=6)
    if not sheds:
        assert decide(full).pool.name == "p"
        return
    with pytest.raises(Rejected) as caught:
        decide(full)
    assert (caught.value.reason, caught.value.retry_after_s) == (Reason.SATURATED, 1)
    assert caught.value.message == "Pool `p` is saturated and the request is sheddable; try again later."


def test_an_unlisted_model_is_not_sheddable() -> None:
    full = router(ONE_POOL)
    saturate(full, _1=5, _2=6)
    assert decide(full).pool.name == "p"


def test_one_endpoint_below_the_limits_is_room_enough() -> None:
    nearly = router(ONE_POOL + SHEDDABLE)
    saturate(nearly, _1=5, _2=4)
    assert decide(nearly).candidates == 2


def test_a_full_kv_cache_saturates_too() -> None:
    full = router(ONE_POOL + SHEDDABLE)
    for each in full.pools["p"].endpoints:
        each.observe(metrics(kv=0.9), NOW)
    assert reason(full) is Reason.SATURATED


def test_what_is_unknown_or_stale_is_not_saturated() -> None:
    part = router(ONE_POOL + SHEDDABLE)
    saturate(part, _1=50)
    assert decide(part).candidates == 2  # 10.0.0.2 was never scraped
    saturate(part, _2=50)
    assert reason(part) is Reason.SATURATED
    later = part.decide(request(), NOW + 2.0, random.Random(1))
    assert later.candidates == 2


def test_only_endpoints_that_could_take_the_request_count_for_saturation() -> None:
    text = """
pools:
- name: p
  endpoints: [{address: '10.0.0.1:80', labels: {v: a}}, {address: '10.0.0.2:80', labels: {v: a}}, '10.0.0.3:80']
models: [{name: m, pool: p, priority: -1, targets: [{model: a, labels: {v: a}}]}]
"""
    canary = router(text)
    saturate(canary, _1=5, _2=5, _3=0)
    assert reason(canary) is Reason.SATURATED
    hinted = router(ONE_POOL + SHEDDABLE)
    saturate(hinted, _1=5, _2=0)
    assert reason(hinted, subset=address.hints("10.0.0.1")) is Reason.SATURATED
