"""What a body counts for while it is held, and that nothing of that stays."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterable, Mapping

import brotli
import pytest
from stream_talk import DUPLEX, NONE, H

from extproc.budget import BodyBudget
from extproc.config.schema import Limits
from extproc.content_coding import BROTLI_WINDOW_BYTES
from extproc.errors import Reason, Rejected
from extproc.held_body import PIECE_COST_BYTES, HeldBody
from extproc.intake import Reading
from extproc.protocol.messages import RequestBody, RequestChunk, RequestHeaders
from extproc.protocol.stream import ExtProcStream

GZIP = {**H, "content-encoding": "gzip"}


def body_of(
    budget: BodyBudget,
    pieces: Iterable[bytes],
    headers: Mapping[str, str] = H,
    kind: Reading = Reading.MODEL,
    **limits: int,
) -> HeldBody:
    """A body of which *pieces* came."""
    body = HeldBody(budget, Limits(**limits))
    body.read(kind, headers)
    for piece in pieces:
        for _ in body.take(piece):
            pass
    return body


def test_a_body_in_one_piece_counts_its_bytes_and_each_further_piece_what_it_takes_besides() -> None:
    for pieces, count in (((b'{"a":1}',), 7), ((b'{"a"', b":1", b"}"), 7 + 2 * PIECE_COST_BYTES)):
        budget = BodyBudget()
        body = body_of(budget, pieces)
        assert (budget.held_bytes, body.size) == (count, 7)
        for _ in range(2):  # when it was sent on, and at the end
            body.let_go()
            assert budget.held_bytes == 0


@pytest.mark.parametrize("kind", [Reading.MODEL, Reading.OPAQUE])
def test_pieces_of_a_few_bytes_count_for_the_memory_that_they_take(kind: Reading) -> None:
    budget, stream = BodyBudget(), ExtProcStream(DUPLEX, NONE)
    stream.receive(RequestHeaders(H))
    tracemalloc.start()
    try:
        body = body_of(budget, (), kind=kind)
        for n in range(20_000):
            told = stream.receive(RequestBody(b"%02d" % (n % 100)))
            assert isinstance(told, RequestChunk)
            assert list(body.take(told.data)) == []
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken <= budget.held_bytes <= 2 * taken


def test_pieces_that_take_too_much_are_refused_as_overload_and_not_as_too_large_a_body() -> None:
    budget = BodyBudget()
    limits = {"max_body_bytes": 1000, "max_buffered_bytes": 1000}
    pieces = [b"xy"] * 16  # 32 bytes, and 15 times the cost of a piece
    body = body_of(budget, pieces, kind=Reading.OPAQUE, **limits)
    with pytest.raises(Rejected) as error:
        list(body.take(b"xy"))
    assert (error.value.reason, body.size) == (Reason.OVERLOADED, 34)
    body.let_go()
    assert budget.held_bytes == 0


@pytest.mark.parametrize("kind", [Reading.MODEL, Reading.OPAQUE])
def test_a_body_is_too_large_with_the_first_byte_beyond_the_limit_however_it_comes(kind: Reading) -> None:
    body = body_of(BodyBudget(), [b'{"a"', b':"b"', b"  "], kind=kind, max_body_bytes=10)
    with pytest.raises(Rejected) as error:
        list(body.take(b"}"))
    assert error.value.reason is Reason.BODY_TOO_LARGE


def test_a_decoded_body_is_too_large_by_what_comes_out() -> None:
    sent = gzip.compress(b'{"x":"' + b"y" * 1000 + b'"}', mtime=0)
    assert len(sent) < 100
    with pytest.raises(Rejected) as error:
        body_of(BodyBudget(), [sent], GZIP, max_body_bytes=1000)
    assert error.value.reason is Reason.BODY_TOO_LARGE


def test_a_body_of_one_piece_may_be_as_large_as_all_together() -> None:
    limits = {"max_body_bytes": 1000, "max_buffered_bytes": 1000}
    assert body_of(BodyBudget(), [bytes(1000)], kind=Reading.OPAQUE, **limits).size == 1000


@pytest.mark.parametrize(
    ("content_type", "pieces"),
    [("multipart/form-data", []), ("multipart/form-data; boundary=b", [b"--c"])],
    ids=["by its headers", "by its first bytes"],
)
def test_what_is_no_form_is_refused_as_soon_as_that_is_known(content_type: str, pieces: list[bytes]) -> None:
    with pytest.raises(Rejected) as error:
        body_of(BodyBudget(), pieces, {**H, "content-type": content_type}, Reading.FORM)
    assert error.value.reason is Reason.INVALID_JSON


def test_decoded_pieces_count_for_what_they_take_too() -> None:
    budget = BodyBudget()
    sent = gzip.compress(b'{"model":"qwq"}', mtime=0)
    body = body_of(budget, [sent], GZIP)
    assert (budget.held_bytes, body.size) == (len(sent) + 15 + PIECE_COST_BYTES, 15)
    body.let_go()
    assert budget.held_bytes == 0


def test_the_window_of_brotli_counts_until_the_body_is_whole_and_no_byte_longer() -> None:
    budget = BodyBudget()
    sent = brotli.compress(b'{"x":"' + b"y" * 1_000_000 + b'"}')
    body = body_of(budget, [sent], {**H, "content-encoding": "br"})
    before = budget.held_bytes
    for _ in body.found():
        pass
    assert before - budget.held_bytes == BROTLI_WINDOW_BYTES
