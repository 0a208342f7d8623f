"""The config file: what it says when it is right, and what the operator is told when it is not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from extproc.canary import Target
from extproc.config import Config, parse_config
from extproc.config.schema import (
    Criticality,
    EndpointConfig,
    Limits,
    MetricsConfig,
    ModelConfig,
    NeverConfig,
    PoolConfig,
    Saturation,
    Sticky,
    TargetConfig,
    TierConfig,
)
from extproc.engines import ENGINES
from extproc.scheduling.filters import FreshFilter, LabelsFilter
from extproc.scheduling.pickers import MaxScorePicker
from extproc.scheduling.profile import Profile, default_profile
from extproc.scheduling.scorers import KvCacheScorer, QueueScorer
from extproc.tiers import Spill

CONTRACT_EXAMPLE = """\
pools:                                # at least one
- name: reasoning-pool
  endpoints:                          # static; or `kubernetes:` (section 7)
  - {address: 127.0.0.1:8001, labels: {version: v1, tier: idc}}   # or just "127.0.0.1:8001"
  metrics:                            # all optional; these are the defaults
    engine: vllm                      # vllm | sglang | trtllm | none
    path: /metrics                    # trtllm: /prometheus/metrics
    port: null                        # another port than the endpoint's
    interval_s: 0.2
    timeout_s: 1.0
    max_age_s: 2.0
  profile: default
  fallback_endpoints: 0
  saturation: {waiting: 5, kv_usage: 0.9}
models:
- name: qwq                           # what clients write in `model`
  pool: reasoning-pool
  criticality: Critical               # Critical | Standard | Sheddable; or priority: <int> (1 | 0 | -1)
  targets:                            # absent: the name itself
  - {model: qwq-32b, weight: 90}      # weight: integer ≥ 0; all absent = equal shares
  - {model: qwq-32b-v2, weight: 10, labels: {version: v2}}        # only endpoints that carry these labels
  sticky: {header: x-user-id}
default_pool: reasoning-pool
profiles:                             # absent: a built-in default that is good
- name: default
  filters: [{type: fresh}]
  scorers: [{type: queue, weight: 2}, {type: kv-cache, weight: 2}]
  picker: {type: max-score}
limits: {max_body_bytes: 33554432, max_buffered_bytes: 1073741824}
trusted_headers: []
"""
POOL = "pools: [{name: a, endpoints: ['127.0.0.1:1']}]\n"


def model(rest: str) -> str:
    return POOL + "models: [{name: m, pool: a, %s}]\n" % rest  # noqa: UP031


def test_the_example_of_the_contract_loads_with_exactly_the_values_that_it_states() -> None:
    assert parse_config(CONTRACT_EXAMPLE.encode()) == Config(
        pools=[
            PoolConfig(
                name="reasoning-pool",
                endpoints=[EndpointConfig("127.0.0.1:8001", {"version": "v1", "tier": "idc"})],
                metrics=MetricsConfig(
                    engine="vllm", path="/metrics", port=None, interval_s=0.2, timeout_s=1.0, max_age_s=2.0
                ),
                profile="default",
                fallback_endpoints=0,
                saturation=Saturation(waiting=5, kv_usage=0.9),
            )
        ],
        models=[
            ModelConfig(
                name="qwq",
                pool="reasoning-pool",
                criticality=Criticality.CRITICAL,
                targets=[
                    TargetConfig("qwq-32b", 90),
                    TargetConfig("qwq-32b-v2", 10, {"version": "v2"}),
                ],
                sticky=Sticky("x-user-id"),
            )
        ],
        default_pool="reasoning-pool",
        profiles=[
            Profile(
                name="default",
                filters=[FreshFilter()],
                scorers=[QueueScorer(weight=2.0), KvCacheScorer(weight=2.0)],
                picker=MaxScorePicker(),
            )
        ],
        limits=Limits(max_body_bytes=33554432, max_buffered_bytes=1073741824),
        trusted_headers=[],
    )


def test_what_the_example_states_as_defaults_are_the_defaults() -> None:
    config = parse_config(POOL.encode())
    example = parse_config(CONTRACT_EXAMPLE.encode())
    engine = ENGINES[config.pools[0].metrics.engine]
    assert replace(config.pools[0].metrics, path=engine.path) == example.pools[0].metrics
    assert config.pools[0].saturation == example.pools[0].saturation
    assert config.pools[0].profile == example.pools[0].profile
    assert config.pools[0].fallback_endpoints == example.pools[0].fallback_endpoints
    assert config.limits == example.limits
    assert config.trusted_headers == []
    assert config.models == []
    assert config.profile("default") == default_profile()
    assert config.list_models == "answer"


def test_an_endpoint_is_written_short_or_long() -> None:
    config = parse_config(
        b"pools: [{name: a, endpoints: ['127.0.0.1:1', {address: '[::1]:2'}, {address: 10.0.0.3:3, labels: {k: v}}]}]"
    )
    assert config.pools[0].members() == [
        EndpointConfig("127.0.0.1:1"),
        EndpointConfig("[::1]:2"),
        EndpointConfig("10.0.0.3:3", {"k": "v"}),
    ]


def test_a_pool_may_have_no_endpoints_yet() -> None:
    assert parse_config(b"pools: [{name: a, endpoints: []}]").pools[0].members() == []


@pytest.mark.parametrize(
    ("rest", "name"),
    [
        ("", "a"),
        ("default_pool: a", "a"),
        ("default_pool: null", None),
        ("default_pool:", None),
    ],
)
def test_with_one_pool_it_is_the_default_unless_the_file_says_otherwise(rest: str, name: str | None) -> None:
    assert parse_config((POOL + rest).encode()).default_pool_name == name


def test_with_two_pools_neither_is_the_default_unless_the_file_says_so() -> None:
    pools = b"pools: [{name: a, endpoints: []}, {name: b, endpoints: []}]\n"
    assert parse_config(pools).default_pool_name is None
    assert parse_config(pools + b"default_pool: b").default_pool_name == "b"


@pytest.mark.parametrize(
    ("rest", "priority"),
    [
        ("", 0),
        ("criticality: Critical", 1),
        ("criticality: Standard", 0),
        ("criticality: Sheddable", -1),
        ("criticality: null", 0),
        ("priority: -7", -7),
        ("priority: 0", 0),
    ],
)
def test_criticality_is_a_priority(rest: str, priority: int) -> None:
    assert parse_config(model(rest).encode()).models[0].effective_priority == priority


def test_targets_without_weights_share_equally() -> None:
    targets = parse_config(model("targets: [{model: x}, {model: y}]").encode()).models[0].targets
    assert targets is not None
    assert [target.share for target in targets] == [1, 1]


def test_a_profile_of_the_file_replaces_the_built_in_default() -> None:
    config = parse_config(
        (POOL + "profiles: [{name: default, filters: [{type: labels, labels: {a: b}}]}]").encode()
    )
    assert config.profile("default") == Profile(name="default", filters=[LabelsFilter({"a": "b"})])


def test_anchors_and_merge_keys_work_and_own_keys_win() -> None:
    text = b"""
