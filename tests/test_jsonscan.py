import json
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_texts import ANY_TEXTS, TEXTS, values_of_model

from extproc.jsonscan import MAX_MODELS, RAW_NAME_MAX_BYTES, InvalidJson, ModelFound, ModelScanner


def scan(*pieces: bytes) -> ModelFound:
    scanner = ModelScanner()
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()


def outcome(*pieces: bytes) -> ModelFound | str:
    try:
        return scan(*pieces)
    except InvalidJson as fault:
        return str(fault)


def in_pieces(text: bytes, size: int) -> list[bytes]:
    return [text[at : at + size] for at in range(0, len(text), size)]


VALID = [
    b"{}",
    b"[]",
    b'""',
    b"0",
    b"-0",
    b"12",
    b"-1.5e+3",
    b"1E400",
    b"0.000",
    b"1e-0",
    b"true",
    b"false",
    b"null",
    b" \t\r\n[ \t\r\n] \t\r\n",
    b'{"":0}',
    b'{"a":1,"a":2}',
    b'["\\"\\\\\\/\\b\\f\\n\\r\\t\\u12aF"]',
    b'["\\u0000\\ud800\\udc00\\ud800"]',
    b'["\x7f"]',
    '["é€😀\u2028"]'.encode(),
    b'["\xf4\x8f\xbf\xbf\xef\xbb\xbf"]',
    b'[[[[[[{"a":[{"b":{"c":[]}}]}]]]]]]',
    b"[[[[0],0],0],[{},[[[[[]]]]]]]",
]


@pytest.mark.parametrize("text", VALID)
def test_valid_json_is_accepted_whole_and_byte_by_byte(text):
    assert outcome(text) == outcome(*in_pieces(text, 1)) == ModelFound(is_object=text.startswith(b"{"))


INVALID = [
    (b"", "unexpected end of JSON at byte 0"),
    (b"  ", "unexpected end of JSON at byte 2"),
    (b"{", "unexpected end of JSON at byte 1"),
    (b'{"a":1', "unexpected end of JSON at byte 6"),
    (b'{"a":1,', "unexpected end of JSON at byte 7"),
    (b'{"model":"qwq', "unexpected end of JSON at byte 13"),
    (b'["abc', "unexpected end of JSON at byte 5"),
    (b"[tru", "expected a value at byte 1"),
    (b'["a\\', "invalid escape at byte 3"),
    (b'["a\xe2\x82', "invalid UTF-8 at byte 3"),
    (b"1 2", "expected the end at byte 2"),
    (b"{}}", "expected the end at byte 2"),
    (b"[] ,", "expected the end at byte 3"),
    (b'{"a":1}x', "expected the end at byte 7"),
    (b"]", "expected a value at byte 0"),
    (b"[1}", "unexpected '}' at byte 2"),
    (b'{"a":[[1] ]]', "unexpected ']' at byte 11"),
    (b'[{"a":1]', "unexpected ']' at byte 7"),
    (b"[1,]", "expected a value at byte 3"),
    (b"[1, ]", "expected a value at byte 4"),
    (b"[,1]", "expected a value at byte 1"),
    (b"[1,,2]", "expected a value at byte 3"),
    (b"[1 2]", "expected ',' or ']' at byte 3"),
    (b'{"a":1 "b":2}', "expected ',' or '}' at byte 7"),
    (b'{"a":1,}', "expected a key at byte 7"),
    (b"{,}", "expected a key at byte 1"),
    (b"{1:2}", "expected a key at byte 1"),
    (b'{a:"b"}', "expected a key at byte 1"),
    (b'{"a"}', "expected ':' at byte 4"),
    (b'{"a",1}', "expected ':' at byte 4"),
    (b'["a":1]', "expected ',' or ']' at byte 4"),
    (b'{"a"::1}', "expected a value at byte 5"),
    (b'{"a":}', "expected a value at byte 5"),
    (b'{"a":1:2}', "expected ',' or '}' at byte 6"),
    (b"[01]", "expected ',' or ']' at byte 2"),
    (b"[-01]", "expected ',' or ']' at byte 3"),
    (b"[1.]", "expected ',' or ']' at byte 2"),
    (b"[1.e1]", "expected ',' or ']' at byte 2"),
    (b"[1e]", "expected ',' or ']' at byte 2"),
    (b"[1e+]", "expected ',' or ']' at byte 2"),
    (b"[1.5.5]", "expected ',' or ']' at byte 4"),
    (b"[0x1]", "expected ',' or ']' at byte 2"),
    (b"[1_0]", "expected ',' or ']' at byte 2"),
    (b"[.5]", "expected a value at byte 1"),
    (b"[+1]", "expected a value at byte 1"),
    (b"[-]", "expected a value at byte 1"),
    (b"[--1]", "expected a value at byte 1"),
    (b"[NaN]", "expected a value at byte 1"),
    (b"[-Infinity]", "expected a value at byte 1"),
    (b"[True]", "expected a value at byte 1"),
    (b"[nul]", "expected a value at byte 1"),
    (b"[truefalse]", "expected ',' or ']' at byte 5"),
    (b"['a']", "expected a value at byte 1"),
    (b"[1]//", "expected the end at byte 3"),
    (b"[\x0b1]", "expected a value at byte 1"),
    (b"\xc2\xa0[]", "expected a value at byte 0"),
    (b"\xef\xbb\xbf{}", "expected a value at byte 0"),
    (b'["\\x"]', "invalid escape at byte 2"),
    (b'["\\U0041"]', "invalid escape at byte 2"),
    (b'["\\u12g4"]', "invalid escape at byte 2"),
    (b'["\\u123"]', "invalid escape at byte 2"),
    (b'{"\\a":1}', "invalid escape at byte 2"),
    (b'["a\nb"]', "control character in a string at byte 3"),
    (b'["a\x00"]', "control character in a string at byte 3"),
    (b'["\\n\x1f"]', "control character in a string at byte 4"),
    (b'{"\t":1}', "control character in a string at byte 2"),
    (b'["\xff"]', "invalid UTF-8 at byte 2"),
    (b'["\xc0\x80"]', "invalid UTF-8 at byte 2"),
    (b'["\xed\xa0\x80"]', "invalid UTF-8 at byte 2"),
    (b'["\xf4\x90\x80\x80"]', "invalid UTF-8 at byte 2"),
    (b'["\xe2\x82"]', "invalid UTF-8 at byte 2"),
    (b"[] \xe2", "invalid UTF-8 at byte 3"),
    ("{}".encode("utf-16-le"), "expected a key at byte 1"),
    (b'[1;"\xff"]', "expected ',' or ']' at byte 2"),
]


