"""Answers read while they pass, in every way in which a real Envoy shows them to us, and with none of it changed but
the model's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from answer_examples import CHAT_ANSWER, EVENTS, MESSAGES, RESPONSES, USAGE, restored
from answering import (
    ASKED,
    CHAT,
    FULL_DUPLEX,
    JSON,
    PARTIAL,
    SENDING,
    WHOLE,
    Answer,
    Mode,
    World,
    world_fixture,
)
from stack import BUFFERED, client_of, eventually, running, running_service

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy
from extproc.demo.service import Sim

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

RECORDED = Path(__file__).parents[1] / "data" / "answers"
AT_ONCE = (WHOLE.name, PARTIAL.name)

restoring, reading = world_fixture({"restore_model": True}), world_fixture({})

every_mode = pytest.mark.parametrize("mode", SENDING, ids=lambda mode: mode.name)


def figures(line: dict[str, Any]) -> dict[str, Any]:
    """What a log line says of the answer but its times."""
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens", "finish_reason")
    return {name: line[name] for name in names if name in line}


# -- figures ----------------------------------------------------------------------------------------------------


@every_mode
async def test_a_streamed_answers_figures_are_in_our_log_our_metrics_and_envoys_log(
    reading: World, mode: Mode
) -> None:
    stack = await reading.through(mode)
    before = await stack.metric("answer_tokens_sum", type="prompt")
    got = await reading.ask(mode, Answer(EVENTS, gap_s=0.02))

    assert got.body == b"".join(EVENTS)
    assert (got.line["answer"], figures(got.line)) == ("ok", USAGE)
    assert figures(got.access["figures"]) == {**USAGE, "total_tokens": 90}
    assert got.access["figures"]["target_model"] == "target-8b"  # what was told before is still there
    assert await stack.metric("answer_tokens_sum", type="prompt") == before + 70
    times = {name: got.line.get(name) for name in ("ttft_ms", "time_per_token_ms")}
    if mode.name in AT_ONCE:
        assert set(times.values()) == {None}
    else:
        assert times == {name: pytest.approx(got.access["figures"][name]) for name in times}
        assert got.line["headers_ms"] < got.line["ttft_ms"] < got.line["duration_ms"]


@every_mode
@pytest.mark.parametrize(
    ("events", "told"),
    [
        (
            MESSAGES,
            {"prompt_tokens": 70, "cached_tokens": 60, "completion_tokens": 12, "finish_reason": "length"},
        ),
        (
            RESPONSES,
            {"prompt_tokens": 9, "cached_tokens": 4, "completion_tokens": 2, "finish_reason": "stop"},
        ),
    ],
    ids=["messages", "responses"],
)
async def test_other_apis_events_too(
    restoring: World, mode: Mode, events: list[bytes], told: dict[str, Any]
) -> None:
    got = await restoring.ask(mode, Answer(events))
    assert got.body == restored(b"".join(events))
    assert (got.line["answer"], figures(got.line)) == ("ok", told)


@pytest.mark.parametrize("mode", [ASKED, WHOLE, FULL_DUPLEX], ids=lambda mode: mode.name)
async def test_recorded_answers_come_as_they_were_sent(restoring: World, mode: Mode) -> None:
    """Of vLLM's and others' APIs; names in them that are not the target's stay."""
    for path in sorted(RECORDED.iterdir()):
        body, content_type = path.read_bytes(), JSON if path.suffix == ".json" else "text/event-stream"
        pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
        got = await restoring.ask(mode, Answer(pieces, content_type, gap_s=0))
        assert got.body == body, path.name
        assert got.line["answer"] in ("ok", "no_usage"), path.name