pools:
- &base {name: a, endpoints: ['127.0.0.1:1'], profile: default}
- &next {<<: *base, name: b}
- {<<: *next, name: c, profile: p}
profiles: [{name: p}]
"""
    pools = parse_config(text).pools
    assert [(p.name, p.profile) for p in pools] == [("a", "default"), ("b", "default"), ("c", "p")]


def test_a_target_of_the_config_is_a_target_of_the_core() -> None:
    assert isinstance(TargetConfig("x"), Target)


def test_tiers_and_the_tenants_they_never_serve_are_read() -> None:
    text = b"""
pools:
- name: a
  endpoints: [{address: '127.0.0.1:1', labels: {tier: idc}}]
  tiers:
  - {name: idc, labels: {tier: idc}}
  - {name: cloud, labels: {tier: cloud}, never: {header: X-Tenant, values: [bank]}}
  spill: {kv_usage: 0.7}
models: [{name: m, pool: a, never: cloud}, {name: n, pool: a, never: [cloud]}, {name: o, pool: a}]
trusted_headers: [x-tenant]
"""
    config = parse_config(text)
    assert config.pools[0].tiers == [
        TierConfig("idc", {"tier": "idc"}),
        TierConfig("cloud", {"tier": "cloud"}, NeverConfig("X-Tenant", ["bank"])),
    ]
    assert config.pools[0].spill == Spill(kv_usage=0.7)
    assert [model.barred_tiers for model in config.models] == [{"cloud"}, {"cloud"}, frozenset()]


@pytest.mark.parametrize(
    "endpoints",
    [
        "[]",
        "[{address: '127.0.0.1:1', labels: {tier: idc}}]",
        "[{address: '127.0.0.1:1', labels: {tier: idc}}, '127.0.0.1:2']",
    ],
)
def test_the_last_tier_may_have_no_endpoints_and_takes_those_without_a_tiers_labels(endpoints: str) -> None:
    tiers = "tiers: [{name: idc, labels: {tier: idc}}, {name: cloud, labels: {tier: cloud}}]"
    config = parse_config(f"pools: [{{name: a, endpoints: {endpoints}, {tiers}}}]".encode())
    assert [tier.name for tier in config.pools[0].tiers] == ["idc", "cloud"]
