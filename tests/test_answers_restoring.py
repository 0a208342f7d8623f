"""The client's model name in the place of the target's: there, wherever it is cut, and nowhere else."""

import json

import pytest
from answer_texts import ENDS, LEADS, cut, cuts, events, framed, json_texts, read, restored, spellings
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.answers import AnswerReader, Restoring, Shape

PLAIN = Restoring("qwq-32b", "qwq")
ODD = Restoring('org/é😀"\\', 'a\n"\u2028\x00/ü')
KEYS = ["model", "message", "response", "models", "choices", "usage", "x"]


def scalars(restore: Restoring) -> list[str]:
    others = [restore.target + "x", restore.target[:-1], restore.client, "model", '"model":', ""]
    return [
        *spellings(restore.target),
        *(json.dumps(other) for other in others),
        *(
            json.dumps(f'{{"model": {json.dumps(restore.target)}}}'),
            "1",
            "-0.5e3",
            "true",
            "null",
            '"\\ud800"',
        ),
    ]


def one(text: str, restore: Restoring = PLAIN) -> bytes:
    return read(Shape.JSON, [text.encode()], restore)[1]


@pytest.mark.parametrize("restore", [PLAIN, ODD])
@settings(deadline=None)
@given(data=st.data())
def test_a_json_answer_reads_as_the_reference_does(restore, data):
    body = data.draw(json_texts(KEYS, scalars(restore))).encode()
    _, out = read(Shape.JSON, data.draw(cuts(body)), restore)
    assert out == restored(body, restore)


@pytest.mark.parametrize("restore", [PLAIN, ODD])
@settings(deadline=None)
@given(data=st.data())
def test_events_read_as_the_reference_does_be_they_of_many_lines(restore, data):
    texts = data.draw(st.lists(json_texts(KEYS, scalars(restore)), max_size=4))
    end, lead = data.draw(ENDS), data.draw(LEADS)
    body = "".join(framed(text, end, lead) for text in texts).encode()
    expected = "".join(
        framed(restored(text.encode(), restore).decode(), end, lead) for text in texts
    ).encode()
    assert read(Shape.EVENTS, data.draw(cuts(body)), restore)[1] == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"":\x04,"":"","model":"qwq-32b"}',
        '{"":\x7f,"message":{"model":"qwq-32b"}}',
        '{"":x,"model":"qwq-32b"}',
    ],
)
def test_what_is_no_value_ends_the_reading_wherever_it_is_cut(text):
    """Passed over with members around it, or looked at alone."""
    for body, shape in ((text.encode(), Shape.JSON), (events(text), Shape.EVENTS)):
        assert read(shape, [body], PLAIN)[1] == body
        assert read(shape, cut(body, range(1, len(body))), PLAIN)[1] == body


@settings(deadline=None)
@given(st.data())
def test_a_text_that_is_no_json_goes_on_the_same_however_it_is_cut(data):
    text = data.draw(json_texts(KEYS, scalars(PLAIN)))
    at = data.draw(st.integers(0, len(text)))
    junk = data.draw(
        st.sampled_from(['"', "{", "}", "]", ",", ":", "\\", "\t", "x", "\n", "\n\n", "\x00", "data:"])
    )
    body = ("data: " + text[:at] + junk + text[at + data.draw(st.integers(0, 2)) :] + "\n\n").encode()
    for shape in Shape:
        assert read(shape, data.draw(cuts(body)), PLAIN) == read(shape, [body], PLAIN)


ESCAPED_RESPONSE = "".join(f"\\u{ord(letter):04x}" for letter in "response")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"model":"qwq-32b"}', '{"model":"qwq"}'),
        ('{"model":"qwq\\u002d32b"}', '{"model":"qwq"}'),
        ('{"mod\\u0065l" : "qwq-32b" }', '{"mod\\u0065l" : "qwq" }'),
        ('{"model":"qwq-32b","x":1,"model":"qwq-32b"}', '{"model":"qwq","x":1,"model":"qwq"}'),
        ('{"message":{"model":"qwq-32b"},"message":{}}', '{"message":{"model":"qwq"},"message":{}}'),
        ('{"r\\u0065sponse":{"model":"qwq-32b"}}', '{"r\\u0065sponse":{"model":"qwq"}}'),
        (f'{{"{ESCAPED_RESPONSE}":{{"model":"qwq-32b"}}}}', f'{{"{ESCAPED_RESPONSE}":{{"model":"qwq"}}}}'),
        ('{"mod\\u0065l":"qwq-32b","model":"x"}', '{"mod\\u0065l":"qwq","model":"x"}'),
        ('{"x":"\\"","model":"qwq-32b"}', '{"x":"\\"","model":"qwq"}'),
        ('{"x":[[[[[["[{",1]]]]]],"model":"qwq-32b"}', '{"x":[[[[[["[{",1]]]]]],"model":"qwq"}'),
    ],
)
def test_a_name_is_replaced_however_it_is_spelled_and_cut(text, expected):
    assert one(text) == expected.encode()
    assert read(Shape.JSON, cut(text.encode(), range(1, len(text))), PLAIN)[1] == expected.encode()
    assert read(Shape.EVENTS, [f"data:{text}\n\n".encode()], PLAIN)[1] == f"data:{expected}\n\n".encode()


