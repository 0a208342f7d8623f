"""Answers that are read while they pass: what Envoy is told, what is counted and logged, and what is left alone."""

from __future__ import annotations

import random

import pytest
from answer_talk import (
    DONE,
    EVENTS,
    GO_ON,
    JSON,
    NONE,
    ONE,
    PARTIAL,
    POOLS,
    READS,
    RESTORES,
    SERVED,
    STREAMED,
    TRAILERS_GO,
    TWO,
    USAGE,
    WHOLE,
    WHOLE_ANSWER,
    asked,
    begun,
    line_of,
    read,
    routed,
    told,
)
from ext_proc_service import CHAT, RESPONSE_HEADERS_GO, serving

from extproc.answer_reading import EVENTS_BETWEEN
from extproc.protocol.messages import BodyMode

TIMED = {"ttft_ms", "time_per_token_ms"}
USED = {"finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens"}
PROMPT = 3
"""Tokens of what `routed` asks, estimated."""
MESSAGE_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"content":[],'
    b'"usage":{"input_tokens":7,"output_tokens":0}}}\n\n'
)
MESSAGE_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"a"}}\n\n'
)
MESSAGE_END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":50}}\n\n'
)
"""Anthropic's Messages."""

# -- figures ----------------------------------------------------------------------------------------------------


async def test_figures_of_a_streamed_answer_are_told_to_envoy_counted_and_logged() -> None:
    async with serving(READS) as (service, envoy):
        stream = await begun(envoy)
        for chunk, names in ((ONE, {"ttft_ms"}), (TWO, TIMED | {"finish_reason"}), (USAGE, TIMED | USED)):
            await stream.response_body(chunk)
            reply, facts = await told(stream)
            assert (reply, set(facts)) == (GO_ON, names | {"total_tokens"})
        await stream.response_body(DONE)
        reply, facts = await told(stream)
        await stream.response_body(b"", end=True)
        assert await told(stream) == (GO_ON, {})
        await stream.end()
        await service.idle()

        assert reply == GO_ON
        times_ms = facts.pop("ttft_ms"), facts.pop("time_per_token_ms")
        assert min(times_ms) > 0
        assert facts == {
            "prompt_tokens": 7,
            "cached_tokens": 4,
            "completion_tokens": 2,
            "total_tokens": 9,
            "finish_reason": "length",
        }
        assert read(service) == {"ok": 1}
        for kind, tokens in (("prompt", 7), ("cached", 4), ("completion", 2)):
            assert service.sample("extproc_answer_tokens_sum", **SERVED, type=kind) == tokens
            assert service.sample("extproc_answer_tokens_count", **SERVED, type=kind) == 1
        reasons = {**SERVED, "finish_reason": "length"}
        assert service.sample("extproc_answer_finish_reasons_total", **reasons) == 1
        assert service.sample("extproc_time_to_first_token_seconds_count", **SERVED) == 1
        assert service.sample("extproc_time_per_output_token_seconds_count", **SERVED) == 1
        names = ("time_to_first_token", "time_per_output_token")
        sums_s = [service.sample(f"extproc_{name}_seconds_sum", **SERVED) for name in names]
        assert sums_s == [pytest.approx(time_ms / 1e3, abs=1e-6) for time_ms in times_ms]
        assert await line_of(service) == {
            "answer": "ok",
            "prompt_tokens": 7,
            "cached_tokens": 4,
            "completion_tokens": 2,
            "finish_reason": "length",
            "times": {"ttft_ms", "time_per_token_ms"},
        }


async def test_until_an_answer_tells_its_cost_envoy_is_told_an_estimate_which_its_end_replaces() -> None:
    async with serving(READS) as (_, envoy):
        stream = await begun(envoy)
        costs = []
        for chunk in (*[ONE] * (2 * EVENTS_BETWEEN), USAGE, DONE):
            await stream.response_body(chunk)
            costs.append((await told(stream))[1].get("total_tokens"))
        await stream.end()
    estimates = [PROMPT + 1, *[None] * (EVENTS_BETWEEN - 1), PROMPT + 1 + EVENTS_BETWEEN]
    assert costs == [*estimates, *[None] * (EVENTS_BETWEEN - 1), 9, 9]


