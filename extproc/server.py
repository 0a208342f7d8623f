"""The ext_proc service on grpc.aio: one `ExtProcStream` and one `Exchange` for each gRPC stream."""

from __future__ import annotations

import asyncio
import collections
import functools
import random
from collections.abc import Callable
from typing import Any

import grpc
from grpc.aio import EOF  # type: ignore[attr-defined]

from . import pin
from .address import hints
from .answer_headers import read_headers
from .budget import BodyBudget
from .call import Call, Context, PeerGone, left_alone
from .dispatching import Dispatcher
from .errors import Reason, Rejected
from .exchange import Exchange
from .intake import unsupported_override
from .observing import ObservedExchange
from .protocol import codec
from .protocol.messages import (
    BodyMode,
    Event,
    Piece,
    ProtocolError,
    RequestTruncated,
    ResponseChunk,
    ResponseEnded,
    ResponseHeaders,
    ResponseStarted,
)
from .protocol.observed import ObservedStream
from .protocol.stream import ExtProcStream
from .recent import RecentDecisions
from .router import Router
from .telemetry import Telemetry

SERVICE_NAME = "envoy.service.ext_proc.v3.ExternalProcessor"

MAX_AHEAD = 8
"""Messages that are read while a request is held, to notice that its client left: Envoy sends none but those that
repeat the end of a body, or that somebody else's answer begins."""

UNASKED_S = 0.1
"""What Envoy says unasked it has said before it could read our answer."""


class Overtaken(Exception):
    """The request was answered by somebody else while it was held."""


