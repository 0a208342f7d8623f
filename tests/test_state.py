"""`/debug/state`: everything that decisions rest on, as JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from fleets import NOW, fleet, metrics

from extproc.config import Config, parse_config
from extproc.health import FAILURES, Failure
from extproc.router import Router
from extproc.state import describe

TEXT = """
pools:
- name: p
  endpoints: [{address: '10.0.0.1:80', labels: {v: a}}, '10.0.0.2:80']
models:
- name: m
  pool: p
  criticality: Critical
  sticky: {header: X-User}
  targets: [{model: x, weight: 9, labels: {v: a}}, {model: y, weight: 0}]
- {name: n, pool: p}
"""


def told(router: Router, now: float) -> dict[str, Any]:
    """As who asks gets it."""
    text = msgspec.json.encode(describe(router, "abc", now), order="deterministic")
    state: dict[str, Any] = json.loads(text)
    return state


UNMEASURED = {
    "step_s": 0.0,
    "token_s": 0.0,
    "iteration_s": 0.0,
    "prefill_rate": 0.0,
    "mean_output": 0.0,
    "compared_token_s": 1e-4,
    "slowness": 1.0,
}


def test_the_state_tells_pools_endpoints_models_and_the_config() -> None:
    of = fleet(TEXT)
    (_, first), (pool, second) = of.endpoints()
    first.acquire()
    first.acquire()
    first.linger(NOW + 5)
    first.observe(metrics(4, 2, 0.5, loras="b a", wait_loras="c", max_loras=4), NOW)
    first.models = ("x", "y")
    for _ in range(FAILURES):
        pool.failed(second, Failure.UNREACHABLE, NOW)
    assert of.router is not None
    of.router.loaded_at = 1234.5
    state = told(of.router, NOW + 0.25)
    values = parse_config(TEXT.encode())
    without = msgspec.structs.replace(values, pools=[msgspec.structs.replace(values.pools[0], endpoints=[])])
    assert msgspec.convert(state["config"].pop("values"), Config) == without
    assert state == {
        "format": 1,
        "config": {"sha256": "abc", "loaded_at": 1234.5},
        "default_pool": "p",
        "pools": [
            {
                "name": "p",
                "tiers": [],
                "mean_output": 0.0,
                "share": 1.0,
                "found": 0.0,
                "adapters": [],
                "endpoints": [
                    {
                        "address": "10.0.0.1:80",
                        "labels": {"v": "a"},
                        "tier": None,
                        "full": None,
                        "full_for_s": None,
                        "cordoned": None,
                        "max_in_flight": None,
                        "in_flight": 1,
                        "in_flight_at_scrape": 1,
                        "lingering": 0,
                        "external": 5,
                        "requests": 2,
                        "tokens_in_flight": 0.0,
                        "loras_in_flight": {},
                        "allowance": 1,
                        "backlog": {"tokens": 0.0, "rate": 0.0, "others": 0.0},
                        "speed": UNMEASURED,
                        "ready": True,
                        "health": {"failures": 0, "failing": False, "set_aside_for_s": 0.0, "cause": None},
                        "metrics_age_s": 0.25,
                        "fresh": True,
                        "fresh_for_s": 1.75,
                        "queue_fresh_for_s": 1.75,
                        "kv_fresh_for_s": 1.75,
                        "metrics": {
                            "waiting": 2,
                            "running": 4,
                            "kv_cache_usage": 0.5,
                            "running_loras": ["a", "b"],
                            "waiting_loras": ["c"],
                            "max_loras": 4,
                            "block_size": 0,
                            "num_gpu_blocks": 0,
                            "prompt_tokens_total": None,
                            "generation_tokens_total": None,
                            "requests_finished_total": None,
                            "prefix_cache_hits_total": None,
                            "iterations_total": None,
                        },
                        "models": ["x", "y"],
                    },
                    {
                        "address": "10.0.0.2:80",
                        "labels": {},
                        "tier": None,
                        "full": None,
                        "full_for_s": None,
                        "cordoned": None,
                        "max_in_flight": None,
                        "in_flight": 0,
                        "in_flight_at_scrape": 0,
                        "lingering": 0,
                        "external": 0,
                        "requests": 0,
                        "tokens_in_flight": 0.0,
                        "loras_in_flight": {},
                        "allowance": 64,
                        "backlog": {"tokens": 0.0, "rate": 0.0, "others": 0.0},
                        "speed": UNMEASURED,
                        "ready": False,
                        "health": {
                            "failures": 3,
                            "failing": False,
                            "set_aside_for_s": 4.75,
                            "cause": "unreachable",
                        },
                        "metrics_age_s": None,
                        "fresh": False,
                        "fresh_for_s": None,
                        "queue_fresh_for_s": None,
                        "kv_fresh_for_s": None,
                        "metrics": None,
                        "models": [],
                    },
                ],
            }
        ],
        "models": [
            {
                "name": "m",
                "pool": "p",
                "priority": 1,
                "sticky": "x-user",
                "profile": None,
                "never": [],
                "targets": [
                    {"model": "x", "weight": 9, "labels": {"v": "a"}},
                    {"model": "y", "weight": 0, "labels": {}},
                ],
            },
            {
                "name": "n",
                "pool": "p",
                "priority": 0,
                "sticky": None,
                "profile": None,
                "never": [],
                "targets": [{"model": "n", "weight": 1, "labels": {}}],
            },
        ],
    }


def test_the_state_tells_how_many_streams_are_thought_to_go_on_unseen() -> None:
    of = fleet(TEXT)
    (_, endpoint) = next(iter(of.endpoints()))
    for _ in range(3):
        endpoint.acquire()
    endpoint.linger(NOW + 5)
    assert of.router is not None
    first, _ = told(of.router, NOW)["pools"][0]["endpoints"]
    assert (first["in_flight"], first["lingering"]) == (3, 1)


def test_a_state_without_default_pool_or_models() -> None:
    of = fleet("pools: [{name: p, endpoints: []}]\ndefault_pool: null")
    assert of.router is not None
    state = told(of.router, NOW)
    assert state["default_pool"] is None
    assert state["pools"] == [
        {
            "name": "p",
            "tiers": [],
            "mean_output": 0.0,
            "share": 1.0,
            "found": 0.0,
            "adapters": [],
            "endpoints": [],
        }
    ]
    assert state["models"] == []


TIERS = """
pools:
- name: p
  endpoints: [{address: '10.0.0.1:80', labels: {tier: idc}}, '10.0.0.2:80']
  tiers: [{name: idc, labels: {tier: idc}}, {name: cloud, labels: {tier: cloud}}]
models: [{name: m, pool: p, never: cloud, profile: default}]
"""


def test_the_state_tells_each_endpoints_tier_whether_it_is_full_and_which_tiers_are_open() -> None:
    of = fleet(TIERS)
    found = []
    for waiting in (0, 9):
        of.scraped("10.0.0.1:80", metrics(waiting=waiting), NOW)
        assert of.router is not None
        state = told(of.router, NOW)
        (pool,) = state["pools"]
        found.append((pool["tiers"], [(e["tier"], e["full"]) for e in pool["endpoints"]]))
    idc = {"name": "idc", "labels": {"tier": "idc"}, "open": True}
    cloud = {"name": "cloud", "labels": {"tier": "cloud"}}
    assert found == [
        ([idc, {**cloud, "open": False}], [("idc", False), ("cloud", False)]),
        ([idc, {**cloud, "open": True}], [("idc", True), ("cloud", False)]),
    ]
    assert [(model["never"], model["profile"]) for model in state["models"]] == [(["cloud"], "default")]