async def test_usage_that_stands_in_every_event_is_told_at_the_first_and_then_as_often() -> None:
    async with serving(READS) as (_, envoy):
        stream = await begun(envoy)
        costs = []
        for tokens in range(1, EVENTS_BETWEEN + 3):
            usage = b'"usage":{"prompt_tokens":7,"completion_tokens":%d},"choices"' % tokens
            await stream.response_body(ONE.replace(b'"choices"', usage))
            costs.append((await told(stream))[1].get("total_tokens"))
        stream.cancel()
    assert costs == [8, *[None] * (EVENTS_BETWEEN - 1), 8 + EVENTS_BETWEEN, None]


async def test_what_messages_tell_at_their_start_is_no_cost_of_what_follows_until_their_end_replaces_it() -> (
    None
):
    """The prompt, and no token of the answer: who leaves early would pay for nothing else."""
    async with serving(READS) as (_, envoy):
        stream = await begun(envoy)
        costs = []
        for chunk in (MESSAGE_START, *[MESSAGE_DELTA] * (2 * EVENTS_BETWEEN), MESSAGE_END):
            await stream.response_body(chunk)
            costs.append((await told(stream))[1].get("total_tokens"))
        await stream.end()
    between = [None] * (EVENTS_BETWEEN - 1)
    assert costs == [7, *between, 7 + EVENTS_BETWEEN, *between, 7 + 2 * EVENTS_BETWEEN, 7 + 50]


async def test_an_answer_that_never_tells_its_cost_has_the_estimate() -> None:
    async with serving(READS) as (_, envoy):
        stream = await begun(envoy)
        await stream.response_body(ONE + TWO)
        await stream.reply()
        await stream.response_body(DONE)
        assert (await told(stream))[1]["total_tokens"] == PROMPT + 2
        await stream.end()


async def test_of_a_whole_answer_there_are_no_times() -> None:
    async with serving(READS) as (service, envoy):
        stream, _ = await routed(envoy)
        await stream.response_headers(200, JSON)
        assert await stream.reply() == asked()
        await stream.response_body(WHOLE_ANSWER)
        assert await told(stream) == (GO_ON, {})
        await stream.response_body(b"", end=True)
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        assert await told(stream) == (GO_ON, {**usage, "finish_reason": "stop"})
        await stream.end()
        assert await line_of(service) == {
            "answer": "ok",
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "finish_reason": "stop",
        }
        assert service.sample("extproc_time_to_first_token_seconds_count", **SERVED) is None


async def test_figures_are_told_with_the_last_byte_of_the_length_announced() -> None:
    """A client that goes by it may have left when Envoy tells of the end."""
    async with serving(READS) as (service, envoy):
        stream, _ = await routed(envoy)
        await stream.response_headers(200, {**JSON, "content-length": str(len(WHOLE_ANSWER))})
        assert await stream.reply() == asked()
        for piece, facts in ((WHOLE_ANSWER[:-1], 0), (WHOLE_ANSWER[-1:], 4)):
            await stream.response_body(piece)
            reply, metadata = await told(stream)
            assert (reply, len(metadata)) == (GO_ON, facts)
        await stream.end()
        assert (await line_of(service))["answer"] == "ok"


@pytest.mark.parametrize("mode", [WHOLE, PARTIAL])
async def test_of_events_that_came_in_one_piece_there_are_none_either(mode: BodyMode) -> None:
    async with serving(READS) as (service, envoy):
        stream = await begun(envoy, mode)
        await stream.response_body(ONE + TWO + DONE)
        assert await told(stream) == (GO_ON, {"finish_reason": "length", "total_tokens": PROMPT + 2})
        await stream.response_trailers()
        assert await told(stream) == (TRAILERS_GO, {})
        await stream.end()
        assert await line_of(service) == {"answer": "no_usage", "finish_reason": "length"}


