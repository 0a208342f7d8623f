"""`make bench-live`: the bodies that it sends, its client, and what it concludes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from bench.live.client import PATH, Seen, play
from bench.live.fleet import balanced, config, flags
from bench.live.load import Load
from bench.live.plan import SETTINGS, WAYS, Setting
from bench.live.results import Figures, Result, verdict
from bench.live.texts import Script
from extproc.benchmark.measures import Latency
from extproc.benchmark.workload import Call
from extproc.benchmark.workloads import WORKLOADS
from extproc.body import BodyReader
from extproc.config.load import parse_config
from extproc.demo.bootstrap import POOL, render
from extproc.prompt import read_prompt
from extproc.request import CHECKPOINTS, Prompt
from extproc.sim.calls import Call as SimCall
from extproc.sim.calls import decode, generation
from extproc.sim.command import sim as sim_command
from extproc.sim.config import SimConfig

# -- bodies -------------------------------------------------------------------------------------------------

OWN = 1 << 20


@st.composite
def pairs_of_calls(draw: st.DrawFn) -> tuple[Call, Call, int]:
    """Two calls, and how many of their first blocks are equal."""
    shared = draw(st.integers(0, 90))
    split = draw(st.integers(0, shared))
    beginning = (range(split), range(5000, 5000 + shared - split))

    def call(number: int) -> tuple[Call, int]:
        own = draw(st.integers(0, 40))
        blocks = (*beginning, range(OWN * number, OWN * number + own))
        tokens = draw(st.integers(4, (shared + own) * 16 + 40))
        output = draw(st.integers(1, 500))
        return Call(prompt_tokens=tokens, output_tokens=output, blocks=blocks), min(shared, tokens // 16)

    (one, of_one), (other, of_other) = call(1), call(2)
    return one, other, min(of_one, of_other)


@given(pairs_of_calls(), st.sampled_from(["a", "b"]))
def test_equal_blocks_are_equal_to_a_model_server_and_others_are_not(
    calls: tuple[Call, Call, int], salt: str
) -> None:
    one, other, shared = calls
    script = Script([one, other])
    first, second = (served(script.body(number, own_salt)) for number, own_salt in enumerate(["a", salt]))

    assert equal_beginning(first.blocks, second.blocks) == (shared if salt == "a" else 0)


ALMOST = Call(prompt_tokens=61, output_tokens=1, blocks=(range(4),))
"""A checkpoint's length to the router, which counts four characters a token and what JSON adds."""


@given(pairs_of_calls(), st.sampled_from(["a", "b"]))
@example((ALMOST, ALMOST, 3), "a")
def test_equal_blocks_are_equal_to_the_router_and_others_are_not(
    calls: tuple[Call, Call, int], salt: str
) -> None:
    one, other, shared = calls
    script = Script([one, other])
    first, second = (read(script.body(number, own_salt)) for number, own_salt in enumerate(["a", salt]))

    checkpoints = sum(checkpoint <= 16 * shared for checkpoint in CHECKPOINTS)
    assert equal_beginning(first.prefix, second.prefix) == (checkpoints if salt == "a" else 0)


@given(pairs_of_calls())
def test_a_body_has_the_length_of_its_call_for_both_and_asks_for_an_answer_of_its_length(
    calls: tuple[Call, Call, int],
) -> None:
    call = calls[0]
    body = Script([call]).body(0, "salt")

    answer, prompt = served(body), read(body)
    assert (answer.prompt_tokens, answer.output_tokens, answer.stream) == (
        call.prompt_tokens,
        call.output_tokens,
        True,
    )
    assert call.prompt_tokens <= prompt.tokens <= call.prompt_tokens + 3
    assert prompt.max_output_tokens == call.output_tokens


@pytest.mark.parametrize(("blocks", "shared"), [((), 0), ((range(64),), 64)])
def test_what_a_workload_says_nothing_of_is_like_nothing_else(blocks: tuple[range, ...], shared: int) -> None:
    script = Script([Call(prompt_tokens=2000, output_tokens=1, blocks=blocks)] * 2)
    bodies = [script.body(number, "salt") for number in (0, 1)]

    assert equal_beginning(*(served(body).blocks for body in bodies)) == shared
    assert equal_beginning(*(read(body).prefix for body in bodies)) == shared // 4


