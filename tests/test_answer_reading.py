"""A big piece of an answer is read in slices, between which others get their turn."""

from __future__ import annotations

import pytest
from answer_talk import DONE, ONE, TWO, USAGE, renamed

from extproc.answer_reading import SLICE_BYTES, AnswerReading
from extproc.answers import AnswerReader, Restoring, Shape
from extproc.protocol.messages import BodyMode, BodyReply, Phase, ResponseBody, ResponseHeaders
from extproc.protocol.stream import ExtProcStream

NAMES = Restoring("qwq-32b", "qwq")
OTHERS = b": nobody is named here\n\n" * (SLICE_BYTES // 8)


def taken(body: bytes, mode: BodyMode, names: Restoring | None) -> tuple[int, AnswerReading, list[BodyReply]]:
    """Turns given to others, and what goes back, where *body* comes in one piece."""
    stream = ExtProcStream(BodyMode.BUFFERED, mode)
    stream.receive(ResponseHeaders({":status": "200"}))
    stream.read_answer()
    list(stream.replies())
    reading = AnswerReading(stream, AnswerReader(Shape.EVENTS, names), 0.0, "cut")
    stream.receive(ResponseBody(memoryview(body), True))
    turns = sum(1 for _ in reading.take(memoryview(body), True, 1.0))
    reading.close(1.0)
    replies = [reply for reply in stream.replies() if isinstance(reply, BodyReply)]
    assert all(reply.phase is Phase.RESPONSE for reply in replies)
    return turns, reading, replies


def body_of(replies: list[BodyReply]) -> bytes:
    pieces = [piece for reply in replies for piece in (reply.replace or (reply.streamed or b"",))]
    return b"".join(map(bytes, pieces))


@pytest.mark.parametrize(("size", "turns"), [(SLICE_BYTES, 0), (SLICE_BYTES + 1, 2), (10 * SLICE_BYTES, 10)])
def test_others_get_a_turn_after_each_slice_of_a_big_piece(size: int, turns: int) -> None:
    body = (ONE + DONE).rjust(size, b"\n")
    given, reading, replies = taken(body, BodyMode.STREAMED, None)
    assert given == turns
    assert reading.result == "no_usage"
    assert replies[0].replace is None


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED])
@pytest.mark.parametrize("shift", range(0, len(ONE), 7))
def test_names_are_put_back_wherever_the_slices_cut(mode: BodyMode, shift: int) -> None:
    body = (
        ONE.rjust(SLICE_BYTES - 60 + shift, b"\n") + OTHERS + ONE * 400 + OTHERS + TWO + USAGE + OTHERS
    ) + DONE
    _, reading, replies = taken(body, mode, NAMES)
    assert body_of(replies) == renamed(body)
    assert reading.result == "ok"
    assert reading.figures is not None
    assert reading.figures.content_events == 402


def test_in_full_duplex_what_does_not_change_goes_on_in_pieces_as_large_as_may_be() -> None:
    body = ONE + OTHERS * 10
    _, _, replies = taken(body, BodyMode.FULL_DUPLEX_STREAMED, NAMES)
    assert body_of(replies) == renamed(body)
    assert len(replies) < 10
    assert [reply.end_of_stream for reply in replies] == [False] * (len(replies) - 1) + [True]
