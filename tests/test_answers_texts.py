"""Texts that are too large to be held, or too odd to be decoded, say what they would if they were not."""

import pytest
from answer_texts import cut, json_texts, read
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.answers import AnswerReader, Figures, Shape, Usage
from extproc.answers.fields import decoded
from extproc.answers.skeleton import KEEP_MAX_BYTES, Skeleton
from extproc.answers.tally import Tally
from extproc.answers.texts import HELD_MAX_BYTES

USAGE = '{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}'


def large(text: str) -> str:
    """The same with a member before and one after it that are too much to hold."""
    filler = f'"output":[{{"text":"{"x" * HELD_MAX_BYTES}","usage":{{"prompt_tokens":666}}}}]'
    return "{" + filler + "," + text[1:-1] + "," + filler + "}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"type":"response.completed","response":{"usage":{"input_tokens":3,"output_tokens":4},"status":"completed"}}',
            Figures(Usage(3, None, 4), "stop", complete=True),
        ),
        ('{"usage":' + USAGE + "}", Figures(Usage(10, None, 5))),
        (
            '{"choices":[{"delta":{"content":"\\ud800"},"finish_reason":"length"},{"finish_reason":null}]}',
            Figures(None, "length", 1.0, 1.0, 1, 1),
        ),
        (
            f'{{"choices":[{{"delta":{{"tool_calls":[{"9," * KEEP_MAX_BYTES}9]}}}}]}}',
            Figures(None, None, 1.0, 1.0, 1, 1),
        ),
        ('{"choices":[{"delta":{"role":"assistant","content":""}}]}', Figures()),
        ('{"choices":[{"delta":{"role":"assistant","tool_calls":[]}}]}', Figures()),
        (f'{{"usage":{{"x":"{"x" * 2000}","completion_tokens":5}}}}', Figures(Usage(None, None, 5))),
        ('{"type":"response.output_text.delta","delta":"a"}', Figures(None, None, 1.0, 1.0, 1, 1)),
        (f'{{"usage":{USAGE},"usage":{{"prompt_tokens":1{" " * KEEP_MAX_BYTES}}}}}', Figures()),
        (f'{{"usage":{{"prompt_tokens":1{" " * KEEP_MAX_BYTES}}}}}', Figures()),
    ],
)
def test_an_event_too_large_to_be_held_says_the_same(text, expected):
    body = f"data: {large(text)}\n\n".encode()
    assert read(Shape.EVENTS, [body])[0] == expected
    assert read(Shape.EVENTS, cut(body, range(1000, len(body), 1000)))[0] == expected


def test_a_large_text_that_is_cut_where_an_inner_object_ends_is_not_complete():
    text = f'{{"x":"{"x" * HELD_MAX_BYTES}","choices":[{{"finish_reason":"stop"}}'.encode()
    figures = read(Shape.JSON, [text])[0]
    assert (figures.complete, figures.readable) == (False, True)


def test_a_text_of_which_too_much_is_wanted_is_not_read():
    text = b'{"choices":[' + b",".join([b'{"finish_reason":"stop"}'] * 4000) + b"]}"
    figures = read(Shape.JSON, [text])[0]
    assert (figures.complete, figures.readable) == (False, False)


def test_of_a_large_text_little_is_held():
    reader = AnswerReader(Shape.JSON)
    for piece in (b'{"x":"' + b"x" * (HELD_MAX_BYTES - 100), b"x" * 200):
        reader.feed(piece, 1.0)
    assert reader.held_bytes < 100


NAMES = [
    *("type", "choices", "delta", "finish_reason", "text", "content", "reasoning", "tool_calls", "usage"),
    *("prompt_tokens", "input_tokens", "message", "response", "status", "incomplete_details", "reason"),
    *("stop_reason", "error", "x"),
]
VALUES = [
    *('""', '"a"', '"stop"', '"length"', '"incomplete"', '"message_stop"', '"response.x.delta"', '"\\u0061"'),
    *("0", "7", "1.5", "true", "false", "null", "[]", "{}", "[ ]", "{ }", "[0]"),
]


@settings(deadline=None)
@given(st.data())
def test_a_text_cut_down_says_what_the_whole_of_it_says(data):
    text = data.draw(json_texts(NAMES, VALUES)).encode()
    skeleton = Skeleton()
    for place in range(0, len(text), size := data.draw(st.integers(1, 40))):
        skeleton.feed(text, place, min(place + size, len(text)))
    expected, tally = Tally(), Tally()
    expected.event(decoded(text), 1.0)
    tally.event(skeleton.finish(), 1.0)
    assert tally.figures == expected.figures
