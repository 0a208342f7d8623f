"""Whole requests against a real router: each ends decided or refused for a known reason, and nothing is left of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from extproc import address
from extproc.answer_headers import read_headers
from extproc.budget import BodyBudget
from extproc.engine_metrics import EngineMetrics
from extproc.errors import Reason, Rejected
from extproc.exchange import Exchange
from extproc.fleet import Fleet
from extproc.flight import LINGER_S, Watcher
from extproc.holding import Lobby
from extproc.intake import unsupported_override
from extproc.protocol import codec
from extproc.protocol.messages import (
    BodyMode,
    BodyReply,
    Event,
    Message,
    Phase,
    Piece,
    ProtocolError,
    RequestBody,
    RequestTruncated,
    ResponseChunk,
    ResponseEnded,
    ResponseHeaders,
    ResponseStarted,
)
from extproc.protocol.stream import ExtProcStream
from extproc.recent import RecentDecisions
from extproc.router import Router

from ..choices import Choices
from ..envoy import BODIES, OPTIONS, Envoy
from ..router_configs import CONFIGS
from ..target import Target

MAX_STEPS = 60
TALKS = 3
START = 100.0
MODES = (*BodyMode, BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)
OUTCOMES = {"completed", "aborted", "upstream_error", "protocol_error"} | {reason.code for reason in Reason}
_WATCHER = Watcher(missed=lambda *_: None, set_aside=lambda *_: None, reported=lambda *_: None)


def run(data: bytes) -> None:
    world = World(Choices(data))
    for _ in range(MAX_STEPS):
        if not world.choices.left:
            break
        world.step()
    world.check()


class World:
    """A router's state, and some requests at a time."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.now = START
        self.rng = random.Random(choices.byte())
        self.budget = BodyBudget()
        self.lobby: Lobby[Exchange] = Lobby()
        self.recent = RecentDecisions()
        self._fleet = Fleet()
        self._fleet.apply(CONFIGS[0])
        self._talks: list[Talk | None] = [None] * TALKS

    @property
    def router(self) -> Router:
        assert self._fleet.router is not None
        return self._fleet.router

    def step(self) -> None:
        what = self.choices.byte()
        number, action = what % TALKS, what // TALKS % 12
        talk = self._talks[number]
        match action:
            case 8:
                self.now += self.choices.of((0.005, 0.3, 2.0, 20.0))
                self._fleet.expire(self.now)
            case 9:
                self._scrape()
            case 10:
                router = self._fleet.apply(self.choices.of(CONFIGS))
                self._call(self.lobby.reload(router, self.now, self.rng))
            case 11:
                if talk is not None:
                    talk.close()
                    self._talks[number] = None
            case _:
                self._talks[number] = talk = talk or Talk(self)
                if not talk.go_on():
                    talk.close()
                    self._talks[number] = None
        self.pump()

    def _scrape(self) -> None:
        waiting, running = self.choices.byte() % 8, self.choices.byte() % 64
        where = self.choices.of(("10.0.0.1:80", "10.0.0.2:80", "10.0.1.1:80"))
        if waiting == 7:
            self._fleet.scrape_failed(where, refused=True, now=self.now)
        else:
            figures = EngineMetrics(waiting=waiting, running=running, kv_cache_usage=waiting / 7)
            self._fleet.scraped(where, figures, self.now)

    def pump(self) -> None:
        self._call(self.lobby.pump(self.now, self.rng))

    def _call(self, called: Iterator[Any]) -> None:
        for ticket, outcome in called:
            ticket.content.holder.call(outcome)
        for talk in self._talks:
            if talk is not None:
                talk.resume()

    def check(self) -> None:
        """Nothing is left of anybody."""
        for talk in self._talks:
            if talk is not None:
                talk.close()
        assert self.budget.held_bytes == 0, f"{self.budget.held_bytes} bytes are still held"
        assert len(self.lobby) == 0, "somebody still waits"
        self._fleet.expire(self.now + LINGER_S)
        for _, endpoint in self._fleet.endpoints():
            assert endpoint.in_flight == 0, f"{endpoint.address} has {endpoint.in_flight} in flight"
            assert abs(endpoint.tokens_in_flight) < 1e-6
            assert not endpoint.loras_in_flight