async def test_of_a_model_server_that_counts_we_tell_what_it_told_its_client(tmp_path: Path) -> None:
    question = {"model": "alias", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 40}
    sim = Sim(tmp_path, "--model", "target-8b", name="sim")
    async with running(sim):
        pool = {"name": POOL, "endpoints": [sim.address]}
        models = [{"name": "alias", "pool": POOL, "targets": [{"model": "target-8b"}]}]
        config = {"pools": [pool], "models": models, "responses": {"restore_model": True}}
        async with running_service(config, tmp_path) as service:
            envoy = Envoy(BUFFERED.bootstrap, tmp_path, pools={POOL: [sim.address]}, ext_proc=service.grpc)
            async with running(envoy), client_of(envoy) as client:
                messages = [{"role": "user", "content": "x" * 900}]
                async with client.post(CHAT, json={**question, "messages": messages}) as response:
                    body = await response.text()
                (line,) = await eventually(
                    lambda: [line for line in service.log() if line["event"] == "request"], bool
                )

    *events, done = [event.removeprefix("data: ") for event in body.split("\n\n") if event]
    assert done == "[DONE]"
    assert {json.loads(event)["model"] for event in events} == {"alias"}
    usage = json.loads(events[-1])["usage"]
    assert line["answer"] == "ok"
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage["prompt_tokens"], 40)
    assert 0 < line["ttft_ms"] <= line["duration_ms"]
    assert line["time_per_token_ms"] * 39 <= line["duration_ms"]


@every_mode
async def test_an_answer_in_one_piece(reading: World, mode: Mode) -> None:
    for chunked in (False, True):
        got = await reading.ask(mode, Answer([CHAT_ANSWER], JSON, chunked=chunked))
        assert got.body == CHAT_ANSWER
        assert got.header("content-length") in (None, str(len(CHAT_ANSWER)))
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "finish_reason": "length"}
        assert (got.line["answer"], figures(got.line)) == ("ok", usage)
        assert figures(got.access["figures"]) == {**usage, "total_tokens": 8}


# -- the client's model name --------------------------------------------------------------------------------------


@every_mode
@pytest.mark.parametrize("trailers", [{}, {"x-checksum": "7"}], ids=["no trailers", "trailers"])
async def test_clients_see_their_own_name_in_every_event_and_else_what_was_sent(
    restoring: World, mode: Mode, trailers: dict[str, str]
) -> None:
    got = await restoring.ask(mode, Answer(EVENTS, trailers=trailers))
    assert got.body == restored(b"".join(EVENTS))
    assert got.body.count(b"target-8b") == 1  # in the comment
    assert got.trailers == (b"x-checksum: 7\r\n" if trailers else b"")
    assert figures(got.line) == USAGE


@every_mode
async def test_flushed_byte_by_byte_it_is_the_same(restoring: World, mode: Mode) -> None:
    body = b"".join([EVENTS[1], EVENTS[5], EVENTS[6]])
    pieces = [body[at : at + 1] for at in range(len(body))]
    got = await restoring.ask(mode, Answer(pieces, gap_s=0))
    assert got.body == restored(body)
    assert (got.line["answer"], got.line["completion_tokens"]) == ("ok", 20)


@every_mode
@pytest.mark.parametrize("cut", range(0, 12, 3))
async def test_a_name_cut_between_pieces_is_put_back(restoring: World, mode: Mode, cut: int) -> None:
    for body, content_type in ((b"".join(EVENTS), "text/event-stream"), (CHAT_ANSWER, JSON)):
        at = body.index(b'"target-8b"') + cut
        got = await restoring.ask(mode, Answer([body[:at], body[at:]], content_type, gap_s=0.02))
        assert got.body == restored(body)
        assert got.line["answer"] == "ok"


@every_mode
@pytest.mark.parametrize("size", [0, 400_000])
async def test_its_length_is_right_or_left_out(restoring: World, mode: Mode, size: int) -> None:
    body = CHAT_ANSWER.replace(b'"n"', b'"pad":"%b","n"' % (b"x" * size))
    got = await restoring.ask(mode, Answer([body], JSON, chunked=False))
    assert got.body == restored(body)
    assert got.header("content-length") is None
    assert (got.line["answer"], got.line["prompt_tokens"]) == ("ok", 5)


@every_mode
async def test_the_pod_is_asked_for_it_plain(restoring: World, mode: Mode) -> None:
    got = await restoring.ask(mode, Answer(EVENTS), accept_encoding="gzip, br")
    assert b"accept-encoding" not in got.request.head
    same = await restoring.ask(mode, Answer(EVENTS), model="target-8b", accept_encoding="gzip, br")
    assert b"accept-encoding: gzip, br" in same.request.head
    assert same.body == b"".join(EVENTS)
