"""What a body counts for while it is held, and that nothing of that stays."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterable, Mapping

import pytest
from stream_talk import DUPLEX, NONE, H

from extproc.budget import BodyBudget
from extproc.config.schema import Limits
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


def test_a_body_of_one_piece_may_be_as_large_as_all_together() -> None:
    limits = {"max_body_bytes": 1000, "max_buffered_bytes": 1000}
    assert body_of(BodyBudget(), [bytes(1000)], kind=Reading.OPAQUE, **limits).size == 1000


def test_decoded_pieces_count_for_what_they_take_too() -> None:
    budget = BodyBudget()
    sent = gzip.compress(b'{"model":"qwq"}', mtime=0)
    body = body_of(budget, [sent], GZIP)
    assert (budget.held_bytes, body.size) == (len(sent) + 15 + PIECE_COST_BYTES, 15)
    body.let_go()
    assert budget.held_bytes == 0
