"""A router made of `/debug/state` decides as the one that told it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import pytest
from fleets import NOW, fleet, metrics, request
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc import restoring
from extproc.config import parse_config
from extproc.endpoint import Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.errors import Rejected
from extproc.fleet import Fleet
from extproc.health import FAILURES, Failure
from extproc.holding import Lobby
from extproc.load_report import LoadReport
from extproc.request import Prompt
from extproc.restoring import StateError, parse, restore
from extproc.router import Decision, Router
from extproc.scheduling.plugin import Plugin
from extproc.state import FORMAT, SpeedState, describe
from extproc.work import Work

ADDRESSES = ("10.0.0.1:80", "10.0.0.2:80", "10.1.0.1:80", "10.1.0.2:80")
MEMBERS = """
  endpoints:
  - {address: '10.0.0.1:80', labels: {tier: idc, v: a}}
  - {address: '10.0.0.2:80', labels: {tier: idc}}
  - {address: '10.1.0.1:80', labels: {tier: cloud, v: a}}
  - {address: '10.1.0.2:80', labels: {tier: cloud}}
"""
MODELS = """
models:
- {name: m, pool: p, targets: [{model: lora}, {model: b, labels: {v: a}}], sticky: {header: x-user}}
- {name: s, pool: p, criticality: Sheddable}
"""
TIERS = "  tiers: [{name: idc, labels: {tier: idc}}, {name: cloud, labels: {tier: cloud}}]\n"
SCORERS = (
    "["
    + ", ".join(
        f"{{type: {name}}}"
        for name in (
            "queue",
            "running",
            "in-flight",
            "kv-cache",
            "lora-affinity",
            "outstanding-work",
            "session-affinity",
        )
    )
    + "]"
)
FILTERS = "[{type: fresh}, {type: unsaturated}, {type: prefer-labels, labels: {v: a}}]"
PROFILE = f"profiles: [{{name: default, filters: {FILTERS}, scorers: {SCORERS}}}]\n"
CONFIGS = {
    "plain": f"pools:\n- name: p{MEMBERS}{MODELS}",
    "tiers": f"pools:\n- name: p{MEMBERS}{TIERS}{MODELS}",
    "queue": f"pools:\n- name: p{MEMBERS}  queue: {{timeout_s: 1}}\n{MODELS}",
    "everything": (
        f"pools:\n- name: p{MEMBERS}{TIERS}  queue: {{timeout_s: 1}}\n  fallback_endpoints: 2\n{MODELS}{PROFILE}"
    ),
}

seconds = st.floats(0.0, 6.0, allow_nan=False)
scrapes = st.builds(
    EngineMetrics,
    waiting=st.integers(0, 6),
    running=st.integers(0, 60),
    kv_cache_usage=st.none() | st.floats(0.0, 1.0),
    running_loras=st.sampled_from([frozenset(), frozenset({"lora"}), frozenset({"x", "y"})]),
    max_loras=st.integers(0, 2),
    block_size=st.just(16),
    num_gpu_blocks=st.sampled_from([0, 1000]),
    prompt_tokens_total=st.floats(0, 1e6),
    generation_tokens_total=st.floats(0, 1e6),
    requests_finished_total=st.floats(0, 1e4),
    iterations_total=st.floats(0, 1e5),
)
works = st.builds(
    Work,
    prompt_tokens=st.integers(0, 9000),
    new_tokens=st.integers(0, 9000),
    output_tokens=st.floats(0, 900),
    adapter=st.sampled_from([None, "lora"]),
)


class Speed(NamedTuple):
    """As measured since the pool's endpoints were last compared, and as they compared then."""

    prefill_rate: float
    step_s: float
    mean_output: float
    token_s: float
    slowness: float


speeds = st.builds(
    Speed,
    st.sampled_from([0.0, 1000.0, 9000.0]),
    st.sampled_from([0.001, 0.01, 0.1]),
    st.floats(0, 900),
    st.floats(1e-5, 1e-3),
    st.floats(0.2, 5),
)
reports = st.builds(LoadReport, st.none() | st.integers(0, 6), st.none() | st.floats(0.0, 1.0))
Event = EngineMetrics | LoadReport | Work | Failure | Speed
events = st.lists(
    st.tuples(
        st.sampled_from(ADDRESSES),
        seconds,
        st.one_of(scrapes, reports, works, speeds, st.sampled_from(Failure)),
    ),
    max_size=40,
)
requests = st.tuples(
    st.sampled_from(["m", "s", "unlisted"]),
    st.integers(0, 20_000),
    st.sampled_from([{}, {"x-user": "ann"}, {"x-session-id": "7"}]),
)


