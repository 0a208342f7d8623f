"""JSON texts for the tests of the scanner and of the body reader: valid, and nearly."""

import json
from typing import Any

from hypothesis import strategies as st

WHITE_SPACE = st.sampled_from([b"", b"", b"", b" ", b"\n", b"\t \r\n"])
KEYS = st.sampled_from(
    [
        b'"model"',
        b'"mod\\u0065l"',
        b'"\\u006D\\u006f\\u0064\\u0065\\u006c"',
        b'"models"',
        b'"Model"',
        b'"mode\\u006b"',
        b'""',
        b'"a\\n\\"b"',
        b'"messages"',
        b'"a\\"messages"',
        b'"m\\u0065ssages"',
        b'"prompt"',
        b'"a key that is longer than any spelling of model"',
        '"é"'.encode(),
    ]
)
SCALARS = st.sampled_from(
    [
        b'"model"',
        b'"qwq-32b"',
        b'"\\"model\\":1"',
        b'"\\"messages\\":1"',
        b'"messages"',
        b'"\\ud83d\\ude00 \\ud800"',
        '"modèle 😀"'.encode(),
        b'"' + b"x" * 40 + b'"',
        b'""',
        b"0",
        b"-0.5e+10",
        b"9007199254740993",
        b"1" * 40,
        b"1E400",
        b"true",
        b"false",
        b"null",
        b"[]",
        b"{}",
    ]
)


def _padded(text: bytes) -> st.SearchStrategy[bytes]:
    return st.tuples(WHITE_SPACE, WHITE_SPACE).map(lambda around: around[0] + text + around[1])


def _array(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(values.flatmap(_padded), max_size=4).map(lambda items: b"[" + b",".join(items) + b"]")


def _object(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    member = st.tuples(KEYS.flatmap(_padded), values.flatmap(_padded)).map(b":".join)
    return st.lists(member, max_size=4).map(lambda members: b"{" + b",".join(members) + b"}")


VALUES = st.recursive(SCALARS, lambda inner: _array(inner) | _object(inner), max_leaves=12)
DEEP_VALUES = st.tuples(st.lists(st.sampled_from([b"[", b'{"model":', b"[0,"]), max_size=8), VALUES).map(
    lambda made: (
        b"".join(made[0]) + made[1] + b"".join(b"}" if o[:1] == b"{" else b"]" for o in reversed(made[0]))
    )
)
BODIES = _object(DEEP_VALUES).flatmap(_padded)
TEXTS = BODIES | DEEP_VALUES.flatmap(_padded)

FRAGMENTS = st.sampled_from(
    b'" \\ { } [ ] , : 0 - . e t NaN "model" \\u00 \x00 \xc3 \xa9 \xed\xa0\x80 \xef\xbb\xbf'.split(b" ")
) | st.sampled_from([b"", b" ", b"\n"])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A text with one or two fragments put in the place of up to two bytes."""
    text = draw(TEXTS)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(FRAGMENTS) + text[at + draw(st.integers(0, 2)) :]
    return text


ANY_TEXTS = TEXTS | mutated() | st.lists(FRAGMENTS, max_size=12).map(b"".join) | st.binary(max_size=20)


def values_of_model(text: bytes) -> list[Any] | None:
    """What Python's own parser reads at the top-level `model`, in order; None if the text is no JSON."""
    objects: list[list[tuple[str, Any]]] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        objects.append(pairs)
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        top = json.loads(text.decode(), object_pairs_hook=note, parse_constant=refuse)
    except ValueError:
        return None
    return [value for key, value in objects[-1] if key == "model"] if isinstance(top, dict) else []