class ExternalProcessor:
    """Serves `Process`; `router` says which config is in force when a stream begins."""

    def __init__(
        self,
        router: Callable[[], Router],
        telemetry: Telemetry,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._router = router
        self._telemetry = telemetry
        self._clock = clock
        self._rng = rng
        self.budget = BodyBudget()
        self.dispatcher = Dispatcher(telemetry, clock, rng)
        self.recent = RecentDecisions()
        self._conversations: dict[asyncio.Task[Any], _Conversation] = {}
        self.shutting_down = False
        """The drain is over: nothing is decided any more."""
        self.open_streams = 0
        telemetry.metrics.streams.set_function(lambda: self.open_streams)
        telemetry.metrics.buffered.set_function(lambda: self.budget.held_bytes)

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For `server.add_generic_rpc_handlers`; messages stay bytes, `codec` reads them."""
        method = grpc.stream_stream_rpc_method_handler(self.process)
        return grpc.method_handlers_generic_handler(SERVICE_NAME, {"Process": method})

    def end_drain(self) -> None:
        """The drain is over: what is still not decided gets 503 instead of a broken stream, and Envoy goes on alone
        with what is decided, where it can."""
        self.shutting_down = True
        self.dispatcher.close()
        for task, conversation in self._conversations.items():
            may_end = conversation.exchange.undecided or conversation.is_let_go
            if may_end and not conversation.call.writing:
                task.cancel()

    async def process(self, _: object, context: Context) -> None:
        """One stream, which is one HTTP request."""
        call = Call(context)
        await left_alone(call, self._count(call))

    async def _count(self, call: Call) -> None:
        self.open_streams += 1
        try:
            answered_by_us = await self._serve(call)
        finally:
            self.open_streams -= 1
        if answered_by_us:
            await call.until_it_ends()

    async def _serve(self, call: Call) -> bool:
        """Whether we answered for the request."""
        first = await call.read()
        if first is EOF:
            return False
        conversation: _Conversation | None = None
        try:
            message = codec.parse(first)
            conversation = self._begin(call, message)
            running = conversation.run(message)
            del first, message  # the stream may live for an hour
            await running
        except ProtocolError as error:
            if conversation is None:
                self._telemetry.unreadable(error)
            else:
                conversation.exchange.fault = "protocol_error"
                conversation.exchange.fault_text = str(error)
            await call.fail(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            if conversation is not None:
                self._end(conversation)
        return conversation is not None and conversation.answered

    def _begin(self, call: Call, first: codec.Request) -> _Conversation:
        observed = codec.is_observed(first)
        stream = ObservedStream() if observed else _stream(first)
        exchange = (ObservedExchange if observed else Exchange)(
            stream,
            self._router(),
            self.budget,
            self._telemetry.watcher,
            self.dispatcher.lobby,
            self.recent,
            self._clock,
            self._rng,
        )
        if self._telemetry.tracing is not None:
            carrier = dict(call.context.invocation_metadata() or ())
            exchange.tracer = functools.partial(self._telemetry.tracing.begin, carrier=carrier)
        task = asyncio.current_task()
        assert task is not None
        conversation = self._conversations[task] = _Conversation(call, stream, exchange, task, self)
        return conversation

    def _end(self, conversation: _Conversation) -> None:
        del self._conversations[conversation.task]
        lived_s = conversation.exchange.close()
        self.dispatcher.poke()
        self._telemetry.ended(conversation.exchange, lived_s)

    def is_refusing(self, exchange: Exchange) -> bool:
        """Whether the request of *exchange* is to be refused, since the drain is over."""
        return self.shutting_down and exchange.undecided

    def report_bug(self, error: Exception) -> None:
        self._telemetry.metrics.internal_errors.inc()
        self._telemetry.log.error("internal_error", exc_info=error)


class _Conversation:
    """Reads, lets the exchange decide, writes."""

    def __init__(
        self,
        call: Call,
        stream: ExtProcStream,
        exchange: Exchange,
        task: asyncio.Task[Any],
        owner: ExternalProcessor,
    ) -> None:
        self.exchange = exchange
        self.task = task
        self.call = call
        self._stream = stream
        self._owner = owner
        self._ahead: collections.deque[codec.Request] = collections.deque()
        """What came while the request was held."""

    async def run(self, first: codec.Request) -> None:
        """Until Envoy ends the stream, or we do.  Raises ProtocolError."""
        try:
            await self._step(first)
            del first  # the stream may live for an hour
            while not (self._stream.finished or self.is_let_go) and await self._next():
                pass
        except PeerGone:
            return
        except asyncio.CancelledError:
            is_refused = self._owner.is_refusing(self.exchange)
            if not is_refused and not self.is_let_go:
                raise
            self.task.uncancel()
            if is_refused:
                await self._refuse(_shutting_down())
        except ProtocolError:
            raise
        except Exception as error:
            self._owner.report_bug(error)
            self.exchange.fault = "internal_error"
            # Once answered for, a clean close harms nobody: Envoy goes on alone.  Before, it would let the
            # request through unrouted.
            if not self.exchange.settled:
                await self._refuse(Rejected(Reason.INTERNAL_ERROR, "The router failed on this request."))

    @property
    def answered(self) -> bool:
        """By us, for good or ill: Envoy has nothing more to say."""
        return self._stream.closed

    @property
    def is_let_go(self) -> bool:
        """The drain is over, and a clean end of the stream costs the answer nothing: an error would cut it."""
        if not (self._owner.shutting_down and self.exchange.settled and self._stream.is_dispensable):
            return False
        reading = self.exchange.answer_reading
        return reading is None or not reading.restores

    async def _next(self) -> bool:
        """Handle what Envoy sends next; False where it ends the stream.

        Nothing of it stays referenced: a body may be 32 MiB, and the message after it minutes away.
        """
        message = await self._read()
        if message is not None:
            await self._step(message)
        return message is not None

    async def _step(self, message: codec.Request) -> None:
        event = self._stream.receive(codec.decode(message))
        if event is not None:
            try:
                await self._handle(event, message)
            except Rejected as rejection:
                self.exchange.reject(rejection)
            except Overtaken:
                pass
        await self._reply()
        if self._owner.is_refusing(self.exchange):  # the drain ended while that was written
            await self._refuse(_shutting_down())

    async def _handle(self, event: Event, message: codec.Request) -> None:
        exchange = self.exchange
        match event:
            case ResponseStarted(headers, ended):
                exchange.answered(read_headers(headers, ended, message))
                self._owner.dispatcher.poke()  # another endpoint may have served
            case ResponseChunk(data, last):
                await self._pass_on(data, last)
            case ResponseEnded():
                exchange.body_ended()
            case _ if self._owner.shutting_down:
                raise _shutting_down()
            case RequestTruncated() if self._stream.overridden and await self._more_follows():
                raise unsupported_override()
            case _:
                hint = codec.metadata_value(message, pin.SUBSET_NAMESPACE, pin.SUBSET)
                if hint is not None:
                    exchange.subset = hints(hint)
                for held in exchange.handle(event):
                    await (asyncio.sleep(0) if held is None else self._hold(held))

    async def _pass_on(self, data: Piece, last: bool) -> None:
        """A piece of an answer, whatever reading it comes to."""
        try:
            for _ in self.exchange.answer_chunk(data, last):
                await asyncio.sleep(0)
        except Exception as error:
            self._owner.report_bug(error)
            assert self.exchange.answer_reading is not None
            self.exchange.answer_reading.give_up()

    async def _hold(self, exchange: Exchange) -> None:
        """Until *exchange* is called; a client that leaves meanwhile is gone at once."""
        called = self._owner.dispatcher.hold(exchange)
        try:
            while not called.done():
                waits: list[asyncio.Future[Any]] = [called]
                reading = self.call.reading() if len(self._ahead) < MAX_AHEAD else None
                if reading is not None:
                    waits.append(reading)
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if reading is not None and reading.done() and not called.done():
                    self._look_ahead(await self.call.read())
            called.result()
        finally:
            self._owner.dispatcher.leave(exchange)

    def _look_ahead(self, data: Any) -> None:
        if data is EOF:
            raise PeerGone
        message = codec.parse(data)
        self._ahead.append(message)
        if isinstance(codec.decode(message), ResponseHeaders):
            raise Overtaken

    async def _more_follows(self) -> bool:
        """Whether Envoy says more unasked, after a piece of a body.

        It does where it streams; a body that it cut off is followed by nothing before we answer.
        """
        reading = self.call.reading()
        await asyncio.wait((reading,), timeout=UNASKED_S)
        return reading.done()

    async def _reply(self) -> None:
        for reply in self._stream.replies():
            await self.call.write(codec.encode(reply))
        self.exchange.sent()

    async def _refuse(self, rejection: Rejected) -> None:
        self.exchange.reject(rejection)
        try:
            await self._reply()
        except PeerGone:
            return

    async def _read(self) -> codec.Request | None:
        if self._ahead:
            return self._ahead.popleft()
        data = await self.call.read()
        return None if data is EOF else codec.parse(data)


def _stream(first: codec.Request) -> ExtProcStream:
    request_mode, response_mode = codec.body_modes(first)
    ahead = request_mode is BodyMode.STREAMED and codec.sends_ahead(first)
    return ExtProcStream(request_mode, response_mode, ahead=ahead)


def _shutting_down() -> Rejected:
    return Rejected(Reason.SHUTTING_DOWN, "The router is shutting down.")