def test_the_same_call_has_the_same_body_again() -> None:
    call = Call(prompt_tokens=200, output_tokens=7, blocks=(range(12),))

    assert Script([call]).body(0, "x") == Script([call]).body(0, "x")
    assert Script([call]).body(0, "x") != Script([call]).body(0, "y")


def served(body: bytes) -> SimCall:
    def never() -> int:
        raise AssertionError("the length of the answer is asked for")

    return generation(decode(body), "m", 32_768, never)


def read(body: bytes) -> Prompt:
    reader = BodyReader()
    list(reader.feed(body))
    list(reader.finish())
    reading = read_prompt(reader)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            found: Prompt = end.value
            return found


def equal_beginning(one: tuple[object, ...], other: tuple[object, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


# -- processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.workload)
def test_a_server_has_the_engine_of_its_workload_but_for_the_speed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = WORKLOADS[setting.workload].replicas[0].engine
    started: list[SimConfig] = []

    async def note(config: SimConfig) -> None:
        started.append(config)

    monkeypatch.setattr("extproc.sim.command.serve", note)
    ran = CliRunner().invoke(sim_command, ["--port", "0", *flags(engine, 3.0)], catch_exceptions=False)

    assert ran.exit_code == 0, ran.output
    live = started[0].engine
    assert {name: getattr(live, name) for name in engine.__struct_fields__} == {
        **{name: getattr(engine, name) for name in engine.__struct_fields__},
        "speed": 3.0,
        "max_num_batched_tokens": engine.token_budget,
    }


@pytest.mark.parametrize(("speed", "interval_s"), [(1.0, 0.2), (4.0, 0.05), (8.0, 0.025), (50.0, 0.02)])
def test_the_routers_clock_is_as_fast_as_the_servers(speed: float, interval_s: float) -> None:
    made = config(["10.0.0.1:8000"], speed)

    assert made["pools"][0]["metrics"] == {"interval_s": interval_s}
    parse_config(json.dumps(made).encode())  # it is one


@pytest.mark.parametrize(
    ("slug", "key"),
    [("least-request", "load_balancing_policy"), ("p2c", "lb_policy"), ("round-robin", "lb_policy")],
)
def test_each_way_of_envoys_own_has_one_policy(slug: str, key: str) -> None:
    way = next(way for way in WAYS if way.slug == slug)
    bootstrap = balanced(render(way.bootstrap, pools={POOL: ["10.0.0.1:8000"]}), way)

    (cluster,) = bootstrap["static_resources"]["clusters"]
    assert {
        name: cluster.get(name) for name in ("lb_policy", "load_balancing_policy") if name in cluster
    } == {key: way.balancing[key]}


# -- the client ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post(PATH, handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


EVENT = b'data: {"choices":[],"usage":{"completion_tokens":%d}}\n\n'


async def test_each_call_tells_who_answered_it_and_how_much_came() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"x-sim-server": f"server-{request.query['call']}"})
        await response.prepare(request)
        await response.write(EVENT % 1)
        if request.query["call"] == "0":
            await response.write(EVENT % 17 + b"data: [DONE]\n\n")
        else:
            await response.write(EVENT % 9)
            await asyncio.Event().wait()  # a long answer
        return response

    async with answering(handler) as url:
        seen = await play(url, [0.0, 0.05], lambda number: b"{}", "run", 20.0)

    assert [(s.call, s.server, s.error) for s in seen] == [(0, "server-0", ""), (1, "server-1", "")]
    assert (seen[0].tokens, seen[0].complete) == (17, True)
    assert (seen[1].tokens in (1, 9), seen[1].complete) == (True, False)
    assert all(s.first_s is not None and s.due_s <= s.first_s <= s.last_s for s in seen)


