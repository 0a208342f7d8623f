"""`/debug/explain`: the last decisions with their scores, and nothing that a client sent but the request's id."""

from __future__ import annotations

import json
import random
from typing import Any

import aiohttp
import pytest
from ext_proc_service import CHAT, A, B, serving
from fleets import NOW, fleet, metrics, request
from prometheus_client import CollectorRegistry
from prompts import prompt

from extproc.http_server import HttpServer
from extproc.recent import KEPT, MAX_ID, RecentDecisions
from extproc.router import Decision, Router

TEXT = f"""
pools:
- {{name: p, endpoints: ['{A}', '{B}', '127.0.0.1:8003', {{address: '127.0.0.1:8004', labels: {{v: a}}}}]}}
models: [{{name: m, pool: p, targets: [{{model: x}}]}}]
profiles:
- name: default
  filters: [{{type: fresh}}]
  scorers: [{{type: running, weight: 2}}, {{type: kv-cache}}]
"""


def a_router() -> Router:
    of = fleet(TEXT)
    for address, running, kv in ((A, 4, 0.5), (B, 1, 0.25), ("127.0.0.1:8004", 0, 0.0)):
        of.scraped(address, metrics(running, kv=kv), NOW)
    of.at("127.0.0.1:8004")[0][1].health.set_aside_until = NOW + 9
    assert of.router is not None
    return of.router


def decided(router: Router, **fields: Any) -> Decision:
    return router.decide(request(**fields), NOW, random.Random(1))


def test_a_decision_is_told_with_every_endpoints_scores() -> None:
    recent, router = RecentDecisions(), a_router()
    asked = prompt(("text", 4))
    router.pools["p"].index.insert(asked.prefix[:2], router.pools["p"].endpoints[1], NOW, _salt(router))
    recent.add(decided(router, prompt=asked), {"x-request-id": "r-1", "authorization": "Bearer secret"}, NOW)
    told = recent.describe(NOW + 2)
    assert told == [
        {
            "request_id": "r-1",
            "age_s": 2.0,
            "model": "m",
            "target_model": "x",
            "target_fallback": False,
            "pool": "p",
            "tier": None,
            "endpoint": B,
            "fallbacks": [],
            "mirror": None,
            "candidates": 3,
            "prompt_tokens": 256,
            "new_tokens": 128,
            "profile": "default",
            "picker": "max-score",
            "weights": {"running": 2.0, "kv-cache": 1.0},
            "as_good": [B],
            "dropped": {"fresh": 1},
            "endpoints": [
                {
                    "address": B,
                    "total": 2.75,
                    "scores": {"running": 1.0, "kv-cache": 0.75},
                    "cached_tokens": 128,
                },
                {"address": A, "total": 0.5, "scores": {"running": 0.0, "kv-cache": 0.5}, "cached_tokens": 0},
                {"address": "127.0.0.1:8003", "by": "fresh"},
                {"address": "127.0.0.1:8004", "by": None},
            ],
        }
    ]


def _salt(router: Router) -> int:
    asked = request(target_model="x", prompt=prompt(("text", 1)))
    return router.pools["p"].work(asked, router.pools["p"].endpoints[0]).salt


def test_a_lone_endpoint_was_not_rated() -> None:
    recent = RecentDecisions()
    recent.add(decided(a_router(), subset=frozenset({A})), {}, NOW)
    (told,) = recent.describe(NOW)
    assert (told["request_id"], told["as_good"]) == (None, [A])
    assert told["endpoints"][0] == {"address": A, "total": None, "scores": {}, "cached_tokens": 0}


def test_the_decision_itself_keeps_none_of_it() -> None:
    recent, decision = RecentDecisions(), decided(a_router())
    recent.add(decision, {}, NOW)
    assert decision.choice.table is None
    recent.add(decision, {}, NOW)
    assert [told["endpoints"] is None for told in recent.describe(NOW)] == [True, False]


def test_only_the_last_are_kept_the_newest_first() -> None:
    recent, router = RecentDecisions(), a_router()
    for number in range(KEPT + 10):
        recent.add(decided(router), {"x-request-id": str(number % 70)}, NOW)
    assert [told["request_id"] for told in recent.describe(NOW, limit=6)] == ["3", "2", "1", "0", "69", "68"]
    assert len(recent.describe(NOW)) == KEPT
    assert [told["request_id"] for told in recent.describe(NOW, request_id="9")] == []
    assert len(recent.describe(NOW, request_id="69")) == 1


def test_a_long_request_id_is_cut() -> None:
    recent = RecentDecisions()
    recent.add(decided(a_router()), {"x-request-id": "r" * 10_000}, NOW)
    assert [told["request_id"] for told in recent.describe(NOW)] == ["r" * MAX_ID]
    assert len(recent.describe(NOW, request_id="r" * MAX_ID)) == 1


# -- over HTTP ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", (10, None)),
        ("?limit=1", (1, None)),
        ("?limit=7&request_id=a%2Fb", (7, "a/b")),
        ("?limit=999999999", (999999999, None)),
    ],
)
async def test_the_query_says_whose_and_how_many(query: str, asked: tuple[int, str | None]) -> None:
    http = HttpServer(CollectorRegistry(), list, list, dict, lambda *given: [{"given": given}])
    port = await http.start("127.0.0.1", 0)
    try:
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"http://127.0.0.1:{port}/debug/explain{query}") as response,
        ):
            assert (response.status, response.content_type) == (200, "application/json")
            assert await response.json() == {"decisions": [{"given": list(asked)}]}
    finally:
        await http.stop()


@pytest.mark.parametrize("limit", ["0", "-1", "many", "", "1.5", "٣", "1" * 5000])
async def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    http = HttpServer(CollectorRegistry(), list, list, dict, lambda *_: [])
    port = await http.start("127.0.0.1", 0)
    try:
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"http://127.0.0.1:{port}/debug/explain", params={"limit": limit}) as response,
        ):
            assert response.status == 400
            assert await response.text() == f"limit: expected an integer from 1, at most {KEPT} are kept\n"
    finally:
        await http.stop()


# -- from Envoy's side --------------------------------------------------------------------------------------

TWO = f"pools: [{{name: pool, endpoints: ['{A}', '{B}']}}]"


async def test_each_routed_request_is_kept_and_no_secret_of_it() -> None:
    async with serving(TWO) as (service, envoy):
        for number, body in enumerate((b'{"model":"qwq","messages":"secret"}', b'{"model":"m"}', b"no JSON")):
            stream = envoy.stream()
            headers = {"x-request-id": f"r-{number}", "authorization": "Bearer secret", "cookie": "secret"}
            await stream.request_headers({**CHAT, ":path": "/v1/chat/completions?key=secret", **headers})
            await stream.reply()
            await stream.request_body(body)
            await stream.reply()
            await stream.end()
        await service.idle()
        told = service.processor.recent.describe(0.0)
        assert [(one["request_id"], one["model"]) for one in told] == [("r-1", "m"), ("r-0", "qwq")]
        assert sorted(row["address"] for row in told[0]["endpoints"]) == [A, B]
        assert "secret" not in json.dumps(told)
