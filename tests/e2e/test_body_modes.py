"""How Envoy may send bodies besides BUFFERED and FULL_DUPLEX_STREAMED: no request goes anywhere unpinned in any."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from stack import (
    BUFFERED,
    QUICK_STOP,
    SHARED,
    Stack,
    Way,
    client_of,
    ext_proc_of,
    running,
    stack_fixture,
)

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy

pytestmark = SHARED

CHAT = "/v1/chat/completions"
HEAD, REST = b'{"model": "al', b'ias", "n": 1e400}'
NEW_BODY = b'{"model": "a-longer-name", "n": 1e400}'
DESTINATION, POOL_HEADER = "x-gateway-destination-endpoint", "x-extproc-pool"
ORIGINAL_DST = Way("buffered", "original-dst")
NEVER_S = 30.0
"""Until the rest of a body comes that is refused before."""
Change = Callable[[dict[str, Any]], object]


def config(addresses: list[str]) -> dict[str, Any]:
    labelled = [{"address": address, "labels": {"n": str(n)}} for n, address in enumerate(addresses)]
    return {
        "pools": [{"name": POOL, "endpoints": labelled}],
        "models": [
            {
                "name": "alias",
                "pool": POOL,
                "targets": [{"model": "a-longer-name", "labels": {"n": "0"}}],
            }
        ],
        "trusted_headers": ["x-gateway-model-name"],
    }


shared_stack = stack_fixture(config, [BUFFERED], upstreams=3, flags=QUICK_STOP)


@asynccontextmanager
async def envoy_with(
    stack: Stack, directory: Path, change: Change, way: Way = BUFFERED
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of another Envoy before the same service, its bootstrap changed."""
    pools = {POOL: [upstream.address for upstream in stack.upstreams]}
    envoy = Envoy(
        way.bootstrap,
        directory,
        pools=pools,
        ext_proc=stack.service.grpc,
        strip_client_pins=False,
        name="changed",
    )
    bootstrap = yaml.safe_load(envoy.config_file.read_text())
    change(bootstrap)
    envoy.config_file.write_text(yaml.safe_dump(bootstrap))
    async with running(envoy), client_of(envoy) as client:
        yield client


def sends(
    mode: str, *, override: bool = True, buffer_bytes: int | None = None, one_route: bool = False
) -> Change:
    """*one_route*: every request has a route to the pool, pinned or not."""

    def change(bootstrap: dict[str, Any]) -> None:
        settings, _ = ext_proc_of(bootstrap)
        settings["processing_mode"]["request_body_mode"] = mode
        settings["allow_mode_override"] = override
        (listener,) = bootstrap["static_resources"]["listeners"]
        if buffer_bytes is not None:
            listener["per_connection_buffer_limit_bytes"] = buffer_bytes
        if one_route:
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            del manager["route_config"]["virtual_hosts"][0]["routes"][0]["match"]["headers"]

    return change


async def in_two(gap_s: float = 0.05) -> AsyncIterator[bytes]:
    """A body that is half there when Envoy is answered its headers."""
    yield HEAD
    await asyncio.sleep(gap_s)
    yield REST


async def post(client: aiohttp.ClientSession, data: Any, **headers: str) -> tuple[int, str]:
    """(status, reason of ours)."""
    async with client.post(
        CHAT, data=data, headers={"content-type": "application/json", **headers}
    ) as response:
        await response.read()
        return response.status, response.headers.get("x-extproc-reason", "")


async def echo(client: aiohttp.ClientSession, data: Any) -> dict[str, Any]:
    """What the upstream answered."""
    async with client.post(CHAT, data=data) as response:
        answer: dict[str, Any] = await response.json()
    return answer


def pinned_to_the_first(stack: Stack) -> list[bytes]:
    """The bodies that reached the upstreams, where each went to the only endpoint that its model allows."""
    first, *others = stack.upstreams
    assert [other.requests for other in others] == [[], []]
    assert all(request.values(DESTINATION) == [first.address] for request in first.requests)
    assert all(request.path == CHAT for request in first.requests)
    return [request.body for request in stack.received()]