class Talk:
    """One request, and the server that drives it."""

    def __init__(self, world: World) -> None:
        self._world = world
        choices = world.choices
        self._stream = ExtProcStream(choices.of(MODES), choices.of(MODES), ahead=choices.byte() > 200)
        self._exchange = Exchange(
            self._stream,
            world.router,
            world.budget,
            _WATCHER,
            world.lobby,
            world.recent,
            lambda: world.now,
            world.rng,
        )
        self._steps: Iterator[Exchange | None] | None = None
        """Of the event in hand, while the request is held."""
        self._envoy = Envoy(choices)
        self._given: list[Piece] = []
        self._went_on: list[Piece] = []

    def go_on(self) -> bool:
        """Send what Envoy could say next, or anything; False where the conversation is over."""
        message = self._envoy.message(self._stream)
        if self._steps is not None:
            if not isinstance(message, ResponseHeaders):
                return True  # the server reads no further while the request is held
            self._leave()  # overtaken
            self._reply()
        try:
            event = self._stream.receive(message)
        except ProtocolError:
            self._exchange.fault = "protocol_error"
            return False
        if event is not None:
            if isinstance(message, RequestBody):
                self._given.append(message.data)
            self._guarded(event, message)
        if self._steps is None:
            self._reply()
        return not self._stream.finished

    def _guarded(self, event: Event, message: Message) -> None:
        try:
            self._handle(event, message)
        except Rejected as rejection:
            self._reject(rejection)

    def _handle(self, event: Event, message: Message) -> None:
        exchange, choices = self._exchange, self._world.choices
        match event:
            case ResponseStarted(headers, ended):
                exchange.answered(read_headers(headers, ended, self._envoy.around()))
            case ResponseChunk(data, last):
                for _ in exchange.answer_chunk(data, last):
                    pass
            case ResponseEnded():
                exchange.body_ended()
            case RequestTruncated() if self._stream.overridden and choices.flag():
                raise unsupported_override()
            case _:
                if choices.byte() > 220:
                    exchange.subset = address.hints(choices.some().decode("latin-1"))
                self._steps = exchange.handle(event)
                self._run()

    def _run(self) -> None:
        assert self._steps is not None
        for held in self._steps:
            if held is not None:
                assert held is self._exchange
                assert held.ticket is not None
                return
        self._steps = None

    def resume(self) -> None:
        """It may have been called."""
        if self._steps is None or self._exchange.called is None:
            return
        try:
            self._run()
        except Rejected as rejection:
            self._steps = None
            self._reject(rejection)
        self._exchange.ticket = None
        self._reply()

    def _reject(self, rejection: Rejected) -> None:
        assert isinstance(rejection.reason, Reason)
        assert rejection.message.isprintable()
        self._steps = None
        self._exchange.reject(rejection)

    def _leave(self) -> None:
        assert self._exchange.ticket is not None
        self._world.lobby.cancel(self._exchange.ticket)
        self._exchange.ticket = self._steps = None

    def _reply(self) -> None:
        for reply in self._stream.replies():
            assert codec.encode(reply) or isinstance(reply, BodyReply)
            if isinstance(reply, BodyReply) and reply.phase is Phase.REQUEST:
                self._went_on += reply.replace or ([] if reply.streamed is None else [reply.streamed])
        self._exchange.sent()

    def close(self) -> None:
        """The stream ends, however far it came."""
        if self._steps is not None:
            self._leave()
        exchange = self._exchange
        lived_s = exchange.close()
        assert lived_s >= 0
        assert exchange.outcome in OUTCOMES, exchange.outcome
        decision = exchange.decision
        if decision is not None:
            assert decision.endpoint.address in decision.pin
            self._check_body(decision.target_model in (None, decision.model))

    def _check_body(self, is_same: bool) -> None:
        is_duplex = self._stream.request_mode is BodyMode.FULL_DUPLEX_STREAMED
        headers = self._exchange.headers
        changes = "upgrade" in headers or "content-encoding" in headers
        if is_same and is_duplex and not (changes or self._stream.closed):
            assert b"".join(self._went_on) == b"".join(self._given), "a body changed that should not have"


CLOSE, CLOCK, SCRAPE, RELOAD = 33, 24, 27, 30
"""Steps of `World`; plus the talk's number."""


def _sent(talk: int, body: int, mode: int = 8, *options: int) -> bytes:
    """The steps in which a whole request comes: modes, headers, body."""
    return bytes((talk, mode, mode, 0, 15, 0, 0, len(options), *options, 0, 0, talk, 15 + 64, body * 2, 0))


def _answered(talk: int, kind: int) -> bytes:
    """An answer's: its headers, of a *kind* as `_response_headers` has it, and two pieces of its body."""
    return bytes((talk, 15, 0, kind, 2, 1)) + bytes((talk, 15 + 128, 0)) + bytes((talk, 15 + 192, 1))


def _seeds() -> list[bytes]:
    seeds = [
        b"\x01" + _sent(0, body, mode, 0) + _answered(0, body)
        for body in range(len(BODIES))
        for mode in (2, 3, 4, 1, 0)
    ]
    seeds += [b"\x02" + _sent(0, 0, 2, option, 0) + _answered(0, 7) for option in range(len(OPTIONS))]
    ends = (
        bytes((CLOSE, CLOSE + 1, CLOSE + 2)),
        bytes((CLOCK, 2)),  # their time is up
        bytes((RELOAD, 1, CLOSE)),
        bytes((SCRAPE, 7, 7, 2, CLOCK, 1)),
        _answered(1, 3),  # overtaken
        bytes((CLOSE + 1, CLOCK, 3)),
    )
    for mode in (8, 2, 3):
        held = [_sent(talk, body, mode) for talk, body in ((0, 1), (1, 1), (2, 2))]
        seeds += [b"\x03" + b"".join(held) + end + _answered(0, 3) for end in ends]
        shed = _sent(0, 1, mode) + _sent(1, 3, mode) + _sent(2, 1, mode)
        seeds.append(b"\x04" + shed + bytes((CLOSE,)) + _answered(2, 1))
    return seeds


TARGET = Target(
    run,
    _seeds,
    (
        _sent(0, 0),
        _sent(1, 1, 2, 0),
        _sent(2, 2),
        _answered(1, 3),
        bytes((CLOCK, 2)),
        bytes((SCRAPE, 0, 8, 2)),
        bytes((RELOAD, 1)),
        bytes((CLOSE,)),
        bytes((CLOSE + 1,)),
        b'\x11{"model":"held"}',
        b"\x0810.0.0.1",
    ),
    max_bytes=512,
)
