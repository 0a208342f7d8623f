"""Answers for the tests of their reader: recorded ones, made ones, and a reader of their models of another kind."""

import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from hypothesis import strategies as st

from extproc.answers import AnswerReader, Figures, Restoring, Shape

DATA = Path(__file__).parent / "data" / "answers"
RECORDED = {path.name: path.read_bytes() for path in sorted(DATA.iterdir())}
TARGET = "qwq-32b"
"""The model in all of them."""
CLIENT = 'the "client\'s" ü\n'
RESTORING = Restoring(TARGET, CLIENT)


def shape_of(name: str) -> Shape:
    return Shape.EVENTS if name.endswith(".sse") else Shape.JSON


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    return [body[start:end] for start, end in pairwise([0, *places, len(body)])]


def read(shape: Shape, pieces: Sequence[bytes], restore: Restoring | None = None) -> tuple[Figures, bytes]:
    """The figures of an answer that comes all at once (at 1.0), and what goes on."""
    reader = AnswerReader(shape, restore)
    out = []
    for piece in pieces:
        instead = reader.feed(piece, 1.0)
        out += [piece] if instead is None else instead
    out += reader.finish(1.0)
    return reader.figures, b"".join(out)


def events(*data: str | dict[str, object]) -> bytes:
    return b"".join(
        b"data: " + (entry if isinstance(entry, str) else json.dumps(entry)).encode() + b"\n\n"
        for entry in data
    )


# -- a reference ----------------------------------------------------------------------------------------------

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+')
PATHS = [["model"], ["message", "model"], ["response", "model"]]


def restored(text: bytes, restore: Restoring) -> bytes:
    """A valid JSON text as it should go on, by going through all of its tokens."""
    tokens = [(match.start(), match[0]) for match in _TOKEN.finditer(text)]
    spans: list[tuple[int, int]] = []

    def value(at: int, path: list[object]) -> int:
        start, token = tokens[at]
        if token == b"[":
            at += 1
            while tokens[at][1] != b"]":
                at = value(at, [*path, 0])
                at += tokens[at][1] == b","
        elif token == b"{":
            at += 1
            while tokens[at][1] != b"}":
                at = value(at + 2, [*path, json.loads(tokens[at][1])])
                at += tokens[at][1] == b","
        elif path in PATHS and token[:1] == b'"' and json.loads(token) == restore.target:
            spans.append((start, start + len(token)))
        return at + 1

    value(0, [])
    for start, end in reversed(spans):
        text = text[:start] + json.dumps(restore.client, ensure_ascii=False).encode() + text[end:]
    return text


# -- made texts -----------------------------------------------------------------------------------------------


def _escaped(text: str) -> str:
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)) + '"'


def spellings(name: str) -> list[str]:
    plain = json.dumps(name, ensure_ascii=False)
    return [plain, plain, plain, json.dumps(name), plain.replace("/", "\\/"), _escaped(name)]


def _key(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from([json.dumps(name)] * 6 + [_escaped(name), f'"\\u00{ord(name[0]):02x}{name[1:]}"'])


def json_texts(keys: Sequence[str], scalars: Sequence[str], space: str = " \n") -> st.SearchStrategy[str]:
    """Objects with these keys, at any depth."""
    gap = st.sampled_from(["", "", "", *space, "  "])

    def padded(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.tuples(gap, inner, gap).map("".join)

    def array(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.lists(padded(inner), max_size=3).map(lambda items: "[" + ",".join(items) + "]")

    def members(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        key = padded(st.sampled_from(keys).flatmap(_key))
        member = st.tuples(key, padded(inner)).map(":".join)
        return st.lists(member, max_size=5).map(lambda entries: "{" + ",".join(entries) + "}")

    values = st.recursive(
        st.sampled_from(scalars), lambda inner: array(inner) | members(inner), max_leaves=12
    )
    return padded(members(values))


def framed(text: str, end: str, lead: str = "data: ") -> str:
    """An event with the text in as many lines as it has."""
    return "".join(lead + line + end for line in text.split("\n")) + end


LEADS = st.sampled_from(["data: ", "data:", ": comment\ndata:", "event: x\ndata: ", "id\ndata:"])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def cuts(draw: st.DrawFn, body: bytes) -> list[bytes]:
    """Into single bytes, or at a few places, some of them ends of lines."""
    if draw(st.booleans()):
        return cut(body, range(1, len(body)))
    places = st.integers(0, len(body))
    lines = [match.end() for match in re.finditer(rb"[\r\n]", body)]
    if lines:
        places |= st.sampled_from(lines)
    return cut(body, sorted(draw(st.sets(places, max_size=8))))