def lived(text: str, happened: list[tuple[str, float, Event]]) -> tuple[Fleet, float]:
    """A fleet to which all that has happened, one thing after another; and when the last did."""
    of, now = fleet(text), NOW
    for address, pause_s, what in happened:
        now += pause_s
        ((pool, endpoint),) = of.at(address)
        if isinstance(what, EngineMetrics):
            of.scraped(address, what, now)
        elif isinstance(what, LoadReport):
            endpoint.reported(what, now)
        elif isinstance(what, Work):
            endpoint.acquire(what, now)
        elif isinstance(what, Speed):
            endpoint.token_s, endpoint.slowness = what.token_s, what.slowness
            for name in ("prefill_rate", "step_s", "mean_output"):
                setattr(endpoint.step_time, name, getattr(what, name))
        else:
            pool.failed(endpoint, what, now)
        for tiers in of.router.tiers.values() if of.router else ():
            list(tiers.preferences(pool.endpoints, 0, now))  # remembers who is full
    return of, now


def answers(router: Router, now: float, model: str, tokens: int, headers: Mapping[str, str]) -> list[object]:
    """What comes of a request, under several seeds; twice each, as deciding may leave something behind."""
    told: list[object] = []
    for seed in (1, 1, 2, 3):
        asked = request(model, prompt=Prompt(tokens), headers=headers)
        try:
            answer = Lobby().offer(router, asked, None, now, random.Random(seed))
        except Rejected as rejection:
            told.append((rejection.reason, rejection.message))
            continue
        told.append(facts(answer) if isinstance(answer, Decision) else "held")
    return told


def facts(decision: Decision) -> dict[str, object]:
    table = decision.choice.table
    assert table is not None
    work = decision.work
    return {
        "pin": decision.pin,
        "target": (decision.target_model, decision.target_fallback),
        "tier": decision.tier,
        "candidates": decision.candidates,
        "dropped": decision.choice.dropped,
        "columns": [list(column) for column in table.columns],
        "work": (work.prompt_tokens, work.new_tokens, work.output_tokens, work.adapter),
    }


def told_by(router: Router, now: float) -> bytes:
    return msgspec.json.encode(describe(router, "abc", now), order="deterministic")


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
@settings(deadline=None)
@given(happened=events, later_s=seconds, asked=requests)
def test_a_restored_router_decides_as_the_one_that_told_the_state(
    text: str,
    happened: list[tuple[str, float, Event]],
    later_s: float,
    asked: tuple[str, int, dict[str, str]],
) -> None:
    of, now = lived(text, happened)
    assert of.router is not None
    now += later_s
    state = told_by(of.router, now)
    restored = restore(parse(state))
    assert shared(told_by(restored, restoring.NOW)) == shared(state)
    assert answers(restored, restoring.NOW, *asked) == answers(of.router, now, *asked)


def shared(state: bytes) -> object:
    """All but what people read and no decision rests on."""
    told = json.loads(state)
    for endpoint in told["pools"][0]["endpoints"]:
        del endpoint["lingering"], endpoint["health"]["cause"]
    return told


ONE = "pools: [{name: p, endpoints: ['10.0.0.1:80']}]"


@pytest.mark.parametrize("cause", list(Failure))
def test_the_last_chance_of_a_pool_is_still_failing(cause: Failure) -> None:
    of, now = lived(ONE, [("10.0.0.1:80", 0.0, cause)] * FAILURES)
    assert of.router is not None
    ((endpoint,),) = [pool.endpoints for pool in restore(parse(told_by(of.router, now))).pools.values()]
    assert (endpoint.health.is_failing(restoring.NOW), endpoint.health.is_set_aside(restoring.NOW)) == (
        True,
        False,
    )


def state_of(text: str = ONE) -> bytes:
    router = fleet(text).router
    assert router is not None
    return told_by(router, NOW)


def at(router: Router, address: str) -> Endpoint:
    return router.pools["p"].by_address[address]


def test_another_config_decides_over_the_endpoints_as_they_are() -> None:
    of = fleet(ONE)
    of.scraped("10.0.0.1:80", metrics(running=7), NOW)
    assert of.router is not None
    text = "pools: [{name: p, endpoints: [{address: '10.0.0.1:80', labels: {v: b}}, '10.0.0.9:80']}]"
    slow = text.replace("name: p,", "name: p, metrics: {max_age_s: 9},")
    state = parse(told_by(of.router, NOW + 5))
    told = []
    for config in (None, text, slow):
        router = restore(state, config and parse_config(config.encode()))  # type: ignore[arg-type]
        known = at(router, "10.0.0.1:80")
        told.append(
            (list(router.pools["p"].by_address), known.labels, known.load, known.is_fresh(restoring.NOW))
        )
    both = ["10.0.0.1:80", "10.0.0.9:80"]
    assert told == [
        (["10.0.0.1:80"], {}, 7, False),
        (both, {"v": "b"}, 7, False),
        (both, {"v": "b"}, 7, True),
    ]
    assert at(router, "10.0.0.9:80").metrics is None


def test_another_config_says_itself_who_is_cordoned_and_a_command_holds_on() -> None:
    three = ", ".join(f"'10.0.0.{n}:80'" for n in (1, 2, 3))
    of = fleet(f"pools: [{{name: p, endpoints: [{three}]}}]")
    for (_, endpoint), by in zip(of.endpoints(), ("config", "command", None), strict=True):
        endpoint.cordoned = by  # type: ignore[assignment]
    assert of.router is not None
    other = three.replace("'10.0.0.3:80'", "{address: '10.0.0.3:80', cordoned: true, max_in_flight: 7}")
    text = f"pools: [{{name: p, max_in_flight: 9, endpoints: [{other}]}}]"
    router = restore(parse(told_by(of.router, NOW)), parse_config(text.encode()))
    found = [(e.cordoned, e.max_in_flight) for e in router.pools["p"].endpoints]
    assert found == [(None, 9), ("command", 9), ("config", 7)]