@pytest.mark.parametrize(("text", "fault"), INVALID)
def test_a_fault_is_named_with_its_place_whole_and_byte_by_byte(text, fault):
    assert outcome(text) == outcome(*in_pieces(text, 1)) == fault


MODELS = [
    (b'{"model":"qwq"}', [(9, 14)], ["qwq"], False),
    (b' { "model" \n:\t"qwq" , "a":[1]}', [(14, 19)], ["qwq"], False),
    (b'{"a":{"model":"no"},"model":"yes"}', [(28, 33)], ["yes"], False),
    (b'{"a":[{"b":{"c":{"d":{"model":"no"}}}}]}', [], [], False),
    (b'{"a":"\\"model\\":1,","b":"model"}', [], [], False),
    (b'[{"model":"no"}]', [], [], False),
    (b'{"model":"a","x":0,"model":"b"}', [(9, 12), (27, 30)], ["a", "b"], False),
    (b'{"mod\\u0065l":"a","\\u006Dodel":"b"}', [(14, 17), (31, 34)], ["a", "b"], False),
    (b'{"models":"a","mode":"b","Model":"c","mode\\u006b":"d","model\\u0000":"e"}', [], [], False),
    (b'{"model":"\\u0071w\\/\\"\\n"}', [(9, 24)], ['qw/"\n'], False),
    ('{"model":"modèle 😀"}'.encode(), [(9, 23)], ["modèle 😀"], False),
    (b'{"model":""}', [(9, 11)], [""], False),
    (b'{"model":-1.50}', [(9, 14)], [None], False),
    (b'{"model":null,"b":1}', [(9, 13)], [None], False),
    (b'{"model":[],"b":1}', [(9, 11)], [None], False),
    (b'{"model" : [ [ ] ] }', [(11, 18)], [None], False),
    (b'{"model":{"model":"no"} } ', [(9, 23)], [None], False),
    (b'{"model":[[[["model"],{"model":1}]]],"model":"b"}', [(9, 36), (45, 48)], [None, "b"], False),
    (b'{"model":"a","model":7}', [(9, 12), (21, 22)], ["a", None], False),
    (b'{"model":"\\ud83d\\ude00"}', [(9, 23)], ["😀"], False),
    (b'{"model":"a\\ud800"}', [(9, 18)], [None], True),
    (b'{"model":"\\ud800","model":"b"}', [(9, 17), (26, 29)], [None, "b"], False),
]