async def test_the_first_token_is_timed_from_the_requests_headers() -> None:
    async with serving(READS) as (service, envoy):
        stream = await begun(envoy)
        await stream.response_body(ONE)
        await stream.reply()
        await stream.end()
        (line,) = await service.log_lines()
    assert line["headers_ms"] <= line["ttft_ms"] <= line["duration_ms"]


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (ONE + TWO + USAGE + DONE, "ok"),
        (ONE + TWO + DONE, "no_usage"),
        (ONE, "cut"),
        (b"data: no json\n\n", "unreadable"),
    ],
)
@pytest.mark.parametrize("ending", ["end", "trailers", "client gone"])
async def test_what_came_of_reading(body: bytes, result: str, ending: str) -> None:
    async with serving(READS) as (service, envoy):
        stream = await begun(envoy)
        await stream.response_body(body)
        await stream.reply()
        if ending == "end":
            await stream.response_body(b"", end=True)
            await stream.reply()
        elif ending == "trailers":
            await stream.response_trailers()
            await stream.reply()
        await stream.end()
        await service.idle()
        assert read(service) == {result: 1}
        assert service.in_flight == {}


async def test_an_answer_that_envoy_does_not_send_is_counted_so() -> None:
    async with serving(READS) as (service, envoy):
        stream, _ = await routed(envoy)
        await stream.response_headers(200, JSON)
        assert await stream.reply() == asked()
        await stream.end()
        assert await line_of(service) == {"answer": "not_sent"}
        assert read(service) == {"not_sent": 1}
        assert service.sample("extproc_answer_tokens_count", **SERVED, type="prompt") is None


async def test_one_of_which_nothing_comes_though_envoy_sends_bodies_was_cut() -> None:
    async with serving(READS) as (service, envoy):
        stream, _ = await routed(envoy, STREAMED)
        await stream.response_headers(200, JSON)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()
        await service.idle()
        assert read(service) == {"cut": 1}


async def test_tokens_of_an_answer_that_was_cut_are_those_that_were_told() -> None:
    """By servers that tell usage in every event (vLLM: continuous_usage_stats)."""
    usage = b'"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n'
    async with serving(READS) as (service, envoy):
        stream = await begun(envoy)
        await stream.response_body(ONE.removesuffix(b"}\n\n") + b"," + usage)
        await stream.reply()
        stream.cancel()
        await service.idle()
        assert read(service) == {"cut": 1}
        assert service.sample("extproc_answer_tokens_sum", **SERVED, type="completion") == 1


# -- which answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "options"),
    [
        (400, JSON, {}),
        (500, JSON, {}),
        (300, JSON, {}),
        (302, JSON, {}),
        (204, JSON, {}),
        (206, JSON, {}),
        (200, {"content-type": "audio/mpeg"}, {}),
        (200, {}, {}),
        (200, JSON, {"end": True}),
    ],
)
@pytest.mark.parametrize("config", [READS, RESTORES])
@pytest.mark.parametrize("mode", [NONE, STREAMED])
async def test_others_are_neither_asked_for_nor_changed(
    config: str, status: int, headers: dict[str, str], options: dict[str, bool], mode: BodyMode
) -> None:
    async with serving(config) as (service, envoy):
        stream, _ = await routed(envoy, mode)
        await stream.response_headers(status, headers, **options)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        if mode is STREAMED and not options:
            await stream.response_body(WHOLE_ANSWER, end=True)
            assert await stream.reply() == GO_ON
        await stream.end()
        assert await line_of(service) == {}
        assert read(service) == {}


async def test_without_the_key_nothing_is_read_asked_for_or_counted() -> None:
    async with serving(POOLS) as (service, envoy):
        for mode in (NONE, STREAMED):
            stream, _ = await routed(envoy, mode)
            await stream.response_headers(200, JSON)
            assert await stream.reply() == RESPONSE_HEADERS_GO
            await stream.end()
        await service.idle()
        assert read(service) == {}


async def test_an_answer_in_a_mode_that_we_do_not_speak_is_left_alone() -> None:
    async with serving(RESTORES) as (service, envoy):
        stream, _ = await routed(envoy, BodyMode.GRPC)
        await stream.response_headers(200, JSON)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()
        await service.idle()
        assert read(service) == {}