def test_a_state_holds_no_token_and_no_path_of_one() -> None:
    text = "pools: [{name: p, endpoints: ['10.0.0.1:80'], metrics: {bearer_token_file: /run/secret/token}}]"
    assert b"secret" not in state_of(text)


def test_the_pool_of_a_cluster_is_restored_with_the_endpoints_that_it_had() -> None:
    text = "pools: [{name: p, kubernetes: {service: s, namespace: n, port: 80}}]"
    endpoints = json.loads(state_of())["pools"]
    router = restore(parse(msgspec.json.encode({**json.loads(state_of(text)), "pools": endpoints})))
    assert list(router.pools["p"].by_address) == ["10.0.0.1:80"]


def changed(**values: object) -> bytes:
    return msgspec.json.encode({**json.loads(state_of()), **values})


BAD_CONFIG = json.loads(state_of())["config"]
BAD_CONFIG["values"]["models"] = [{"name": "m", "pool": "q"}]
BAD_STATES = {
    "it is no state as /debug/state tells it: JSON is malformed: invalid character (byte 0)": b"<html>",
    "it is no state as /debug/state tells it: Input data was truncated": b"",
    "it is no state as /debug/state tells it: Expected `object`, got `array`": b"[]",
    "it is no state as /debug/state tells it: Object missing required field `format`": b"{}",
    "it is from a version of extproc before `explain`, and tells too little": b'{"config": {}, "pools": []}',
    f"its format is 0, and this version of extproc reads {FORMAT}": changed(format=0),
    f"its format is 99, and this version of extproc reads {FORMAT}": changed(format=99),
    "it is no state as /debug/state tells it: Expected `str`, got `int` - at `$.pools[0].name`": changed(
        pools=[{"name": 1}]
    ),
    "its config contradicts itself: $.models[0].pool: 'q' is not defined; defined: p": changed(
        config=BAD_CONFIG
    ),
}


@pytest.mark.parametrize(("message", "text"), BAD_STATES.items(), ids=range(len(BAD_STATES)))
def test_what_is_no_state_is_refused_with_a_reason(message: str, text: bytes) -> None:
    with pytest.raises(StateError) as error:
        parse(text)
    assert str(error.value) == message


def test_speeds_work_of_others_and_models_are_as_they_were() -> None:
    of = fleet(ONE)
    assert of.router is not None
    first = at(of.router, "10.0.0.1:80")
    step_time = first.step_time
    step_time.step_s, step_time.token_s, step_time.iteration_s = 0.03, 1e-4, 0.04
    step_time.prefill_rate, step_time.mean_output = 5000.0, 321.0
    first.token_s, first.slowness = 2e-4, 1.5
    first.backlog.others, first.models = 1000.0, ("m",)
    others = of.router.pools["p"].others
    others.share, others.found = 0.25, 0.5
    router = restore(parse(told_by(of.router, NOW)))
    restored, others = at(router, "10.0.0.1:80"), router.pools["p"].others
    assert speeds(restored) == speeds(first)
    assert (restored.backlog.others, restored.models) == (1000.0, ("m",))
    assert (others.share, others.found) == (0.25, 0.5)


def speeds(endpoint: Endpoint) -> tuple[float, ...]:
    measured = (getattr(endpoint.step_time, name) for name in SpeedState.__struct_fields__[:5])
    return (*measured, endpoint.token_s, endpoint.slowness)


def test_a_speed_that_makes_no_sense_is_refused() -> None:
    endless = {"address": "10.0.0.1:80", "speed": {"prefill_rate": 1.0}}  # and no time for an iteration
    state = parse(changed(pools=[{"name": "p", "endpoints": [endless]}]))
    with pytest.raises(StateError, match="division by zero"):
        restore(state)


def test_an_address_that_is_none_is_refused() -> None:
    state = parse(changed(pools=[{"name": "p", "endpoints": [{"address": "pod-1"}]}]))
    with pytest.raises(StateError, match=r"'pod-1' is not IP:PORT"):
        restore(state)


def test_every_plugin_of_a_profile_survives_in_a_state() -> None:
    kinds = sorted(kind.type_name() for kind in Plugin.__subclasses__())
    given = [{"type": name} for name in ("prefix-affinity", "prefix-hash", "session-affinity", "queue")]
    text = (
        f"{ONE}\nprofiles: [{{name: default, scorers: {json.dumps(given)}, picker: {{type: power-of-two}}}}]"
    )
    restored = restore(parse(state_of(text)))
    assert restored.config.profile("default") == parse_config(text.encode()).profile("default")
    assert {"power-of-two", "queue"} <= set(kinds)