# -- STREAMED and BUFFERED_PARTIAL ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", [BUFFERED, ORIGINAL_DST], ids=lambda way: way.pinning)
@pytest.mark.parametrize("mode", ["STREAMED", "BUFFERED_PARTIAL"])
async def test_a_body_is_waited_for_and_pinned_whenever_it_comes(
    stack: Stack, tmp_path: Path, mode: str, way: Way
) -> None:
    forged = {DESTINATION: stack.upstreams[2].address, POOL_HEADER: "other"}
    big = HEAD + REST[:-1] + b" " * 3_000_000 + b"}"
    async with envoy_with(stack, tmp_path, sends(mode), way) as client:
        for data in (HEAD + REST, in_two(), in_two(0), io.BytesIO(big)):
            assert await post(client, data, **forged) == (200, "")
        async with client.get("/version") as response:
            assert response.status == 200

    *chats, version = stack.received()
    assert version.path == "/version"
    digests = [hashlib.sha256(request.body).digest() for request in chats]
    big_digest = hashlib.sha256(big.replace(b"alias", b"a-longer-name")).digest()
    assert digests == [hashlib.sha256(NEW_BODY).digest()] * 3 + [big_digest]
    for request in chats:
        assert request.values(DESTINATION) == [stack.upstreams[0].address]
        assert (request.path, request.values(POOL_HEADER)) == (CHAT, [POOL])
        assert request.values("content-length") == []  # Envoy drops it; the body is chunked