@pytest.mark.parametrize(("text", "spans", "names", "unusable"), MODELS)
def test_the_top_level_model_is_found_whole_and_byte_by_byte(text, spans, names, unusable):
    expected = ModelFound(not text.startswith(b"["), tuple(spans), tuple(names), unusable)
    assert outcome(text) == outcome(*in_pieces(text, 1)) == expected


def test_the_last_model_decides():
    found = scan(b'{"model":"a","model":"b"}')
    assert (found.has_model, found.model) == (True, "b")
    assert (scan(b"{}").has_model, scan(b"{}").model) == (False, None)


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_a_string_too_long_for_a_name_is_unusable_and_its_span_known(size):
    longest = b'"' + b"x" * (RAW_NAME_MAX_BYTES - 2) + b'"'
    longer = b'"' + b"x" * (RAW_NAME_MAX_BYTES - 1) + b'"'
    assert scan(*in_pieces(b'{"model":' + longest + b"}", size)).model == json.loads(longest)
    end = 9 + RAW_NAME_MAX_BYTES + 1
    assert scan(*in_pieces(b'{"model":' + longer + b"}", size)) == ModelFound(
        True, ((9, end),), (None,), True
    )


def test_more_models_than_any_client_writes_are_refused():
    members = b'"model":1,' * MAX_MODELS
    assert len(scan(b"{" + members[:-1] + b"}").spans) == MAX_MODELS
    with pytest.raises(
        InvalidJson, match=f"^more than {MAX_MODELS} times 'model' at byte {len(members) + 9}$"
    ):
        scan(b"{" + members + b'"model":1}')


@given(ANY_TEXTS, st.data())
def test_any_split_gives_the_same_result(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    assert outcome(*pieces) == outcome(text)


@given(TEXTS)
def test_every_split_in_two_gives_the_same_result(text):
    whole = scan(text)
    assert all(scan(text[:at], text[at:]) == whole for at in range(len(text)))


@given(ANY_TEXTS)
def test_it_agrees_with_another_parser(text):
    expected = values_of_model(text)
    found = outcome(text)
    assert isinstance(found, str) == (expected is None)
    if isinstance(found, ModelFound):
        raw = [text[start:end] for start, end in found.spans]
        assert [json.loads(value) for value in raw] == expected
        assert [value.strip() for value in raw] == raw


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[ {"":', b"} ]")])
def test_a_million_levels_are_no_problem(opening, closing):
    nested = opening * 1_000_000 + b"1" + closing * 1_000_000
    text = b'{"model":' + nested + b',"model":"a"}'
    assert scan(*in_pieces(nested, 65536)) == ModelFound(is_object=nested.startswith(b"{"))
    spans = ((9, 9 + len(nested)), (len(text) - 4, len(text) - 1))
    assert scan(*in_pieces(text, 65536)) == ModelFound(True, spans, (None, "a"))
    assert outcome(nested[:-1]) == f"unexpected end of JSON at byte {len(nested) - 1}"


LONG = {
    "integer": b"[" + b"7" * 2_000_000 + b"]",
    "fraction": b"[0." + b"7" * 2_000_000 + b"]",
    "escapes": b'["' + b"\\n" * 1_000_000 + b'"]',
    "model": b'{"model":"' + b"x" * 2_000_000 + b'"}',
    "key": b'{"' + b"x" * 2_000_000 + b'":1}',
    "white space": b" " * 2_000_000 + b"[]",
    "items": b"[" + b'{"a":[1,"b"]},' * 150_000 + b"1]",
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_little_is_held_of_what_has_been_read(text):
    pieces = in_pieces(text, 65536)
    scanner = ModelScanner()
    tracemalloc.start()
    try:
        steps = sum(map(scanner.feed, pieces))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    scanner.finish()
    assert held < 4096
    assert peak < 4 * 65536
    assert steps < 10 * len(pieces)