async def test_answers_to_requests_that_we_did_not_route_are_not_read() -> None:
    """Another filter's, or Envoy's own."""
    async with serving(RESTORES) as (service, envoy):
        stream = envoy.stream()
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.response_headers(200, JSON)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()
        assert read(service) == {}


async def test_answers_that_are_only_observed_are_not_read() -> None:
    async with serving(RESTORES) as (service, envoy):
        stream = envoy.observed()
        await stream.request_headers(CHAT)
        await stream.request_body(b'{"model":"qwq"}')
        await stream.response_headers(200, EVENTS)
        await stream.response_body(ONE, end=True)
        await stream.end()
        await service.idle()
        assert read(service) == {}


async def test_an_upgrade_is_not_an_answer() -> None:
    async with serving(RESTORES) as (service, envoy):
        stream = envoy.stream(NONE, STREAMED)
        upgrade = {":method": "GET", ":path": "/v1/realtime", "connection": "upgrade", "upgrade": "websocket"}
        await stream.request_headers(upgrade)
        await stream.reply()
        await stream.response_headers(200, JSON)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        await stream.end()
        assert read(service) == {}


async def test_an_encoded_answer_is_not_read() -> None:
    async with serving(RESTORES) as (service, envoy):
        for mode in (NONE, STREAMED):
            stream, _ = await routed(envoy, mode)
            await stream.response_headers(200, {**JSON, "content-encoding": "gzip", "content-length": "9"})
            assert await stream.reply() == RESPONSE_HEADERS_GO
            if mode is STREAMED:
                await stream.response_body(b"\x1f\x8b", end=True)
                assert await stream.reply() == GO_ON
            await stream.end()
        await service.idle()
        assert read(service) == {"encoded": 2}


async def test_identity_is_no_encoding() -> None:
    async with serving(READS) as (_, envoy):
        stream, _ = await routed(envoy)
        await stream.response_headers(200, {**JSON, "content-encoding": "Identity"})
        assert await stream.reply() == asked()
        await stream.end()


class Drawn(random.Random):
    """Draws what it was told to."""

    def __init__(self, drawn: float) -> None:
        super().__init__(1)
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


@pytest.mark.parametrize(("drawn", "read_it"), [(0.2999, True), (0.3, False), (0.3001, False)])
async def test_the_share_is_in_percent(drawn: float, read_it: bool) -> None:
    async with serving(POOLS + "responses: {percent: 30}\n", Drawn(drawn)) as (_, envoy):
        stream, _ = await routed(envoy, model="same")
        await stream.response_headers(200, JSON)
        assert await stream.reply() == (asked() if read_it else RESPONSE_HEADERS_GO)
        await stream.end()


async def test_an_answer_without_a_token_is_one_of_none() -> None:
    async with serving(READS) as (service, envoy):
        stream, _ = await routed(envoy)
        await stream.response_headers(200, JSON)
        await stream.reply()
        await stream.response_body(
            WHOLE_ANSWER.replace(b'"completion_tokens":2', b'"completion_tokens":0'), end=True
        )
        await stream.reply()
        await stream.end()
        await service.idle()
        assert service.sample("extproc_answer_tokens_count", **SERVED, type="completion") == 1
        assert service.sample("extproc_answer_tokens_sum", **SERVED, type="completion") == 0


async def test_a_share_is_drawn_and_of_the_rest_no_body_is_asked_for() -> None:
    config, count = POOLS + "responses: {percent: 30}\n", 200
    async with serving(config, random.Random(5)) as (service, envoy):
        replies = []
        for _ in range(count):
            stream, _ = await routed(envoy, model="same")
            await stream.response_headers(200, JSON)
            replies.append(await stream.reply())
            await stream.end()
        await service.idle()
        chosen = replies.count(asked())
        assert replies.count(RESPONSE_HEADERS_GO) == count - chosen
        assert 30 < chosen < 90  # 60 and less than five standard deviations
        assert read(service) == {"not_sent": chosen}
