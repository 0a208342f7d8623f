"""Spans of requests: one for the whole, from request headers to the end, with what was done in between below it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from .. import trace_context
from ..exchange import Exchange
from ..trace_context import Parent, Trace
from . import span_attributes

REQUEST, DECIDE, QUEUE = "extproc.request", "extproc.decide", "extproc.queue"
MAX_STATE = 4096
"""Characters of a `tracestate` that are repeated in a span; the W3C asks for 512."""
NS = 1_000_000_000

_ROOT = Context()
_SAMPLED, _UNSAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


def sampler(name: str, ratio: float) -> Sampler:
    """The SDK's, by its name in OTEL_TRACES_SAMPLER."""
    root: Sampler = TraceIdRatioBased(ratio)
    if name.endswith("always_on"):
        root = ALWAYS_ON
    elif name.endswith("always_off"):
        root = ALWAYS_OFF
    return ParentBased(root) if name.startswith("parentbased") else root


class RequestSpans:
    """Draws ids and decides who is traced when a request comes; makes its spans when it ended."""

    def __init__(
        self,
        sampler: Sampler,
        resource: Resource,
        scope: InstrumentationScope,
        put: Callable[[ReadableSpan], None],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._sampler = sampler
        self._resource = resource
        self._scope = scope
        self._put = put
        self._clock = clock
        self._rng = rng

    def begin(self, headers: Mapping[str, str], carrier: Mapping[str, str]) -> Trace:
        """The trace of a request with *headers*; *carrier* is what Envoy says of its own span, if it traces."""
        client = trace_context.parse(headers.get(trace_context.TRACEPARENT))
        envoy = trace_context.parse(carrier.get(trace_context.TRACEPARENT))
        parent, source = (envoy, carrier) if envoy else (client, headers)
        trace_id = parent.trace_id if parent else self._draw(128)
        if not self._samples(parent, trace_id):
            return Trace(trace_id, 0, parent, False)
        span_id = self._draw(64)
        state = source.get(trace_context.TRACESTATE, "") if parent else ""
        header = trace_context.header(trace_id, span_id) if client is None else None
        return Trace(trace_id, span_id, parent, True, header, state if len(state) <= MAX_STATE else "")

    def _draw(self, bits: int) -> int:
        return self._rng.getrandbits(bits) or 1

    def _samples(self, parent: Parent | None, trace_id: int) -> bool:
        context = _ROOT
        if parent is not None:
            flags = _SAMPLED if parent.sampled else _UNSAMPLED
            remote = SpanContext(trace_id, parent.span_id, True, flags)
            context = set_span_in_context(NonRecordingSpan(remote), _ROOT)
        result = self._sampler.should_sample(context, trace_id, REQUEST)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def ended(self, exchange: Exchange, lived_s: float) -> None:
        """Tell of *exchange*, which was just closed after *lived_s* seconds, if it is traced."""
        trace = exchange.begin_trace()
        if trace is not None and trace.sampled:
            _Maker(self, trace, time.time_ns() - int(self._clock() * NS)).make(exchange, lived_s)

    def tell(self, name: str, context: SpanContext, parent: SpanContext | None, **what: Any) -> None:
        self._put(
            ReadableSpan(
                name,
                context,
                parent,
                resource=self._resource,
                instrumentation_scope=self._scope,
                **what,
            )
        )

    def child_of(self, context: SpanContext) -> SpanContext:
        return SpanContext(context.trace_id, self._draw(64), False, _SAMPLED, context.trace_state)


class _Maker:
    """The spans of one request; *epoch_ns* is when the clock was 0."""

    def __init__(self, spans: RequestSpans, trace: Trace, epoch_ns: int) -> None:
        self._spans = spans
        self._epoch_ns = epoch_ns
        state = TraceState.from_header([trace.state]) if trace.state else TraceState()
        self._context = SpanContext(trace.trace_id, trace.span_id, False, _SAMPLED, state)
        self._parent: SpanContext | None = None
        if trace.parent is not None:
            flags = _SAMPLED if trace.parent.sampled else _UNSAMPLED
            self._parent = SpanContext(trace.trace_id, trace.parent.span_id, True, flags, state)

    def make(self, exchange: Exchange, lived_s: float) -> None:
        error = span_attributes.error_type(exchange)
        self._spans.tell(
            REQUEST,
            self._context,
            self._parent,
            kind=SpanKind.SERVER,
            attributes=span_attributes.of(exchange),
            events=self._events(exchange),
            status=Status(StatusCode.ERROR, error) if error else Status(),
            **self._times(exchange.started_at, _end(exchange, lived_s)),
        )
        if exchange.offered_at is None or (exchange.decision is None and exchange.queued_s is None):
            return
        decided_at = exchange.offered_at + exchange.decided_in_s
        decision = exchange.decision
        attributes = span_attributes.of_decision(decision) if decision is not None else {}
        self._child(DECIDE, exchange.offered_at, decided_at, attributes)
        if exchange.queued_s is not None:
            result = exchange.rejection.reason.code if exchange.rejection is not None else None
            attributes = {"extproc.queue.result": result or ("dispatched" if decision else "gone")}
            self._child(QUEUE, decided_at, decided_at + exchange.queued_s, attributes)

    def _child(self, name: str, begun: float, ended: float, attributes: dict[str, Any]) -> None:
        context = self._spans.child_of(self._context)
        times = self._times(begun, ended)
        self._spans.tell(name, context, self._context, attributes=attributes, **times)

    def _times(self, begun: float, ended: float) -> dict[str, int]:
        return {"start_time": self._ns(begun), "end_time": self._ns(ended)}

    def _events(self, exchange: Exchange) -> list[Event]:
        found = []
        if exchange.answer is not None:
            status = {"http.response.status_code": exchange.answer.status}
            found.append(Event("response headers", status, self._ns(exchange.answered_at)))
        figures = exchange.answer_figures
        if figures is not None and figures.first_token_at is not None:
            found.append(Event("first token", {}, self._ns(figures.first_token_at)))
        return found

    def _ns(self, at: float) -> int:
        return self._epoch_ns + int(at * NS)


def _end(exchange: Exchange, lived_s: float) -> float:
    """Envoy closes the streams of what it only tells of some seconds late."""
    if exchange.is_observed and exchange.answer is not None:
        return exchange.answered_at
    return exchange.started_at + lived_s