def logs_to(path: Path, text: str, change: Change) -> Change:
    """*change*, and an access log of lines of *text*."""

    def also(bootstrap: dict[str, Any]) -> None:
        change(bootstrap)
        (listener,) = bootstrap["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        log = {"path": str(path), "log_format": {"text_format_source": {"inline_string": text + "\n"}}}
        kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
        manager["access_log"] = [
            {"name": "envoy.access_loggers.file", "typed_config": {"@type": kind, **log}}
        ]

    return also


@pytest.mark.parametrize("mode", ["STREAMED", "BUFFERED_PARTIAL"])
async def test_the_path_of_a_refused_request_is_in_envoys_access_log(
    stack: Stack, tmp_path: Path, mode: str
) -> None:
    log = tmp_path / "access.log"
    change = logs_to(log, "%RESPONSE_CODE% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", sends(mode))
    async with envoy_with(stack, tmp_path, change) as client:
        for data in (HEAD + REST, HEAD):
            async with client.post(CHAT + "?user=a/b", data=data) as response:
                await response.read()

    assert log.read_text().splitlines() == [
        "200 /v1/chat/completions?user=a/b",
        "400 extproc:waits-for-its-body:%2Fv1%2Fchat%2Fcompletions?user=a%2Fb",
    ]
    assert [request.path for request in stack.received()] == [CHAT + "?user=a/b"]


@pytest.mark.parametrize("mode", ["STREAMED", "BUFFERED_PARTIAL"])
async def test_a_body_above_envoys_buffer_limit_is_refused_at_once(
    stack: Stack, tmp_path: Path, mode: str
) -> None:
    """Overridden by BUFFERED, Envoy 1.40 waits for ever for the rest of it."""
    async with envoy_with(stack, tmp_path, sends(mode, buffer_bytes=32768)) as client:
        for size in (100_000, 2_000_000):
            assert await post(client, io.BytesIO(HEAD + b" " * size)) == (413, "body_too_large")
        assert await post(client, HEAD + REST) == (200, "")

    assert pinned_to_the_first(stack) == [NEW_BODY]


@pytest.mark.parametrize("one_route", [False, True])
async def test_streamed_bodies_without_an_override_reach_nobody_unpinned(
    stack: Stack, tmp_path: Path, one_route: bool
) -> None:
    """Unless all of it was there in time: then Envoy holds even a STREAMED request, and all is well."""
    change = sends("STREAMED", override=False, one_route=one_route)
    async with envoy_with(stack, tmp_path, change) as client:
        assert await post(client, in_two(NEVER_S)) == (500, "unsupported_body_mode")
        answers = await asyncio.gather(
            *(post(client, in_two(number / 2000) if number % 2 else HEAD + REST) for number in range(40))
        )
        async with client.post(CHAT, data=in_two(NEVER_S)) as response:
            message = (await response.json())["error"]["message"]

    assert set(answers) <= {(200, ""), (500, "unsupported_body_mode")}
    assert pinned_to_the_first(stack) == [NEW_BODY] * answers.count((200, ""))
    assert "allow_mode_override" in message


# -- NONE ---------------------------------------------------------------------------------------------------


async def test_without_bodies_the_headers_decide_and_the_body_is_not_touched(
    stack: Stack, tmp_path: Path
) -> None:
    async with envoy_with(stack, tmp_path, sends("NONE")) as client:
        for _ in range(6):
            assert await post(client, HEAD + REST, **{"x-gateway-model-name": "alias"}) == (200, "")
        assert pinned_to_the_first(stack) == [HEAD + REST] * 6
        assert await post(client, HEAD + REST) == (200, "")
        (plain,) = stack.received()
        assert await post(client, in_two()) == (200, "")
        (chunked,) = stack.received()

    assert plain.body == chunked.body == HEAD + REST
    assert plain.values("content-length") == [str(len(HEAD + REST))]
    assert chunked.values("content-length") == []
    for request in (plain, chunked):
        assert request.values(DESTINATION)[0] in [upstream.address for upstream in stack.upstreams]
        assert request.values("x-gateway-model-name") == []


# -- observability mode -------------------------------------------------------------------------------------


def observes(mode: str) -> Change:
    def change(bootstrap: dict[str, Any]) -> None:
        sends(mode, one_route=True)(bootstrap)
        settings, _ = ext_proc_of(bootstrap)
        del settings["allow_mode_override"]
        settings |= {"observability_mode": True, "deferred_close_timeout": "0.3s"}

    return change


@pytest.mark.parametrize(
    ("mode", "decided"), [("STREAMED", ("alias", "a-longer-name")), ("NONE", (None, None))]
)
async def test_what_is_observed_goes_its_own_way_and_is_decided_beside_it(
    stack: Stack, tmp_path: Path, mode: str, decided: tuple[str | None, str | None]
) -> None:
    async with envoy_with(stack, tmp_path, observes(mode)) as client:
        answers = [await echo(client, in_two() if number % 3 else HEAD + REST) for number in range(9)]
        assert await stack.in_flight() == {}
        told = [await stack.log_of(answer) for answer in answers]
        await stack.idle()

    served = {upstream.address for upstream in stack.upstreams if upstream.requests}
    received = stack.received()
    assert [request.body for request in received] == [HEAD + REST] * 9
    assert [request.values(DESTINATION) for request in received] == [[]] * 9
    assert served == {upstream.address for upstream in stack.upstreams}
    assert {(line["outcome"], line["status"]) for line in told} == {("observed", 200)}
    assert {line["served"] for line in told} == served
    assert {(line["model"], line["target_model"]) for line in told} == {decided}
    if mode == "STREAMED":
        assert {line["endpoint"] for line in told} == {stack.upstreams[0].address}


async def test_what_we_would_have_refused_is_served_where_we_only_observe(
    stack: Stack, tmp_path: Path
) -> None:
    async with envoy_with(stack, tmp_path, observes("STREAMED")) as client:
        line = await stack.log_of(await echo(client, b"no JSON"))
        await stack.idle()

    assert (line["outcome"], line["refusal"], line["status"]) == ("observed", "invalid_json", 200)
    assert len(stack.received()) == 1
