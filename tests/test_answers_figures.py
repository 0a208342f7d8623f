"""Usage, finish reasons and times, API by API."""

import pytest
from answer_texts import events, read

from extproc.answers import AnswerReader, Figures, Shape, Usage, shape


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", Shape.JSON),
        ("Application/JSON; charset=utf-8", Shape.JSON),
        ("application/problem+json", Shape.JSON),
        ("text/event-stream", Shape.EVENTS),
        ("text/event-stream;charset=utf-8", Shape.EVENTS),
        (" text/event-stream ", Shape.EVENTS),
        ("application/x-ndjson", None),
        ("text/plain", None),
        ("application/jsonp", None),
        ("audio/mpeg", None),
        ("", None),
    ],
)
def test_the_shape_of_an_answer(content_type, expected):
    assert shape(content_type) is expected


OPENAI = '{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", None),
        ('{"usage":null}', None),
        ('{"usage":{}}', None),
        ('{"usage":7}', None),
        (f'{{"usage":{OPENAI}}}', Usage(10, None, 5)),
        ('{"usage":{"prompt_tokens":8,"total_tokens":8}}', Usage(8, None, None)),
        ('{"usage":{"total_tokens":56}}', Usage(56, None, None)),
        (
            '{"usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}}',
            Usage(10, 4, 5),
        ),
        (
            '{"usage":{"prompt_tokens":10,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":0}}}',
            Usage(10, 0, 0),
        ),
        ('{"usage":{"completion_tokens":4,"total_tokens":14}}', Usage(None, None, 4)),
        ('{"usage":{"prompt_tokens":10,"prompt_tokens_details":null}}', Usage(10, None, None)),
        ('{"usage":{"prompt_tokens":10,"prompt_tokens_details":3}}', Usage(10, None, None)),
        ('{"usage":{"input_tokens":10,"output_tokens":5}}', Usage(10, None, 5)),
        (
            '{"usage":{"input_tokens":10,"cache_read_input_tokens":30,"cache_creation_input_tokens":2,"output_tokens":5}}',
            Usage(42, 30, 5),
        ),
        (
            '{"usage":{"input_tokens":37,"input_tokens_details":{"cached_tokens":32},"output_tokens":11}}',
            Usage(37, 32, 11),
        ),
        ('{"usage":{"prompt_tokens":-1,"completion_tokens":5}}', Usage(None, None, 5)),
        ('{"usage":{"prompt_tokens":1.5,"completion_tokens":true}}', None),
        ('{"usage":{"prompt_tokens":"9","completion_tokens":1000000001}}', None),
        (
            '{"usage":{"prompt_tokens":1000000000000000000000000000000,"completion_tokens":3}}',
            Usage(None, None, 3),
        ),
        (f'{{"usage":{OPENAI},"usage":null}}', None),
        (f'{{"usage":null,"us\\u0061ge":{OPENAI}}}', Usage(10, None, 5)),
        (f'{{"x":{{"usage":{OPENAI}}}}}', None),
        (f'{{"choices":[{{"usage":{OPENAI}}}]}}', None),
        (f'{{"usage":{OPENAI},"logprob":NaN}}', Usage(10, None, 5)),
        (f'{{"usage":{OPENAI},"text":"\\ud800"}}', Usage(10, None, 5)),
        (f'{{"type":"\\ud800","usage":{OPENAI}}}', None),
        (f'{{"deep":{"[" * 5000}{"]" * 5000},"usage":{OPENAI}}}', Usage(10, None, 5)),
    ],
)
def test_usage(text, expected):
    assert read(Shape.JSON, [text.encode()])[0].usage == expected
    assert read(Shape.EVENTS, [f"data: {text}\n\n".encode()])[0].usage == expected


def test_bytes_that_are_no_utf8_do_not_hide_the_usage():
    body = b'{"id":"\xff","type":"\xff","error":"","usage":' + OPENAI.encode() + b"}"
    assert read(Shape.JSON, [body.replace(b'"type":"\xff",', b"")])[0].usage == Usage(10, None, 5)
    assert read(Shape.JSON, [body])[0] == Figures(readable=False)


def test_usage_in_every_event_counts_once():
    told = [
        {"usage": {"prompt_tokens": 7, "completion_tokens": n, "total_tokens": 7 + n}} for n in range(1, 6)
    ]
    assert read(Shape.EVENTS, [events(*told)])[0].usage == Usage(7, None, 5)


def test_usage_that_comes_in_parts_is_put_together():
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 7, "cache_read_input_tokens": 3}}}
    deltas = [{"type": "message_delta", "usage": {"output_tokens": n}} for n in (1, 9)]
    assert read(Shape.EVENTS, [events(start, *deltas)])[0].usage == Usage(10, 3, 9)


