"""Requests that Envoy only tells of (observability mode): what we would have done with them.

Nothing of it is carried out, so that nothing is counted as in flight.  Who serves such a request is known when it is
answered, and its end some seconds late: the next scrape sees it sooner, as it sees all that others send.  What an
endpoint computed for it is learnt: without that, the decisions would not be those of a router that knows its caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from . import intake, pin
from .errors import Rejected
from .exchange import Exchange
from .flight import Answered
from .protocol.messages import NO_MUTATION, Mutation, RequestChunk, RequestEvent, RequestReady, RequestStarted
from .request import InferenceRequest
from .router import Decision


class ObservedExchange(Exchange):
    """Decided at once, with room or without: it takes no place in a queue from a request that is ours."""

    _by_headers: Decision | Rejected | None = None
    """What we would do without the body, until some of it comes: in observability mode Envoy does not tell whether
    it will send any."""

    def handle(self, event: RequestEvent) -> Iterator[Exchange | None]:
        """As `Exchange.handle`; never yields itself."""
        match event:
            case RequestStarted():
                yield from super().handle(event)
                self._decide_by_headers()
                return
            case RequestChunk() | RequestReady():
                self._by_headers = None
        yield from super().handle(event)

    def _decide_by_headers(self) -> None:
        begun = perf_counter()
        try:
            model = intake.named_model(pin.MODEL_NAME, self.headers, self.router.config)
            request = InferenceRequest(self.headers, model, subset=self._allowed())
            self._by_headers = self._offer(request)
        except Rejected as rejection:
            rejection.__traceback__ = rejection.__context__ = None  # they would hold each other
            self._by_headers = rejection
        self.decided_in_s = perf_counter() - begun

    def _offer(self, request: InferenceRequest) -> Decision:
        return self.router.decide(request, self._clock(), self._rng)

    def _count(self, decision: Decision) -> None:
        self.decision = decision
        self._recent.add(decision, self.headers, self._clock())

    def _mutation(self, *_: object, **__: object) -> Mutation:
        return NO_MUTATION

    def answered(self, answer: Answered) -> None:
        """Response headers came, of whom somebody else chose, or of Envoy itself."""
        super().answered(answer)
        decision = self.decision or self._by_headers
        if not isinstance(decision, Decision):
            return
        pool, work = decision.pool, decision.work
        served = pool.by_address.get(answer.served or "")
        if served is not None and answer.status < 400:
            pool.moved(work, served)
            pool.computes(work, served, self.answered_at)
        work.prefix = ()  # some kilobytes, and the answer may take an hour

    def close(self) -> float:
        """The stream ended; what no body came for was decided by its headers."""
        match self._by_headers:
            case Decision() as decision:
                self.model = decision.model
                self._count(decision)
            case Rejected() as rejection:
                self.rejection = rejection
        return super().close()

    @property
    def is_observed(self) -> bool:
        return True

    @property
    def outcome(self) -> str:
        return self.fault or "observed"