@pytest.mark.parametrize("way", ["refused", "cut", "mute"])
async def test_a_call_that_fails_says_so_and_holds_nobody_up_for_ever(way: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        await request.read()
        if way == "refused":
            return web.Response(status=503, text="no")
        if way == "mute":
            await asyncio.Event().wait()
        return web.Response(body=EVENT % 1)

    async with answering(handler) as url:
        (seen,) = await play(url, [0.0], lambda number: b"{}", "run", 0.3)

    assert (
        seen.error
        == {"refused": "503: no", "cut": "the stream ended without [DONE]", "mute": seen.error}[way]
    )
    assert (seen.first_s is None) == (way != "cut")


def test_nobody_has_said_anything_of_a_call_that_was_never_sent() -> None:
    assert (Seen(0, 1.0).tokens, Seen(0, 1.0).complete) == (0, False)


# -- conclusions --------------------------------------------------------------------------------------------


def load(**changes: object) -> Load:
    fair = {
        "wall_s": 1.0,
        "machine": 0.5,
        "cpu": {},
        "busiest": 0.2,
        "others": 0.0,
        "waited_s": 1e-4,
        "late_p99_s": 0.002,
    }
    return Load(**{**fair, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"machine": 1.0}, ""),
        ({"machine": 1.0, "waited_s": None}, "its cores were 100% busy"),
        ({"machine": 0.8, "waited_s": None}, ""),
        ({"waited_s": 0.002}, "our threads waited 2.0 ms for a core each time"),
        ({"busiest": 0.9}, "a process took 90% of a core"),
        ({"late_p99_s": 0.05}, "the client was 50 ms late"),
    ],
)
def test_a_machine_is_too_slow_where_something_waits_for_it(changes: dict[str, object], why: str) -> None:
    assert load(**changes).too_slow == why


def results(live: dict[str, float], simulated: dict[str, float], slow: bool, failed: float) -> list[Result]:
    """One round, by the ways' slugs; those not named have 1 s."""

    def figures(mean_s: float) -> Figures:
        ttft = Latency(mean_s=mean_s, median_s=1.0, p90_s=1.0, p99_s=1.0)
        return Figures(calls=9, failed_share=failed, ttft=ttft, tpot=ttft, hit_ratio=0.0, server_ttft_s=1.0)

    return [
        Result(
            workload="w",
            round=1,
            policy=way.name,
            live=figures(live.get(way.slug, 1.0)),
            simulated=figures(simulated.get(way.slug, 1.0)),
            replica_shares=(1.0,),
            load=load(waited_s=0.01 if slow else 0.0),
        )
        for way in WAYS
    ]


@pytest.mark.parametrize(
    ("live", "simulated", "slow", "failed", "says"),
    [
        ({"extproc": 0.6}, {"extproc": 0.5}, False, 0.0, "agrees"),
        ({"extproc": 0.6}, {"extproc": 0.5}, True, 0.0, "agrees"),
        ({"extproc": 1.2}, {"extproc": 0.5}, False, 0.0, "disagrees"),
        ({"extproc": 1.2}, {"extproc": 0.5}, True, 0.0, "cannot tell"),
        ({"extproc": 0.6}, {"extproc": 0.5}, False, 0.1, "disagrees"),
        ({"extproc": 0.6}, {"extproc": 2.0}, False, 0.0, "disagrees"),
        ({"extproc": 1.2}, {"extproc": 0.95}, False, 0.0, "agrees"),
        ({"p2c": 0.8}, {"p2c": 1.5}, False, 0.0, "disagrees"),
        ({"extproc": 1.03}, {"extproc": 0.8}, False, 0.0, "agrees"),
    ],
    ids=[
        "same order",
        "same order on a slow machine",
        "other order",
        "other order on a slow machine",
        "calls failed",
        "the other way round",
        "alike to the simulator",
        "other order of two baselines",
        "alike live",
    ],
)
def test_the_ranking_agrees_where_no_two_policies_that_the_simulator_ranks_are_turned_round(
    live: dict[str, float], simulated: dict[str, float], slow: bool, failed: float, says: str
) -> None:
    found = verdict("w", results(live, simulated, slow, failed))

    assert found.says == says
    assert len(found.pairs) == 6
    assert len(found.too_slow) == (4 if slow else 0)