@pytest.mark.parametrize(
    ("usages", "untold"),
    [
        ([None, None, None], 3),
        ([{"completion_tokens": 0}, None, None], 2),
        ([{"completion_tokens": 1}, {"completion_tokens": 2}, None], 1),
        ([None, None, {"output_tokens": 9}], 0),
        ([None, None, {"prompt_tokens": 9}], 3),
        ([None, None, {"completion_tokens": "three"}], 3),
    ],
)
def test_events_with_content_after_the_usage_that_was_told_last_are_not_told_yet(usages, untold):
    texts = [{"choices": [{"text": "a"}], "usage": usage} for usage in usages]
    figures = read(Shape.EVENTS, [events(*texts)])[0]
    assert (figures.content_events, figures.untold_events) == (3, untold)


def test_null_does_not_take_usage_back():
    assert read(Shape.EVENTS, [events({"usage": {"prompt_tokens": 7}}, {"usage": None})])[0].usage == Usage(7)


def choices(*reasons: str | None) -> dict[str, object]:
    return {"choices": [{"index": i, "finish_reason": reason} for i, reason in enumerate(reasons)]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, None),
        (choices(), None),
        (choices(None), None),
        (choices("stop"), "stop"),
        (choices("length"), "length"),
        (choices("tool_calls"), "tool_calls"),
        (choices("function_call"), "tool_calls"),
        (choices("content_filter"), "content_filter"),
        (choices("error"), "error"),
        (choices("abort"), "error"),
        (choices("repetition"), "other"),
        (choices("stop", "stop"), "stop"),
        (choices("stop", "length", "tool_calls"), "length"),
        (choices(None, "stop"), "stop"),
        ({"choices": [{"finish_reason": 5}, 3, None]}, None),
        ({"choices": {"finish_reason": "stop"}}, None),
        ({"stop_reason": "end_turn"}, "stop"),
        ({"stop_reason": "stop_sequence"}, "stop"),
        ({"stop_reason": "max_tokens"}, "length"),
        ({"stop_reason": "model_context_window_exceeded"}, "length"),
        ({"stop_reason": "tool_use"}, "tool_calls"),
        ({"stop_reason": "refusal"}, "content_filter"),
        ({"stop_reason": "pause_turn"}, "other"),
        ({"delta": {"stop_reason": "max_tokens"}}, "length"),
        ({"status": "completed"}, "stop"),
        ({"status": "completed", "output": [{"type": "message"}, {"type": "web_search_call"}]}, "stop"),
        ({"status": "completed", "output": [{"type": "reasoning"}, {"type": "function_call"}]}, "tool_calls"),
        ({"response": {"status": "completed", "output": [{"type": "custom_tool_call"}]}}, "tool_calls"),
        ({"status": "completed", "output": [3, None, {"type": ["function_call"]}]}, "stop"),
        ({"status": "completed", "output": "function_call"}, "stop"),
        ({"status": "in_progress", "output": [{"type": "function_call"}]}, None),
        (
            {"status": "completed", "output": [{"text": "x" * 70_000}, {"type": "function_call"}]},
            "tool_calls",
        ),
        ({"status": "in_progress"}, None),
        ({"status": "queued"}, None),
        ({"status": "failed"}, "error"),
        ({"status": "cancelled"}, "other"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "incomplete", "incomplete_details": None}, "other"),
        (
            {"response": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}},
            "length",
        ),
        ({"response": {"status": "failed"}}, "error"),
        ({"error": {"message": "no"}}, "error"),
        ({"error": "no"}, "error"),
        ({"error": None, "status": "completed"}, "stop"),
        ({"type": "error", "message": "no"}, "error"),
        ({**choices("length"), "error": {"message": "no"}}, "error"),
    ],
)
def test_finish_reasons(answer, expected):
    assert read(Shape.EVENTS, [events(answer)])[0].finish_reason == expected


def test_an_error_after_the_end_of_a_choice_counts():
    assert (
        read(Shape.EVENTS, [events(choices("length"), {"error": {"code": 500}})])[0].finish_reason == "error"
    )


