"""One request from its first header to its end: decided once, counted once, told once.

Everything here is synchronous; `server` does the I/O.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from time import perf_counter

from . import address, answer_reading, intake, pin
from .answer_reading import AnswerReading, Result
from .answers import Figures
from .budget import BodyBudget
from .errors import Rejected
from .flight import Answered, Flight, Watcher
from .held_body import HeldBody
from .holding import Held, Lobby, Outcome
from .protocol.messages import (
    BodyMode,
    Headers,
    Mutation,
    Piece,
    RequestChunk,
    RequestEmpty,
    RequestEvent,
    RequestReady,
    RequestStarted,
    RequestTruncated,
)
from .protocol.steps import WHOLE_AT_ONCE
from .protocol.stream import ExtProcStream
from .recent import RecentDecisions
from .request import NO_PROMPT, InferenceRequest, Prompt
from .router import Decision, Router
from .trace_context import Trace
from .waiting_room import Ticket

Subset = frozenset[str] | None


class Exchange:
    """The life of one HTTP request.  `close` is called exactly once, whatever happened."""

    __slots__ = (
        "_body",
        "_clock",
        "_lobby",
        "_recent",
        "_rng",
        "_stream",
        "_watcher",
        "answer",
        "answer_reading",
        "answered_at",
        "called",
        "decided_in_s",
        "decision",
        "early",
        "fault",
        "fault_text",
        "flight",
        "headers",
        "listed",
        "model",
        "offered_at",
        "queued_s",
        "rejection",
        "router",
        "settled",
        "started_at",
        "subset",
        "ticket",
        "trace",
        "tracer",
    )

    def __init__(
        self,
        stream: ExtProcStream,
        router: Router,
        budget: BodyBudget,
        watcher: Watcher,
        lobby: Lobby[Exchange],
        recent: RecentDecisions,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.router = router
        """The config in force when the stream began; it stays this one, unless another comes while the request is
        held."""
        self.started_at = clock()
        self.headers: Headers = {}
        self.model: str | None = None
        """What the client wrote in `model`."""
        self.subset: Subset = None
        """What a subset hint of Envoy's metadata allows."""
        self.listed = False
        """It asked for the list of models, or for one of them, and we told it."""
        self.settled = False
        """The answer to the request has left: it was routed, refused, or answered by somebody else."""
        self.decision: Decision | None = None
        self.offered_at: float | None = None
        """When it was to be decided."""
        self.decided_in_s = 0.0
        self.ticket: Ticket[Held[Exchange]] | None = None
        """While the request is held."""
        self.called: Outcome | None = None
        """What came of that."""
        self.queued_s: float | None = None
        """How long it was held."""
        self.rejection: Rejected | None = None
        self.fault: str | None = None
        """`protocol_error` or `internal_error`: what ended the stream out of turn."""
        self.fault_text = ""
        """What was wrong, where Envoy is to blame."""
        self.answer: Answered | None = None
        self.answered_at = 0.0
        self.answer_reading: AnswerReading | None = None
        self.flight: Flight | None = None
        self.early = False
        """Envoy closed the stream before the answer ended: its count is an estimate."""
        self.tracer: Callable[[Headers], Trace] | None = None
        """Who decides whether the request is traced; None: nobody does that."""
        self.trace: Trace | None = None
        self._stream = stream
        self._body = HeldBody(budget, router.config.limits)
        self._watcher = watcher
        self._lobby = lobby
        self._recent = recent
        self._clock = clock
        self._rng = rng

    def handle(self, event: RequestEvent) -> Iterator[Exchange | None]:
        """Take in what the request says, and decide once it is whole.

        Yields None between slices of work on a big body, so that the caller can let others run; and itself where
        the request is held: to be resumed when it was `call`ed.  Raises Rejected.
        """
        match event:
            case RequestStarted(headers):
                self.headers = headers
                if self._answer_ourselves():
                    return
                limits = self.router.config.limits
                self._body.read(intake.reading(headers, self._stream.request_mode, limits), headers)
                if self._stream.request_mode in WHOLE_AT_ONCE:
                    self._stream.strip(pin.control_headers(headers, self.router.sticky_headers))
            case RequestChunk(data):
                yield from self._body.take(data)
            case RequestReady(headers, None):
                self.headers = headers
                if not self._answer_ourselves():
                    yield from self._route_bodiless()
            case RequestReady(_, body, last):
                yield from self._body.take(last)
                assert body is not None
                yield from self._route(body)
            case RequestTruncated():
                raise intake.cut_off()
            case RequestEmpty():
                raise intake.empty()

    def _route_bodiless(self) -> Iterator[Exchange | None]:
        model, size = None, 0
        if self._stream.request_mode is BodyMode.NONE:  # a body follows unseen
            model = intake.named_model(pin.MODEL_NAME, self.headers, self.router.config)
            size = intake.announced_bytes(self.headers)
        else:
            intake.check_bodiless(self.headers)
        yield from self._decide(model, size)
        self._stream.route(self._mutation(None))

    def _route(self, body: Sequence[Piece]) -> Iterator[Exchange | None]:
        found = yield from self._body.found()
        model = intake.model(self._body.kind, found) if found is not None else None
        prompt = (yield from self._body.prompt()) if self.router.reads_prompts else NO_PROMPT
        decision = yield from self._decide(model, self._body.size, prompt)
        new_body, reader = None, self._body.reader
        if found is not None and reader is not None:
            encoding = self.router.config.encoded_bodies
            new_body = intake.rewritten(reader, body, found, decision.target_model, self.headers, encoding)
        # In other modes Envoy drops content-length, and sends the body chunked.
        buffered = new_body is not None and self._stream.request_mode is BodyMode.BUFFERED
        length = sum(map(len, new_body or ())) if buffered else None
        plain = new_body is not None and intake.is_encoded(self.headers)
        self._stream.route(self._mutation(length, plain=plain), new_body)

    def _decide(
        self, model: str | None, body_bytes: int, prompt: Prompt = NO_PROMPT
    ) -> Generator[Exchange | None, None, Decision]:
        self.model = model
        request = InferenceRequest(self.headers, model, body_bytes, prompt, self._allowed())
        self.offered_at = self._clock()
        begun = perf_counter()
        offered = self._offer(request)
        self.decided_in_s = perf_counter() - begun
        if isinstance(offered, Decision):
            self._count(offered)
            return offered
        self.ticket = offered
        yield self
        if isinstance(self.called, Rejected):
            raise self.called
        assert self.called is not None
        return self.called

    def _offer(self, request: InferenceRequest) -> Decision | Ticket[Held[Exchange]]:
        return self._lobby.offer(self.router, request, self, self._clock(), self._rng)

    def _allowed(self) -> Subset:
        """By a subset hint and, where it is trusted, the header of conformance tests."""
        selection = address.hints(self.headers.get(pin.SELECTION) or None)
        trusted = self.router.config.trusted_headers
        if selection is None or pin.SELECTION not in map(str.lower, trusted):
            return self.subset
        return address.common(self.subset, selection)

    def _count(self, decision: Decision) -> None:
        now = self._clock()
        self.decision = decision
        self._recent.add(decision, self.headers, now)
        self.flight = Flight(decision.pool, decision.endpoint, self._watcher, decision.work, now)

    def call(self, outcome: Outcome) -> None:
        """The request was held, and this came of it; a decision is counted at once."""
        assert self.ticket is not None
        self.called = outcome
        self.router = self.ticket.content.router
        if isinstance(outcome, Decision):
            self._count(outcome)

    def _mutation(self, content_length: int | None, *, plain: bool = False) -> Mutation:
        assert self.decision is not None
        responses, sticky = self.router.config.responses, self.router.sticky_headers
        also = {
            "plain": plain,
            "plain_answer": answer_reading.restoring(self.decision, responses) is not None,
        }
        return pin.mutation(self.decision, self.headers, sticky, content_length, self.begin_trace(), **also)

    def begin_trace(self) -> Trace | None:
        """What the request is traced as, drawn when it is asked for first; None where nobody traces."""
        if self.trace is None and self.tracer is not None:
            self.trace = self.tracer(self.headers)
        return self.trace

    def _answer_ourselves(self) -> bool:
        """GET /v1/models and /v1/models/NAME need no endpoint."""
        name = intake.model_list(self.headers, self.router.config)
        if name is None:
            return False
        listing = intake.list_models(self.router, name)
        self.listed = True
        self._stream.respond(200, (("content-type", "application/json"),), listing, "extproc_models")
        return True

    def reject(self, rejection: Rejected) -> None:
        """Refuse the request; nothing more is read of it."""
        # The frames of its traceback hold the body, in a cycle that only the garbage collector would break.
        rejection.__traceback__ = rejection.__context__ = None
        self.rejection = rejection
        self._body.let_go()  # where it is only observed, its answer may take an hour
        reason = rejection.reason
        self._stream.respond(reason.status, rejection.headers(), rejection.body(), f"extproc_{reason.code}")

    @property
    def undecided(self) -> bool:
        """Nobody has answered for the request yet."""
        return self.decision is None and self.answer is None and not self._stream.closed

    def sent(self) -> None:
        """The replies to what Envoy sent so far have left."""
        self.settled = not self.undecided
        if self.decision is not None:
            self._body.let_go()

    def answered(self, answer: Answered) -> None:
        """Response headers came, of an endpoint or of Envoy itself.  Raises Rejected."""
        if self._stream.overridden and self.undecided and intake.went_on(answer.status):
            raise intake.unsupported_override()
        self.answer, self.answered_at = answer, self._clock()
        if self.flight is None:
            return
        if answer.not_theirs and answer.is_by_endpoint:
            self._stream.strip_response(answer.not_theirs)
        self.flight.answered(answer, self.answered_at)
        assert self.decision is not None
        responses = self.router.config.responses
        self.answer_reading = answer_reading.begin(
            self._stream, self.decision, answer, responses, self._rng, self.started_at
        )

    def answer_chunk(self, data: Piece, last: bool) -> Iterator[None]:
        """A piece of an answer that is read; nothing comes after the *last* but trailers.  Yields as `handle` does."""
        if self.flight is not None:
            self.flight.body_seen()
        if self.answer_reading is not None:
            yield from self.answer_reading.take(data, last, self._clock())

    def body_ended(self) -> None:
        """The last byte of the answer, or its trailers, passed through here."""
        if self.answer_reading is not None:
            self.answer_reading.end(self._clock())
        if self.flight is not None:
            self.flight.body_seen()

    def close(self) -> float:
        """The stream ended, however it did; the seconds it lived."""
        now = self._clock()
        self._body.let_go()
        if self.answer_reading is not None:
            self.answer_reading.close(now)
        if self.flight is not None:
            self.early = self.flight.end(now)
        return now - self.started_at

    @property
    def answer_figures(self) -> Figures | None:
        """What the answer said of itself, once it has ended; None: nothing was read."""
        return self.answer_reading.figures if self.answer_reading is not None else None

    @property
    def read_result(self) -> Result | None:
        """What came of reading the answer; None: it was not to be read."""
        return self.answer_reading.result if self.answer_reading is not None else None

    @property
    def ttft_s(self) -> float | None:
        """From the request's headers to the answer's first token, in seconds."""
        return self.answer_reading.ttft_s if self.answer_reading is not None else None

    @property
    def is_observed(self) -> bool:
        """Observability mode: what is decided here, nobody carries out."""
        return False

    @property
    def outcome(self) -> str:
        """How it ended: a label from the closed set of CONTRACT section 6."""
        if self.rejection is not None:
            return self.rejection.reason.code
        if self.fault is not None:
            return self.fault
        if self._stream.finished:  # answered by us, or an upgrade that we let go
            return "completed"
        if self.answer is None:
            return "aborted"
        return "upstream_error" if self.answer.status >= 500 and self.decision is not None else "completed"
