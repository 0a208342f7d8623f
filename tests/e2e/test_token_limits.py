"""Rate limits by tokens: what an answer cost reaches the rate limit service, as Envoy Gateway programs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from answer_examples import CHAT_ANSWER, EVENTS
from answering import ASKED, CHAT, DENIED, FULL_DUPLEX, JSON, WHOLE, Answer, Mode, running_world
from envoy.service.ratelimit.v3 import rls_pb2
from stack import eventually

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="function")]

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


class Limiter:
    """A rate limit service that says yes, and keeps what it is told."""

    def __init__(self) -> None:
        self.hits: list[int] = []
        self.address = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Limiter]:
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(
            self._should_rate_limit,
            rls_pb2.RateLimitRequest.FromString,
            rls_pb2.RateLimitResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(SERVICE, {"ShouldRateLimit": method})
        server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    async def _should_rate_limit(self, request: Any, _: object) -> Any:
        (descriptor,) = request.descriptors
        self.hits.append(descriptor.hits_addend.value)
        return rls_pb2.RateLimitResponse(overall_code=rls_pb2.RateLimitResponse.OK)


class Limited(Mode):
    """With a rate limit of answers by `total_tokens`, behind ext_proc as in Envoy Gateway's chain."""

    limiter: Limiter

    def change(self, bootstrap: dict[str, Any]) -> None:
        super().change(bootstrap)
        resources = bootstrap["static_resources"]
        manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        kind = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit"
        service = {
            "grpc_service": {"envoy_grpc": {"cluster_name": "limiter"}},
            "transport_api_version": "V3",
        }
        limit = {
            "@type": kind,
            "domain": "llm",
            "rate_limit_service": service,
            "timeout": "10s",
        }  # 20 ms by default
        manager["http_filters"].insert(-1, {"name": "envoy.filters.http.ratelimit", "typed_config": limit})
        by_tokens = {
            "actions": [{"generic_key": {"descriptor_value": "tokens"}}],
            "hits_addend": {"format": "%DYNAMIC_METADATA(extproc:total_tokens)%"},
            "apply_on_stream_done": True,
        }
        for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
            per_route = {"@type": f"{kind}PerRoute", "rate_limits": [by_tokens]}
            route["typed_per_filter_config"] = {"envoy.filters.http.ratelimit": per_route}
        host, _, port = self.limiter.address.rpartition(":")
        address = {"socket_address": {"address": host, "port_value": int(port)}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        resources["clusters"].append(
            {
                "name": "limiter",
                "type": "STATIC",
                "typed_extension_protocol_options": HTTP2,
                "load_assignment": {"cluster_name": "limiter", "endpoints": endpoints},
            }
        )


def limited(mode: Mode, limiter: Limiter) -> Limited:
    made = Limited(mode.name, mode.request, mode.response, mode.override)
    made.limiter = limiter
    return made


@pytest.mark.parametrize("mode", [ASKED, WHOLE, FULL_DUPLEX], ids=lambda mode: mode.name)
async def test_an_answer_costs_its_tokens(tmp_path: Path, mode: Mode) -> None:
    async with Limiter().running() as limiter, running_world(tmp_path, {}) as world:
        way = limited(mode, limiter)
        await world.ask(way, Answer(EVENTS))
        assert await eventually(lambda: limiter.hits, bool) == [90]
        await world.ask(way, Answer([CHAT_ANSWER], JSON, chunked=False))
        assert await eventually(lambda: limiter.hits[1:], bool) == [8]


IN_EACH = [
    event.replace(b'"choices":[{', b'"usage":{"prompt_tokens":70,"completion_tokens":20},"choices":[{')
    for event in EVENTS
]
ESTIMATE = 8 + 2
"""Tokens of a body of 34 bytes, and two events with content."""


@pytest.mark.parametrize(
    ("events", "cost"), [(EVENTS, ESTIMATE), (IN_EACH, 90)], ids=["at the end", "in each"]
)
async def test_a_client_that_leaves_with_the_last_token_pays_all_the_same(
    tmp_path: Path, events: list[bytes], cost: int
) -> None:
    async with Limiter().running() as limiter, running_world(tmp_path, {}) as world:
        stack = await world.through(limited(ASKED, limiter))
        world.upstream.answer = Answer(events, held_after=5)
        async with stack.client.post(CHAT, json={"model": "alias", "stream": True}) as response:
            async for line in response.content:
                if b'"finish_reason":"stop"' in line:
                    break
            response.close()
        assert await eventually(lambda: limiter.hits, bool) == [cost]
        world.upstream.answer.go_on.set()
        (line,) = await eventually(world.lines, bool)
        assert line["answer"] == "cut"


async def test_an_answer_that_was_not_read_costs_nothing(tmp_path: Path) -> None:
    async with Limiter().running() as limiter, running_world(tmp_path, {}) as world:
        await world.ask(limited(DENIED, limiter), Answer(EVENTS))
        await world.ask(limited(ASKED, limiter), Answer(EVENTS))
        assert await eventually(lambda: limiter.hits, bool) == [90]