def delta(**fields: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": fields}]}


def block(**fields: object) -> dict[str, object]:
    return {"type": "content_block_delta", "index": 0, "delta": fields}


@pytest.mark.parametrize(
    "event",
    [
        delta(content="a"),
        delta(reasoning_content="a"),
        delta(reasoning="a"),
        delta(tool_calls=[{"index": 0}]),
        delta(function_call={"name": "f"}),
        delta(refusal="no"),
        {"choices": [{"text": "a"}]},
        {"choices": [{"delta": {}}, {"delta": {"content": "a"}}]},
        block(type="text_delta", text="a"),
        block(type="thinking_delta", thinking="a"),
        block(type="input_json_delta", partial_json="{"),
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.function_call_arguments.delta", "delta": "{"},
        {"type": "response.reasoning_text.delta", "delta": "a"},
        {"type": "response.reasoning_summary_text.delta", "delta": "a"},
        {"type": "response.refusal.delta", "delta": "a"},
    ],
)
def test_an_event_that_adds_to_the_answer(event):
    assert read(Shape.EVENTS, [events(event)])[0] == Figures(None, None, 1.0, 1.0, 1, 1)


@pytest.mark.parametrize(
    "event",
    [
        delta(role="assistant", content=""),
        delta(role="assistant", content=None, tool_calls=[]),
        delta(),
        {"choices": []},
        {"choices": [{"text": ""}]},
        {"choices": [{"delta": None}, None, 1]},
        {"type": "message_start", "message": {"content": []}},
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
        block(type="input_json_delta", partial_json=""),
        block(type="signature_delta", signature="EqQB"),
        {"type": "ping"},
        {"type": "response.output_text.delta", "delta": ""},
        {"type": "response.output_text.done", "text": "a"},
        {"type": "response.created", "response": {"usage": None}},
        {"delta": "a"},
        {"type": 5, "delta": "a"},
    ],
)
def test_an_event_that_does_not(event):
    assert read(Shape.EVENTS, [events(event)])[0] == Figures()


@pytest.mark.parametrize(
    "last",
    [
        "[DONE]",
        " [DONE] ",
        {"type": "message_stop"},
        {"type": "response.completed"},
        {"type": "response.incomplete"},
        {"type": "response.failed"},
    ],
)
def test_the_event_that_completes_an_answer(last):
    assert read(Shape.EVENTS, [events(delta(), last)])[0].complete
    assert not read(Shape.EVENTS, [events(delta(), last)[:-1]])[0].complete


def test_times_are_those_at_which_events_with_content_were_complete():
    reader = AnswerReader(Shape.EVENTS)
    start, first, second, last = (events(delta(**fields)) for fields in ({}, *({"content": "a"},) * 3))
    for piece, now in (
        (start + first[:-1], 1.0),
        (first[-1:] + second[:9], 2.0),
        (second[9:] + last, 4.0),
        (events("[DONE]"), 8.0),
    ):
        reader.feed(piece, now)
    assert reader.figures == Figures(None, None, 2.0, 4.0, 3, 3, complete=True)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (Figures(), None),
        (Figures(None, None, 1.0, 1.0, 1, 1), None),
        (Figures(None, None, 1.0, 3.0, 5, 5), 0.5),
        (Figures(Usage(1, None, 11), None, 1.0, 3.0, 5), 0.2),
        (Figures(Usage(1, None, 2), None, 1.0, 3.0, 5), 2.0),
        (Figures(Usage(1, None, 1), None, 1.0, 3.0, 5), None),
        (Figures(Usage(1, None, None), None, 1.0, 3.0, 5, 5), 0.5),
        (Figures(Usage(1, None, 0), None, 1.0, 3.0, 5, 5), 0.5),
    ],
)
def test_time_per_token(figures, expected):
    assert figures.time_per_token_s == expected


@pytest.mark.parametrize(
    ("body", "complete", "readable"),
    [
        (b"", False, True),
        (b"{", False, True),
        (b'{"usage":{"prompt_tokens":1}', False, True),
        (b"{}", True, True),
        (b"{} \n", True, True),
        (b"[1,2]", True, True),
        (b"12", True, True),
        (b"{} x", False, False),
        (b"<html>", False, False),
        (b"data: {}", False, False),
        (b'{"usage":]}', False, False),
    ],
)
def test_whether_a_json_answer_is_complete_and_readable(body, complete, readable):
    figures = read(Shape.JSON, [body])[0]
    assert (figures.complete, figures.readable) == (complete, readable)


@pytest.mark.parametrize(
    ("body", "readable"),
    [
        (b"", True),
        (b": comment\n\n", True),
        (b"data: \n\n", True),
        (b"data: x\n\n", False),
        (b"data: x\n\ndata: {}\n\n", True),
        (b"data: {}\n\ndata: x\n\n", True),
        (b"data: {\n\n", False),
        (b"data: x\n\ndata: [DONE]\n\n", True),
        (b"data: x", True),
    ],
)
def test_whether_events_are_readable(body, readable):
    assert read(Shape.EVENTS, [body])[0].readable is readable