def test_a_name_that_goes_on_in_another_line_is_none():
    body = b'data: {"model":"qwq-\ndata:32b"}\n\n'
    for pieces in ([body], cut(body, range(1, len(body)))):
        assert read(Shape.EVENTS, pieces, PLAIN)[1] == body


@pytest.mark.parametrize("shape", Shape)
def test_what_is_held_back_counts_as_held(shape):
    lead, name = b"data: " * (shape is Shape.EVENTS), b'"qwq-3'
    reader, restorer = AnswerReader(shape), AnswerReader(shape, PLAIN)
    for each in (reader, restorer):
        each.feed(lead + b'{"model":' + name, 1.0)
    assert restorer.held_bytes >= reader.held_bytes + len(name)


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"qwq-32b-v2"}',
        '{"model":"QWQ-32B"}',
        '{"model":["qwq-32b"]}',
        '{"model":{"model":"qwq-32b"}}',
        '{"x":{"model":"qwq-32b"}}',
        '{"message":[{"model":"qwq-32b"}]}',
        '{"message":{"message":{"model":"qwq-32b"}}}',
        '{"model":null,"object":"model","id":"qwq-32b"}',
        '{"choices":[{"delta":{"content":"\\"model\\":\\"qwq-32b\\""}}]}',
        '[{"model":"qwq-32b"}]',
        '"model"',
        '{"x":}{"model":"qwq-32b"}',
        '{} {"model":"qwq-32b"}',
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert one(text) == text.encode()
    event = f"data:{text}\n\n".encode()
    assert read(Shape.EVENTS, [event], PLAIN)[1] == event


def test_a_name_that_a_line_end_breaks_is_none():
    body = b'data: {"model":"qwq-\ndata: 32b"}\n\n'
    assert read(Shape.EVENTS, [body], PLAIN)[1] == body
    for place in range(len(body)):
        assert read(Shape.EVENTS, [body[:place], body[place:]], PLAIN)[1] == body


def test_only_the_value_is_held_back():
    reader = AnswerReader(Shape.EVENTS, PLAIN)
    assert reader.feed(b'data: {"id":1,"model', 0.0) is None
    assert reader.feed(b'": "qwq', 0.0) == (b'": ',)
    assert reader.feed(b"-3", 0.0) == ()
    assert reader.feed(b'2b","choi', 0.0) == (b'"qwq","choi',)
    assert reader.feed(b'ces":[]}\n\n', 0.0) is None
    assert reader.finish(0.0) == ()


def test_another_name_that_was_held_goes_on_as_it_came():
    reader = AnswerReader(Shape.JSON, PLAIN)
    assert reader.feed(b'{"model":"qw', 0.0) == (b'{"model":',)
    assert reader.feed(b'q"}', 0.0) == (b'"qwq"}',)


def test_what_was_held_is_there_at_an_untimely_end():
    reader = AnswerReader(Shape.JSON, PLAIN)
    assert reader.feed(b'{"model":"qwq-3', 0.0) == (b'{"model":',)
    assert reader.finish(0.0) == (b'"qwq-3',)


def test_no_more_is_held_than_the_name_can_take():
    reader = AnswerReader(Shape.JSON, PLAIN)
    longest = b'"' + b"\\u0071" * 7
    assert reader.feed(b'{"model":' + longest, 0.0) == (b'{"model":',)
    assert reader.feed(b"xx", 0.0) == (longest + b"xx",)
    assert reader.feed(b'x","usage":{}}', 0.0) is None


def test_values_of_other_types_are_not_held():
    for value in (b"12", b"[1", b'{"a', b"nul"):
        assert AnswerReader(Shape.JSON, PLAIN).feed(b'{"model":' + value, 0.0) is None


def test_names_in_and_around_many_events_in_one_piece():
    first, second = {"model": "qwq-32b"}, {"response": {"model": "qwq-32b"}}
    body = events(first, {"model": "other"}, second) + b'data: {"model":"qwq-32b"'
    out = (
        events({"model": "qwq"}, {"model": "other"}, {"response": {"model": "qwq"}}) + b'data: {"model":"qwq"'
    )
    assert read(Shape.EVENTS, [body], PLAIN)[1] == out


def test_a_view_of_a_larger_message_can_be_fed():
    body = memoryview(b'..{"model":"qwq-32b"}..')[2:-2]
    assert AnswerReader(Shape.JSON, PLAIN).feed(body, 0.0) == (b'{"model":"qwq"}',)
