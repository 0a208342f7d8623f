"""One request from its first header to its end: decided once, counted once, told once.

Everything here is synchronous; `server` does the I/O.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from time import perf_counter

from . import address, intake, pin
from .body import Reader
from .budget import BodyBudget
from .errors import Rejected
from .flight import Answered, Flight, Watcher
from .holding import Held, Lobby, Outcome
from .intake import Reading
from .jsonscan import ModelFound
from .load_report import REPORT_HEADER
from .prompt import read_prompt
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
from .protocol.stream import WHOLE_AT_ONCE, ExtProcStream
from .recent import RecentDecisions
from .request import NO_PROMPT, InferenceRequest, Prompt
from .router import Decision, Router
from .waiting_room import Ticket

Subset = frozenset[str] | None


class Exchange:
    """The life of one HTTP request.  `close` is called exactly once, whatever happened."""

    __slots__ = (
        "_budget",
        "_clock",
        "_held_bytes",
        "_lobby",
        "_reader",
        "_reading",
        "_recent",
        "_rng",
        "_size",
        "_stream",
        "_watcher",
        "answer",
        "answered_at",
        "called",
        "decided_in_s",
        "decision",
        "early",
        "fault",
        "fault_text",
        "flight",
        "headers",
        "model",
        "queued_s",
        "rejection",
        "router",
        "settled",
        "started_at",
        "subset",
        "ticket",
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
        self.settled = False
        """The answer to the request has left: it was routed, refused, or answered by somebody else."""
        self.decision: Decision | None = None
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
        self.flight: Flight | None = None
        self.early = False
        """Envoy closed the stream before the answer ended: its count is an estimate."""
        self._stream = stream
        self._budget = budget
        self._watcher = watcher
        self._lobby = lobby
        self._recent = recent
        self._clock = clock
        self._rng = rng
        self._reading = Reading.OPAQUE
        self._reader: Reader | None = None
        self._size = 0
        self._held_bytes = 0

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
                self._reading = intake.reading(headers, self._stream.request_mode, self.router.config.limits)
                with intake.body_faults:
                    self._reader = intake.reader(self._reading, headers, self._hold)
                if self._stream.request_mode in WHOLE_AT_ONCE:
                    self._stream.strip(pin.control_headers(headers, self.router.sticky_headers))
            case RequestChunk(data):
                yield from self._take(data)
            case RequestReady(headers, None):
                self.headers = headers
                if not self._answer_ourselves():
                    yield from self._route_bodiless()
            case RequestReady(_, body, last):
                yield from self._take(last)
                assert body is not None
                yield from self._route(body)
            case RequestTruncated():
                raise intake.cut_off()
            case RequestEmpty():
                raise intake.empty()

    def _take(self, data: Piece) -> Iterator[None]:
        self._size += len(data)
        self._hold(len(data), self._size)
        if self._reader is not None:
            with intake.body_faults:
                yield from self._reader.feed(data)

    def _hold(self, more: int, size: int) -> None:
        """Count *more* bytes of a body that has *size* with them; raises Rejected where that is too much."""
        limits = self.router.config.limits
        if size > limits.max_body_bytes:
            raise intake.too_large(limits)
        self._budget.take(more, limits.max_buffered_bytes)
        self._held_bytes += more

    def _route_bodiless(self) -> Iterator[Exchange | None]:
        model = None
        if self._stream.request_mode is BodyMode.NONE:  # a body follows unseen
            model = intake.named_model(pin.MODEL_NAME, self.headers, self.router.config)
            self._size = intake.announced_bytes(self.headers)
        else:
            intake.check_bodiless(self.headers)
        yield from self._decide(model)
        self._stream.route(self._mutation(None))

    def _route(self, body: Sequence[Piece]) -> Iterator[Exchange | None]:
        found = yield from self._found()
        model = intake.model(self._reading, found) if found is not None else None
        decision = yield from self._decide(model, (yield from self._prompt()))
        new_body = None
        if found is not None and self._reader is not None:
            encoding = self.router.config.encoded_bodies
            target = decision.target_model
            new_body = intake.rewritten(self._reader, body, found, target, self.headers, encoding)
        # In other modes Envoy drops content-length, and sends the body chunked.
        buffered = new_body is not None and self._stream.request_mode is BodyMode.BUFFERED
        length = sum(map(len, new_body or ())) if buffered else None
        plain = new_body is not None and intake.is_encoded(self.headers)
        self._stream.route(self._mutation(length, plain=plain), new_body)

    def _found(self) -> Generator[None, None, ModelFound | None]:
        if self._reader is None:
            return None
        with intake.body_faults:
            return (yield from self._reader.finish())

    def _prompt(self) -> Generator[None, None, Prompt]:
        json = self._reader.json if self._reader is not None else None
        if json is None or not self.router.reads_prompts:
            return NO_PROMPT
        return (yield from read_prompt(json))

    def _decide(
        self, model: str | None, prompt: Prompt = NO_PROMPT
    ) -> Generator[Exchange | None, None, Decision]:
        self.model = model
        request = InferenceRequest(self.headers, model, self._body_bytes, prompt, self._allowed())
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

    @property
    def _body_bytes(self) -> int:
        """Of the body, decoded."""
        return self._size if self._reader is None else self._reader.size

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
        sticky = self.router.sticky_headers
        return pin.mutation(self.decision, self.headers, sticky, content_length, plain=plain)

    def _answer_ourselves(self) -> bool:
        """GET /v1/models and /v1/models/NAME need no endpoint."""
        name = intake.model_list(self.headers, self.router.config)
        if name is None:
            return False
        listing = intake.list_models(self.router, name)
        self._stream.respond(200, (("content-type", "application/json"),), listing, "extproc_models")
        return True

    def reject(self, rejection: Rejected) -> None:
        """Refuse the request; nothing more is read of it."""
        # The frames of its traceback hold the body, in a cycle that only the garbage collector would break.
        rejection.__traceback__ = rejection.__context__ = None
        self.rejection = rejection
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
            self._let_go()

    def answered(self, answer: Answered) -> None:
        """Response headers came, of an endpoint or of Envoy itself.  Raises Rejected."""
        if self._stream.overridden and self.undecided and intake.went_on(answer.status):
            raise intake.unsupported_override()
        self.answer, self.answered_at = answer, self._clock()
        if self.flight is None:
            return
        if answer.load_report is not None and self.flight.pool.load_reports:
            # how busy our servers are is nobody else's business
            self._stream.strip_response((REPORT_HEADER,))
        self.flight.answered(answer, self.answered_at)

    def body_ended(self) -> None:
        """The last byte of the answer passed through here."""
        if self.flight is not None:
            self.flight.body_ended()

    def close(self) -> float:
        """The stream ended, however it did; the seconds it lived."""
        now = self._clock()
        self._let_go()
        if self.flight is not None:
            self.early = self.flight.end(now)
        return now - self.started_at

    def _let_go(self) -> None:
        """Of the body: the answer to it may take an hour."""
        self._reader = None
        self._budget.give_back(self._held_bytes)
        self._held_bytes = 0

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
