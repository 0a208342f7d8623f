"""Answers that are not read, those that break off, and what becomes of them when the router does."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from answer_examples import CHAT_ANSWER, EVENTS
from answering import (
    ASKED,
    CHAT,
    DENIED,
    FULL_DUPLEX,
    JSON,
    NOT_HONOURED,
    SENDING,
    STREAMED,
    Answer,
    Mode,
    World,
    running_world,
    world_fixture,
)
from stack import eventually

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

restoring = world_fixture({"restore_model": True})
every_mode = pytest.mark.parametrize("mode", SENDING, ids=lambda mode: mode.name)


# -- what is left alone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [DENIED, NOT_HONOURED], ids=lambda mode: mode.name)
async def test_without_a_right_to_override_answers_go_through_untouched_and_that_is_counted(
    restoring: World, mode: Mode
) -> None:
    stack = await restoring.through(mode)
    before = await stack.metric("answers_read_total", result="not_sent")
    for answer in (Answer(EVENTS, gap_s=0.02), Answer([CHAT_ANSWER], JSON, chunked=False)):
        got = await restoring.ask(mode, answer)
        assert got.body == answer.body
        assert (got.line["answer"], got.line["outcome"]) == ("not_sent", "completed")
    assert await stack.metric("answers_read_total", result="not_sent") == before + 2


class Unrouted(Mode):
    """No route leads to the pool: the entry rule answers, and names its reason as printed manifests have it."""

    def change(self, bootstrap: dict[str, Any]) -> None:
        super().change(bootstrap)
        (listener,) = bootstrap["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        (host,) = manager["route_config"]["virtual_hosts"]
        (entry,) = (route for route in host["routes"] if "direct_response" in route)
        reason = {"header": {"key": "x-extproc-reason", "value": "no_route"}}
        host["routes"] = [{**entry, "response_headers_to_add": [reason]}]


async def test_the_reason_of_a_refusal_is_ours_or_envoys_and_never_a_model_servers(restoring: World) -> None:
    said = {"x-extproc-reason": "overloaded", "endpoint-load-metrics": "TEXT a=1", "x-other": "stays"}
    got = await restoring.ask(DENIED, Answer([b"{}"], JSON, status=503, headers=said, chunked=False))
    assert [got.header(name) for name in said] == [None, None, "stays"]
    assert (got.access["reason"], got.line["outcome"]) == (None, "upstream_error")

    stack = await restoring.through(Unrouted("unrouted", override=False))
    async with stack.client.post(CHAT, json={"model": "alias"}) as response:
        assert (response.status, response.headers["x-extproc-reason"]) == (404, "no_route")


@every_mode
async def test_encoded_answers_are_not_touched(restoring: World, mode: Mode) -> None:
    packed = gzip.compress(CHAT_ANSWER)
    got = await restoring.ask(
        mode, Answer([packed], JSON, headers={"content-encoding": "gzip"}, chunked=False)
    )
    assert (got.body, got.line["answer"]) == (packed, "encoded")
    assert got.header("content-encoding") == "gzip"


@every_mode
@pytest.mark.parametrize("status", [400, 404, 500])
async def test_neither_are_errors(restoring: World, mode: Mode, status: int) -> None:
    got = await restoring.ask(mode, Answer([CHAT_ANSWER], JSON, status=status, chunked=False))
    assert got.head.startswith(b"HTTP/1.1 %d" % status)
    assert got.body == CHAT_ANSWER
    assert "answer" not in got.line


@every_mode
async def test_neither_is_what_has_no_body(restoring: World, mode: Mode) -> None:
    got = await restoring.ask(mode, Answer([], JSON, status=204, chunked=False))
    assert (got.head.split()[1], got.body) == (b"204", b"")
    assert "answer" not in got.line

    stack, told = await restoring.through(mode), len(restoring.lines())
    restoring.upstream.answer = Answer([CHAT_ANSWER], JSON, chunked=False)
    async with stack.client.head("/v1/models/alias") as response:
        assert response.headers.get("content-length") in (None, str(len(CHAT_ANSWER)))
    lines = await eventually(restoring.lines, lambda lines: len(lines) > told)
    assert "answer" not in lines[-1]


async def test_what_is_not_json_goes_through_and_is_counted(restoring: World) -> None:
    for mode in SENDING:
        got = await restoring.ask(mode, Answer([b'{"model":"target-8b"', b", oops"], JSON))
        assert got.body.endswith(b", oops")
        assert got.line["answer"] in ("unreadable", "cut")


async def test_of_answers_outside_the_share_no_body_passes_us(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    count, percent = 200, 25.0
    async with running_world(tmp_path_factory.mktemp("share"), {"percent": percent}) as world:
        stack = await world.through(ASKED)
        world.upstream.answer = Answer([CHAT_ANSWER], JSON, chunked=False, gap_s=0)

        async def ask() -> None:
            async with stack.client.post(CHAT, data=b'{"model": "alias"}') as response:
                assert await response.read() == CHAT_ANSWER

        for _ in range(count // 20):
            await asyncio.gather(*(ask() for _ in range(20)))
        await stack.idle()
        read = await stack.metric("answers_read_total", result="ok")
        stats = await asyncio.to_thread(stack.envoy.stats, "http.inference.ext_proc.")
    assert 20 < read < 80  # 50, and less than five standard deviations
    # Request headers and body, response headers; of those that are read the body, and mostly its end by itself.
    assert read <= stats["http.inference.ext_proc.stream_msgs_sent"] - 3 * count <= 2 * read


# -- ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [ASKED, STREAMED, FULL_DUPLEX], ids=lambda mode: mode.name)
async def test_a_client_that_leaves_cuts_its_answer(restoring: World, mode: Mode) -> None:
    stack, told = await restoring.through(mode), len(restoring.lines())
    restoring.upstream.answer = Answer(EVENTS, held_after=3)
    async with stack.client.post(CHAT, data=b'{"model": "alias"}') as response:
        await response.content.readuntil(b"1e400")
        assert await stack.in_flight() == {restoring.upstream.address: 1}
        response.close()
    lines = await eventually(restoring.lines, lambda lines: len(lines) > told)
    restoring.upstream.answer.go_on.set()
    assert lines[-1]["answer"] == "cut"
    assert lines[-1]["ttft_ms"] > 0
    await stack.idle()


@pytest.mark.parametrize("mode", [DENIED, ASKED, STREAMED, FULL_DUPLEX], ids=lambda mode: mode.name)
async def test_a_router_that_is_killed_cuts_the_answers_that_it_knows_of(
    tmp_path_factory: pytest.TempPathFactory, mode: Mode
) -> None:
    """Read or not: failing closed, Envoy ends them with their ext_proc stream."""
    async with after_a_kill(tmp_path_factory, mode) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


@pytest.mark.parametrize("mode", [DENIED, ASKED, STREAMED], ids=lambda mode: mode.name)
async def test_failing_open_they_go_on(tmp_path_factory: pytest.TempPathFactory, mode: Mode) -> None:
    async with after_a_kill(tmp_path_factory, replace(mode, fail_open=True)) as response:
        assert await response.read() == b"".join(EVENTS[3:])


@asynccontextmanager
async def after_a_kill(
    tmp_path_factory: pytest.TempPathFactory, mode: Mode
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer of which half was read when the router was killed."""
    async with running_world(tmp_path_factory.mktemp("killed"), {"restore_model": True}) as world:
        stack = await world.through(mode)
        world.upstream.answer = Answer(EVENTS, held_after=3)
        async with stack.client.post(CHAT, data=b'{"model": "alias"}') as response:
            await response.content.readuntil(b'1e400"}}]}\n\n')
            await asyncio.to_thread(world.service.kill)
            await asyncio.sleep(0.3)
            world.upstream.answer.go_on.set()
            yield response
