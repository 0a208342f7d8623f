"""JSON bodies: read like Python's own parser does, however they are cut; a splice leaves every other byte."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from extproc.body import BodyReader, encode_name, splice
from extproc.errors import InvalidBody
from extproc.jsonscan import InvalidJson, ModelFound, ModelScanner
from extproc.model_name import is_usable
from extproc.prompt import read_prompt

from ..choices import pieces
from ..steps import result_of
from ..target import Target, words

Found = ModelFound | str
"""What a body says, or what is wrong with it."""
NAME = 'a "new" näme'


def run(data: bytes) -> None:
    rule, body = data[0] if data else 0, data[1:]
    chunks = pieces(body, rule)
    found = _scanned(chunks)
    assert _scanned([body]) == found, "the chunking matters"
    assert _read(chunks) == found, "the fast path and the scanner disagree"
    _compare(body, found)
    if isinstance(found, ModelFound) and found.spans:
        _splice(body, chunks, found)


def _scanned(chunks: Iterable[bytes]) -> Found:
    scanner = ModelScanner()
    try:
        for chunk in chunks:
            scanner.feed(chunk)
        return scanner.finish()
    except InvalidJson as fault:
        return str(fault)


def _read(chunks: Iterable[bytes]) -> Found:
    reader = BodyReader()
    try:
        for chunk in chunks:
            for _ in reader.feed(chunk):
                pass
        found = result_of(reader.finish())
    except InvalidBody as fault:
        return str(fault)
    prompt = result_of(read_prompt(reader))
    assert prompt.tokens >= 0
    assert prompt.max_output_tokens is None or prompt.max_output_tokens > 0
    return found


def _compare(body: bytes, found: Found) -> None:
    try:
        values = values_of_model(body)
    except RecursionError:  # deeper than Python's own parser reads
        return
    if isinstance(found, str):
        assert values is None, f"Python takes what we call {found!r}"
        return
    assert values is not None, "Python's parser refuses it"
    strings = [value if isinstance(value, str) else None for value in values]
    assert [name for name in found.names if name is not None] == [
        ours for ours, theirs in zip(found.names, strings, strict=True) if ours is not None and ours == theirs
    ]
    for name, value in zip(found.names, strings, strict=True):
        assert name is not None or value is None or not is_usable(value), "a usable name is not told"
    for start, end in found.spans:
        assert 0 < start < end < len(body)


def values_of_model(text: bytes) -> list[Any] | None:
    """The values of the top-level `model` that Python's own parser reads, in order; None if the text is no JSON."""
    objects: list[list[tuple[str, Any]]] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        objects.append(pairs)
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        top = json.loads(text.decode(), object_pairs_hook=note, parse_constant=refuse, parse_int=str.__len__)
    except ValueError:
        return None
    return [value for key, value in objects[-1] if key == "model"] if isinstance(top, dict) else []


def _splice(body: bytes, chunks: list[bytes], found: ModelFound) -> None:
    replacement = encode_name(NAME)
    spliced = b"".join(splice(chunks, found.spans, replacement))
    kept, at = [], 0
    for start, end in found.spans:
        kept.append(body[at:start])
        at = end
    assert spliced == replacement.join([*kept, body[at:]]), "another byte changed"
    after = _scanned([spliced])
    assert isinstance(after, ModelFound)
    assert set(after.names) == {NAME}
    assert len(after.spans) == len(found.spans)


def _seeds() -> list[bytes]:
    texts = [
        b'{"model":"qwq","messages":[{"role":"user","content":"What is \\u00e9?"}],"max_tokens":7}',
        b' { "model" \n:\t"qwq" , "a":[1,-0.5e+10,true,null,{}]}',
        b'{"a":{"model":"no"},"model":"yes","\\u006dod\\u0065l":1,"model":{"x":[]}}',
        b'{"mode\\u006c":"\\ud83d\\ude00","tools":[{"type":"function"}],"prompt":"hi"}',
        '{"model":"modèle 😀","input":["a","b"],"cache_salt":"x"}'.encode(),
        b'{"model":"\\ud800"}',
        b'{"model":"' + b"x" * 300 + b'"}',
        b"[" * 70 + b"]" * 70,
        b'{"token_ids":[1,22,333],"model":null}',
        b'{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,'
        + b"iVBORw0KGgo" * 9
        + b'"}}]}]}',
        b'{"a":1 "b":2}',
        b'["\xed\xa0\x80"]',
        b"1" * 50 + b".5",
    ]
    return [bytes([rule]) + text for rule in (0, 1, 77) for text in texts]


TARGET = Target(
    run,
    _seeds,
    words(
        b'"model" {"model": \\u006d \\u00 \\ud83d { } [ ] , : " null true 1e5 -0 \xc3\xa9 \xed\xa0\x80',
        b" ",
        b"\n",
        b"\x00",
        b'\\"',
        b'"messages":[',
        b'"max_tokens":',
    ),
)
