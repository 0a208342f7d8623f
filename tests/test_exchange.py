"""One request's life without a server: how it ends, and what it leaves in memory while its answer is on its way."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from fleets import NOW, fleet
from stream_talk import BUFFERED, DUPLEX, NONE, OK, H

from extproc.budget import BodyBudget
from extproc.errors import Reason, Rejected
from extproc.exchange import Exchange
from extproc.flight import Answered, Watcher
from extproc.holding import Lobby
from extproc.observing import ObservedExchange
from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    Headers,
    HeadersReply,
    Message,
    Mutation,
    RequestBody,
    RequestChunk,
    RequestHeaders,
    RequestReady,
    RequestStarted,
    ResponseHeaders,
)
from extproc.protocol.observed import ObservedStream
from extproc.protocol.steps import Half
from extproc.protocol.stream import ExtProcStream
from extproc.recent import RecentDecisions
from extproc.request import InferenceRequest

A, B = "10.0.0.1:8000", "10.0.0.2:8000"
CONFIG = f"""
pools: [{{name: p, endpoints: ['{A}']}}]
models: [{{name: m, pool: p, targets: [{{model: t}}]}}, {{name: same, pool: p}}]
"""
LISTED_ONLY = CONFIG + "default_pool: null\n"
PROMPT = b'{"model":"m","prompt":"' + b"word " * 1000 + b'"}'
SAME = b'{"model":"same"}'
UNKNOWN = PROMPT.replace(b'"m"', b'"x"')


@pytest.fixture
def _nobody_collects_garbage() -> Iterator[None]:
    """What is in a cycle stays then."""
    gc.disable()
    yield
    gc.enable()


def begun(
    stream: ExtProcStream,
    kind: type[Exchange] = Exchange,
    config: str = LISTED_ONLY,
    lobby: Lobby[Exchange] | None = None,
) -> Exchange:
    of = fleet(config)
    assert of.router is not None
    watcher = Watcher(lambda *_: None, lambda *_: None)
    return kind(
        stream,
        of.router,
        BodyBudget(),
        watcher,
        Lobby() if lobby is None else lobby,
        RecentDecisions(),
        lambda: NOW,
        random.Random(1),
    )


def tell(exchange: Exchange, stream: ExtProcStream, message: Message) -> Reason | None:
    """Envoy sends *message*, and gets its replies; why the request was refused."""
    event = stream.receive(message)
    try:
        if isinstance(event, RequestStarted | RequestChunk | RequestReady):
            for _ in exchange.handle(event):
                pass
    except Rejected as rejection:
        exchange.reject(rejection)
    list(stream.replies())
    exchange.sent()
    return exchange.rejection.reason if exchange.rejection else None


def piece(data: bytes) -> tuple[RequestBody, weakref.ref[memoryview]]:
    """A body, and what tells whether anybody has it."""
    window = memoryview(data)
    return RequestBody(window, True), weakref.ref(window)


@pytest.mark.usefixtures("_nobody_collects_garbage")
@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize(
    ("body", "refused"),
    [(PROMPT, None), (UNKNOWN, Reason.MODEL_NOT_FOUND), (b"{", Reason.INVALID_JSON)],
    ids=["routed", "unknown model", "no JSON"],
)
def test_nobody_has_the_body_once_the_request_was_answered_for(
    mode: BodyMode, body: bytes, refused: Reason | None
) -> None:
    stream = ExtProcStream(mode, NONE)
    exchange = begun(stream)
    tell(exchange, stream, RequestHeaders(H))
    message, kept = piece(body)
    assert tell(exchange, stream, message) is refused
    del message
    assert kept() is None
    exchange.close()


@pytest.mark.usefixtures("_nobody_collects_garbage")
@pytest.mark.parametrize(
    ("body", "refused"),
    [(PROMPT, None), (SAME, None), (UNKNOWN, Reason.MODEL_NOT_FOUND)],
    ids=["changed", "same", "unknown"],
)
def test_nobody_has_the_body_of_an_observed_request_that_was_decided(
    body: bytes, refused: Reason | None
) -> None:
    stream = ObservedStream()
    exchange = begun(stream, ObservedExchange)
    tell(exchange, stream, RequestHeaders(H))
    message, kept = piece(body)
    assert tell(exchange, stream, message) is refused
    assert stream.request is Half.DONE
    del message
    assert kept() is None
    exchange.close()


@pytest.mark.parametrize("served", [A, "10.0.0.9:1", None])
@pytest.mark.parametrize("kind", [Exchange, ObservedExchange])
def test_nothing_of_the_prompt_is_kept_once_its_answer_began(
    kind: type[Exchange], served: str | None
) -> None:
    stream = ObservedStream() if kind is ObservedExchange else ExtProcStream(BUFFERED, NONE)
    exchange = begun(stream, kind)
    tell(exchange, stream, RequestHeaders(H))
    tell(exchange, stream, piece(PROMPT)[0])
    assert exchange.decision is not None
    assert exchange.decision.work.prefix != ()
    stream.receive(ResponseHeaders(OK))
    exchange.answered(Answered(200, served))
    assert exchange.decision.work.prefix == ()
    exchange.close()


@pytest.mark.usefixtures("_nobody_collects_garbage")
@pytest.mark.parametrize("kind", [Exchange, ObservedExchange])
@pytest.mark.parametrize("body", [b"", PROMPT, UNKNOWN, b"{"], ids=["none", "prompt", "unknown", "no JSON"])
def test_an_exchange_is_gone_when_nobody_has_it(kind: type[Exchange], body: bytes) -> None:
    stream = ObservedStream() if kind is ObservedExchange else ExtProcStream(BUFFERED, NONE)
    exchange = begun(stream, kind)
    kept = weakref.ref(stream)
    tell(exchange, stream, RequestHeaders(H))
    if body:
        tell(exchange, stream, RequestBody(body, True))
    exchange.close()
    del stream, exchange
    assert kept() is None


# -- how it ends --------------------------------------------------------------------------------------------

TWO = f"pools: [{{name: p, endpoints: ['{A}', '{B}']}}]\n"
SELECTION = "test-epp-endpoint-selection"


def routed(
    body: bytes = PROMPT, headers: Headers = H, config: str = CONFIG
) -> tuple[ExtProcStream, Exchange, Mutation]:
    """A BUFFERED request that was sent on, and with what."""
    stream = ExtProcStream(BUFFERED, NONE)
    exchange = begun(stream, config=config)
    for message in (RequestHeaders(headers), RequestBody(body, True)):
        event = stream.receive(message)
        assert isinstance(event, RequestStarted | RequestReady)
        assert list(exchange.handle(event)) == []
        reply = list(stream.replies())[-1]
        exchange.sent()
    assert isinstance(reply, BodyReply)
    return stream, exchange, reply.mutation


def test_a_body_that_goes_on_as_it_came_keeps_its_length() -> None:
    _, exchange, mutation = routed(SAME, {**H, "content-length": str(len(SAME))})
    assert "content-length" not in dict(mutation.set_headers)
    _, exchange, mutation = routed(PROMPT, {**H, "content-length": str(len(PROMPT))})
    assert dict(mutation.set_headers)["content-length"] == str(len(PROMPT))
    assert exchange.decided_in_s > 0
    assert exchange.close() == 0.0


class Asked(Lobby[Exchange]):
    """Notes what is to be decided."""

    def offer(self, router: Any, request: InferenceRequest, *rest: Any) -> Any:
        self.request = request
        return super().offer(router, request, *rest)


@pytest.mark.parametrize(("mode", "size"), [(NONE, 17), (BUFFERED, 0)])
def test_a_body_that_goes_by_unseen_counts_as_it_is_announced(mode: BodyMode, size: int) -> None:
    stream, lobby = ExtProcStream(mode, NONE), Asked()
    exchange = begun(stream, config=CONFIG, lobby=lobby)
    tell(
        exchange,
        stream,
        RequestHeaders({":method": "PUT", ":path": "/x", "content-length": "17"}, mode is BUFFERED),
    )
    assert lobby.request.body_bytes == size


@pytest.mark.parametrize("trusted", [False, True])
def test_only_where_it_is_trusted_a_header_says_where_a_request_goes(trusted: bool) -> None:
    config = TWO + f"trusted_headers: [{SELECTION if trusted else 'x-other'}]\n"
    for chosen in (A, B):
        _, exchange, _ = routed(SAME, {**H, SELECTION: chosen}, config)
        assert exchange.decision is not None
        assert (exchange.decision.candidates == 1) is trusted
        assert exchange.decision.endpoint.address == chosen or not trusted


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "completed"), (404, "completed"), (500, "upstream_error")]
)
def test_what_a_routed_request_comes_to_is_what_its_answer_says(status: int, outcome: str) -> None:
    stream, exchange, _ = routed()
    stream.receive(ResponseHeaders({":status": str(status)}))
    exchange.answered(Answered(status, A))
    assert exchange.outcome == outcome
    assert exchange.decision is not None
    assert exchange.decision.endpoint.in_flight == 1
    exchange.close()
    assert (exchange.decision.endpoint.in_flight, exchange.early) == (0, False)


@pytest.mark.parametrize("ended", [False, True])
def test_a_streamed_answer_is_only_taken_to_go_on_where_its_end_was_not_seen(ended: bool) -> None:
    stream, exchange, _ = routed()
    stream.receive(ResponseHeaders(OK))
    exchange.answered(Answered(200, A, streamed=True))
    if ended:
        exchange.body_ended()
    exchange.close()
    assert exchange.decision is not None
    assert (exchange.early, exchange.decision.endpoint.in_flight) == (not ended, int(not ended))


@pytest.mark.parametrize("status", [404, 503])
def test_what_envoy_answers_before_the_body_came_is_no_fault_of_ours_or_of_an_endpoint(status: int) -> None:
    stream = ExtProcStream(BUFFERED, NONE)
    exchange = begun(stream)
    tell(exchange, stream, RequestHeaders(H))
    assert (exchange.undecided, exchange.settled) == (True, False)
    stream.receive(ResponseHeaders({":status": str(status)}))
    exchange.answered(Answered(status))
    exchange.sent()
    assert (exchange.undecided, exchange.settled, exchange.outcome) == (False, True, "completed")


@pytest.mark.parametrize(
    ("details", "removed"), [("via_upstream", ("x-extproc-reason",)), ("route_not_found", ())]
)
def test_only_an_endpoint_has_headers_of_ours_taken_from_its_answer(
    details: str, removed: tuple[str, ...]
) -> None:
    stream, exchange, _ = routed()
    stream.receive(ResponseHeaders({":status": "404", "x-extproc-reason": "mine"}))
    exchange.answered(Answered(404, details=details, not_theirs=("x-extproc-reason",)))
    (reply,) = stream.replies()
    assert isinstance(reply, HeadersReply)
    assert reply.mutation.remove_headers == removed


def test_what_was_refused_counts_as_that_whatever_went_wrong_afterwards() -> None:
    stream = ExtProcStream(BUFFERED, NONE)
    exchange = begun(stream)
    tell(exchange, stream, RequestHeaders(H))
    tell(exchange, stream, RequestBody(UNKNOWN, True))
    exchange.fault = "protocol_error"
    assert exchange.outcome == "model_not_found"
