"""Answers of servers, and of the documents on them: what is read of them does not depend on how they are cut."""

import json

import pytest
from answer_texts import CLIENT, RECORDED, RESTORING, TARGET, cut, read, restored, shape_of

from extproc.answers import Figures, Shape, Usage

STREAMED = {"first_token_at": 1.0, "last_token_at": 1.0}
FIGURES = {
    "anthropic-messages-tools.sse": Figures(
        Usage(2572, 2000, 89), "tool_calls", content_events=3, complete=True, **STREAMED
    ),
    "openai-chat.json": Figures(Usage(19, 0, 10), "stop", complete=True),
    "openai-response.json": Figures(Usage(37, 32, 11), "stop", complete=True),
    "openai-responses-incomplete.sse": Figures(
        Usage(37, 32, 11), "length", content_events=1, complete=True, **STREAMED
    ),
    "openai-responses.sse": Figures(Usage(37, 32, 11), "stop", content_events=4, complete=True, **STREAMED),
    "real-vllm-chat-continuous.sse": Figures(
        Usage(32, None, 6), "length", content_events=4, complete=True, **STREAMED
    ),
    "real-vllm-chat-usage.sse": Figures(
        Usage(32, None, 6), "length", content_events=6, complete=True, **STREAMED
    ),
    "real-vllm-completion.sse": Figures(
        Usage(3, None, 5), "length", content_events=4, complete=True, **STREAMED
    ),
    "real-vllm-messages.sse": Figures(
        Usage(32, None, 6), "length", content_events=6, complete=True, **STREAMED
    ),
    "real-vllm-responses.json": Figures(Usage(18, 0, 6), "length", complete=True),
    "real-vllm-responses.sse": Figures(
        Usage(18, 0, 6), "length", content_events=2, complete=True, **STREAMED
    ),
    "sim-chat-continuous.sse": Figures(
        Usage(9, None, 6), "length", content_events=2, complete=True, **STREAMED
    ),
    "sim-chat.json": Figures(Usage(9, None, 6), "length", complete=True),
    "sim-chat.sse": Figures(Usage(9, None, 6), "length", content_events=1, complete=True, **STREAMED),
    "sim-completion.sse": Figures(
        None, "length", content_events=3, untold_events=3, complete=True, **STREAMED
    ),
    "sim-embeddings.json": Figures(Usage(5, None, 0), None, complete=True),
    "sim-messages.json": Figures(Usage(9, None, 6), "length", complete=True),
    "sim-messages.sse": Figures(Usage(9, None, 6), "length", content_events=3, complete=True, **STREAMED),
    "vllm-chat-error.sse": Figures(
        None, "error", content_events=1, untold_events=1, complete=True, **STREAMED
    ),
    "vllm-chat-reasoning-tools.sse": Figures(
        Usage(31, 16, 12), "tool_calls", content_events=5, complete=True, **STREAMED
    ),
    "vllm-chat-two-choices.sse": Figures(
        Usage(9, None, 5), "length", content_events=3, complete=True, **STREAMED
    ),
    "vllm-messages.sse": Figures(Usage(21, None, 3), "stop", content_events=2, complete=True, **STREAMED),
    "vllm-rerank.json": Figures(Usage(56, None, None), None, complete=True),
    "vllm-score.json": Figures(Usage(17, None, 0), None, complete=True),
}
RESTORED_NAMES = {
    "anthropic-messages-tools.sse": 1,
    "openai-responses-incomplete.sse": 2,
    "openai-responses.sse": 3,
    "real-vllm-chat-usage.sse": 8,
    "real-vllm-messages.sse": 1,
    "real-vllm-responses.sse": 3,
    "vllm-chat-reasoning-tools.sse": 8,
    "vllm-chat-two-choices.sse": 7,
}
"""How often the model is named where it is restored."""
NAMES = sorted(FIGURES)
ENDS = (b"\n", b"\r\n", b"\r")


def expected_bytes(name: str) -> bytes:
    body = RECORDED[name]
    if shape_of(name) is Shape.JSON:
        return restored(body, RESTORING)
    lines = body.split(b"\n")
    return b"\n".join(
        b"data: " + restored(line[6:], RESTORING) if line.startswith(b"data: {") else line for line in lines
    )


def test_every_recorded_answer_is_read():
    assert sorted(RECORDED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_answer_says_what_its_server_said(name):
    body = RECORDED[name]
    assert read(shape_of(name), [body]) == (FIGURES[name], body)


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_answer_gets_the_clients_name_and_nothing_else(name):
    figures, out = read(shape_of(name), [RECORDED[name]], RESTORING)
    assert (figures, out) == (FIGURES[name], expected_bytes(name))
    written = json.dumps(CLIENT, ensure_ascii=False).encode()
    assert out.replace(written, json.dumps(TARGET).encode()) == RECORDED[name]
    if name in RESTORED_NAMES:
        assert out.count(written) == RESTORED_NAMES[name]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", NAMES)
def test_one_cut_anywhere_changes_nothing(name, end):
    body = RECORDED[name].replace(b"\n", end)
    expected = FIGURES[name], expected_bytes(name).replace(b"\n", end)
    for place in range(len(body) + 1):
        assert read(shape_of(name), cut(body, [place]), RESTORING) == expected


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 250])
@pytest.mark.parametrize("name", NAMES)
def test_pieces_of_any_size_change_nothing(name, size, end):
    body = RECORDED[name].replace(b"\n", end)
    pieces = cut(body, range(size, len(body), size))
    assert read(shape_of(name), pieces) == (FIGURES[name], body)
    assert read(shape_of(name), pieces, RESTORING) == (
        FIGURES[name],
        expected_bytes(name).replace(b"\n", end),
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".sse")])
def test_a_byte_order_mark_and_data_without_a_space_change_nothing(name):
    body = b"\xef\xbb\xbf" + RECORDED[name].replace(b"data: ", b"data:")
    out = b"\xef\xbb\xbf" + expected_bytes(name).replace(b"data: ", b"data:")
    for size in (1, 2, 5, len(body)):
        pieces = cut(body, range(size, len(body), size))
        assert read(Shape.EVENTS, pieces, RESTORING) == (FIGURES[name], out)
