"""What is read of one answer while it passes, from its headers to its end.  Opt-in: the config's `responses:`."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from typing import Literal

from msgspec.structs import replace

from . import pin
from .answers import AnswerReader, Figures, Restoring, Usage, shape
from .config.responses import ResponsesConfig
from .flight import Answered
from .protocol.messages import BodyMode, Piece
from .protocol.steps import WHOLE_AT_ONCE
from .protocol.stream import ExtProcStream
from .router import Decision

Result = Literal["ok", "no_usage", "cut", "unreadable", "encoded", "not_sent"]

SLICE_BYTES = 8 * 1024
"""Read between two turns of the event loop: 0.1 ms of an embedding, 3.6 ms of the worst text known."""
EVENTS_BETWEEN = 32
"""Events with content before Envoy is told again what the answer cost so far, as it told itself or by an estimate: so
many tokens a client may take unpaid by leaving, and to tell costs 10 µs."""
NO_BODY = frozenset((204, 205, 206))
"""No content, or a part of it that says nothing alone."""


def restoring(decision: Decision, responses: ResponsesConfig | None) -> Restoring | None:
    """Which name is to be put back into the answer; None: none."""
    if responses is None or not responses.restore_model:
        return None
    target, model = decision.target_model, decision.model
    if target is None or model is None or target == model:
        return None
    return Restoring(target, model)


def begin(
    stream: ExtProcStream,
    decision: Decision,
    answer: Answered,
    responses: ResponsesConfig | None,
    rng: random.Random,
    started_at: float,
) -> AnswerReading | None:
    """Read the answer that *answer* says is coming, where it is one of ours to read; else nothing is changed.

    Right after the stream's `ResponseStarted`; *started_at*: when the request came, in seconds.
    """
    if responses is None or stream.upgrade or answer.ended:
        return None
    if not 200 <= answer.status < 300 or answer.status in NO_BODY:
        return None
    form, mode = shape(answer.content_type), stream.response_mode
    if form is None or mode is BodyMode.GRPC:
        return None
    restore = restoring(decision, responses)
    if restore is None and responses.percent < 100 and rng.random() * 100 >= responses.percent:
        return None
    if answer.content_encoding.strip().lower() not in ("", "identity"):
        return AnswerReading(stream, None, started_at, "encoded")
    if restore is not None:
        stream.strip_response(("content-length",))  # it would be wrong, which Envoy may answer with a 503
    unseen: Result = "cut"
    if mode is BodyMode.NONE:
        unseen = "not_sent"
        stream.ask_for_answer()
    else:
        stream.read_answer()
    reader, prompt_tokens = AnswerReader(form, restore), decision.work.prompt_tokens
    return AnswerReading(stream, reader, started_at, unseen, answer.content_length, prompt_tokens)


class AnswerReading:
    """`take` each piece, `end` where trailers end it, `close` once, at last."""

    __slots__ = (
        "_came",
        "_finished",
        "_left",
        "_prompt_tokens",
        "_reader",
        "_started_at",
        "_stream",
        "_tell_at",
        "_told",
        "figures",
        "result",
    )

    def __init__(
        self,
        stream: ExtProcStream,
        reader: AnswerReader | None,
        started_at: float,
        unseen: Result,
        length: int | None = None,
        prompt_tokens: int = 0,
    ) -> None:
        """*reader*: None for an answer that goes by unread; *unseen*: what comes of it where nothing is read;
        *length*: of its body in bytes, where its headers tell; *prompt_tokens*: an estimate."""
        self._stream = stream
        self._reader = reader
        self._started_at = started_at
        self._left = length
        self._prompt_tokens = prompt_tokens
        self._came = False
        self._finished = False
        self._told: tuple[bool, str | None, bool] = (False, None, False)
        """Whether there is usage, finish reason, and whether that was all."""
        self._tell_at = 1
        """Events with content."""
        self.figures: Figures | None = None
        """What was read, once it has ended."""
        self.result = unseen
        """What came of it, then."""

    def take(self, data: Piece, last: bool, now: float) -> Iterator[None]:
        """A piece of the body; nothing comes after the *last* but trailers.  Gives way between slices of a big one."""
        if self._reader is None or self._finished:
            return
        self._came = True
        last = last or self._is_all(data)
        pieces = yield from _feed(self._reader, data, now)
        if last:
            held = self._finish(now)
            if held:
                pieces = [*(pieces or ()), *held]  # where something is held, *data* does not go on as it came
        if pieces is not None:
            self._stream.go_on_with(pieces)
        self._tell(self._reader, last=last)

    def _is_all(self, data: Piece) -> bool:
        """Whether *data* completes the length told: clients that go by it leave before Envoy tells of the end."""
        if self._left is None:
            return False
        self._left -= len(data)
        return self._left <= 0

    def end(self, now: float) -> None:
        """The answer ended with trailers."""
        if self._reader is None or self._finished:
            return
        held = self._finish(now)
        if held:
            self._stream.go_on_with(held)
        self._tell(self._reader, last=True)

    def close(self, now: float) -> None:
        """The stream ended, however it did."""
        if self._reader is None or not self._came:
            return
        self._finish(now)
        self.figures = self._known(self._reader.figures)
        self.result = _result(self.figures)
        self._reader = None

    def give_up(self) -> None:
        """Read no more: what comes goes on as it is."""
        self._reader, self.result = None, "unreadable"

    @property
    def restores(self) -> bool:
        """The client's name of the model is put back: some of the body may be held back for that."""
        return self._reader is not None and self._reader.restores

    @property
    def ttft_s(self) -> float | None:
        """From the request's headers to the first token; None: no token was seen to come."""
        return self._ttft_s(self.figures) if self.figures is not None else None

    def _ttft_s(self, figures: Figures) -> float | None:
        first = figures.first_token_at
        return None if first is None else first - self._started_at

    def _known(self, figures: Figures) -> Figures:
        """*figures*; of an answer that came in one piece the times say when it was complete, not when it began."""
        if self._stream.response_mode in WHOLE_AT_ONCE:
            return replace(figures, first_token_at=None, last_token_at=None)
        return figures

    def _finish(self, now: float) -> Sequence[Piece]:
        if self._finished or self._reader is None:
            return ()
        self._finished = True
        return self._reader.finish(now)

    def _tell(self, reader: AnswerReader, *, last: bool) -> None:
        """Envoy, while it still listens: its access log, and rate limits that count tokens.

        Clients leave at the event that says it is the last, or before: to pay less, perhaps.
        """
        figures = reader.figures
        told = (figures.usage is not None, figures.finish_reason, figures.complete)
        due = figures.content_events >= (1 if last else self._tell_at)
        if told == self._told and (figures.complete or not due):
            return
        self._told = told
        self._tell_at = figures.content_events + EVENTS_BETWEEN
        figures = self._known(figures)
        facts = facts_of(figures, self._ttft_s(figures)) | self._total(figures)
        if facts:
            self._stream.tell({pin.NAMESPACE: facts})

    def _total(self, figures: Figures) -> dict[str, int]:
        """One figure for rate limits, which take one: an estimate until a stream tells, and where it never does."""
        usage, untold = figures.usage, figures.untold_events
        if usage is not None:
            return {"total_tokens": (usage.prompt_tokens or 0) + (usage.completion_tokens or 0) + untold}
        return {"total_tokens": self._prompt_tokens + untold} if untold else {}


def _feed(reader: AnswerReader, data: Piece, now: float) -> Generator[None, None, Sequence[Piece] | None]:
    """What goes on instead of *data*; None: as it came."""
    if len(data) <= SLICE_BYTES:
        return reader.feed(data, now)
    view, pieces, changed_to = memoryview(data), list[Piece](), 0
    for start in range(0, len(data), SLICE_BYTES):
        end = start + SLICE_BYTES
        new = reader.feed(view[start:end], now)
        if new is not None:
            pieces += [view[changed_to:start], *new]
            changed_to = end
        yield
    if not changed_to:
        return None
    return [piece for piece in (*pieces, view[changed_to:]) if piece]


def _result(figures: Figures) -> Result:
    if not figures.readable:
        return "unreadable"
    if not figures.complete:
        return "cut"
    return "no_usage" if figures.usage is None else "ok"


def facts_of(figures: Figures, ttft_s: float | None) -> dict[str, str | int | float]:
    """What is known of an answer, for logs; times in ms."""
    usage = figures.usage or Usage()
    facts = {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "finish_reason": figures.finish_reason,
        "ttft_ms": _ms(ttft_s),
        "time_per_token_ms": _ms(figures.time_per_token_s),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
