"""What is told of a mirrored request: to Envoy, the log, the metrics, and `/debug/explain`."""

from __future__ import annotations

import pytest
from envoy_peer import EnvoyPeer
from ext_proc_service import CHAT, REQUEST_HEADERS_GO, RESPONSE_HEADERS_GO, serving
from fleets import NOW, decide, router

from extproc import pin
from extproc.recent import RecentDecisions
from extproc.router import Decision

CONFIG = """
pools: [{name: pool, endpoints: ["127.0.0.1:8001"]}]
models:
- {name: qwq, pool: pool, targets: [{model: a}], mirrors: [{name: shadow, percent: 100}]}
- {name: plain, pool: pool}
"""
NO_STICKY: frozenset[str] = frozenset()


def decision(model: str | None) -> Decision:
    return decide(router(CONFIG), model)


def test_the_mirror_is_set_as_a_header_and_as_metadata() -> None:
    mutation = pin.mutation(decision("qwq"), {}, NO_STICKY, None)
    assert mutation.set_headers == (
        ("x-gateway-destination-endpoint", "127.0.0.1:8001"),
        ("x-extproc-pool", "pool"),
        ("x-gateway-model-name", "qwq"),
        ("x-extproc-mirror", "shadow"),
    )
    assert mutation.metadata["extproc"] == {
        "pool": "pool",
        "endpoint": "127.0.0.1:8001",
        "model": "qwq",
        "target_model": "a",
        "mirror": "shadow",
    }
    assert mutation.clear_route_cache


def test_a_clients_mirror_header_gives_way_to_ours() -> None:
    mutation = pin.mutation(decision("qwq"), {"x-extproc-mirror": "mine"}, NO_STICKY, None)
    assert (dict(mutation.set_headers)["x-extproc-mirror"], mutation.remove_headers) == ("shadow", ())


@pytest.mark.parametrize("model", ["plain", "not listed", None])
def test_a_clients_mirror_header_is_removed_where_nothing_is_mirrored(model: str | None) -> None:
    mutation = pin.mutation(decision(model), {"x-extproc-mirror": "shadow"}, NO_STICKY, None)
    assert "x-extproc-mirror" not in dict(mutation.set_headers)
    assert mutation.remove_headers == ("x-extproc-mirror",)
    assert "mirror" not in mutation.metadata["extproc"]


async def ask(envoy: EnvoyPeer, model: str) -> None:
    stream = envoy.stream()
    await stream.request_headers(CHAT)
    assert await stream.reply() == REQUEST_HEADERS_GO
    await stream.request_body(b'{"model":"%s"}' % model.encode())
    await stream.reply()
    await stream.response_headers(200)
    assert await stream.reply() == RESPONSE_HEADERS_GO
    await stream.end()


async def test_mirrored_requests_are_counted_and_their_log_lines_say_so() -> None:
    async with serving(CONFIG) as (service, envoy):
        for model in ("qwq", "plain", "qwq"):
            await ask(envoy, model)
        lines = await service.log_lines()
        counted = service.sample("extproc_mirrored_requests_total", model="qwq", mirror="shadow")
        of_plain = service.sample("extproc_mirrored_requests_total", model="plain", mirror="shadow")
    told = [(line["model"], line.get("mirror")) for line in lines]
    assert sorted(told) == [("plain", None), ("qwq", "shadow"), ("qwq", "shadow")]
    assert (counted, of_plain) == (2.0, None)


def test_the_last_decisions_name_the_mirror() -> None:
    recent = RecentDecisions()
    for model in ("qwq", "plain"):
        recent.add(decision(model), {}, NOW)
    assert [(told["model"], told["mirror"]) for told in recent.describe(NOW)] == [
        ("plain", None),
        ("qwq", "shadow"),
    ]
