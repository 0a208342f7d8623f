"""Answers to the byte: an upstream that sends what it is told, and Envoys that send answers to the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
import pytest_asyncio
import yaml
from stack import BUFFERED, DUPLEX, Stack, client_of, eventually, ext_proc_of, running, running_service
from upstream import exchange, read_message

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy
from extproc.demo.service import Service

EVENTS, JSON = "text/event-stream; charset=utf-8", "application/json"
CHAT = "/v1/chat/completions"


@dataclass
class Answer:
    """What an upstream sends."""

    pieces: Sequence[bytes]
    """Each is flushed, and a chunk of its own where the answer is *chunked*."""
    content_type: str = EVENTS
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunked: bool = True
    """Or else with a content-length."""
    trailers: Mapping[str, str] = field(default_factory=dict)
    gap_s: float = 0.002
    """Between pieces."""
    held_after: int | None = None
    """So many pieces it sends; the rest once `go_on` is set."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def head(self) -> bytes:
        headers = {"content-type": self.content_type, **self.headers}
        if self.chunked:
            headers["transfer-encoding"] = "chunked"
        elif self.status != 204:
            headers["content-length"] = str(len(self.body))
        lines = [f"HTTP/1.1 {self.status} X", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()

    def tail(self) -> bytes:
        trailers = "".join(f"{name}: {value}\r\n" for name, value in self.trailers.items())
        return b"0\r\n" + trailers.encode() + b"\r\n" if self.chunked else b""


MODELS = Answer([b'{"object":"list","data":[]}'], JSON)


class Request(NamedTuple):
    head: bytes
    body: bytes


class AnsweringUpstream:
    """Answers `answer` to whatever comes but the service's own question after models, which `requests` has not."""

    def __init__(self) -> None:
        self.answer = Answer([])
        self.requests: list[Request] = []
        self.address = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head, body, _ = await read_message(reader)
                if head.startswith(b"GET /v1/models "):
                    await self._send(MODELS, writer, bodiless=False)
                    continue
                self.requests.append(Request(head, body))
                await self._send(self.answer, writer, bodiless=head.startswith(b"HEAD "))
        writer.close()

    async def _send(self, answer: Answer, writer: asyncio.StreamWriter, *, bodiless: bool) -> None:
        writer.write(answer.head())
        for number, piece in enumerate(() if bodiless else answer.pieces):
            if number == answer.held_after:
                await answer.go_on.wait()
            await writer.drain()
            await asyncio.sleep(answer.gap_s)
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.chunked else piece)
        if not bodiless:
            writer.write(answer.tail())
        await writer.drain()


@dataclass
class Mode:
    """How Envoy sends bodies, and what it lets us override."""

    name: str
    request: str = "BUFFERED"
    response: str = "NONE"
    override: bool = True
    fail_open: bool = False

    def change(self, bootstrap: dict[str, Any]) -> None:
        settings, _ = ext_proc_of(bootstrap)
        settings["processing_mode"]["request_body_mode"] = self.request
        settings["processing_mode"]["response_body_mode"] = self.response
        if "FULL_DUPLEX_STREAMED" in (self.request, self.response):
            settings["processing_mode"]["request_trailer_mode"] = "SEND"
            settings["processing_mode"]["response_trailer_mode"] = "SEND"
        settings["allow_mode_override"] = self.override
        settings["failure_mode_allow"] = self.fail_open
        (listener,) = bootstrap["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        log = manager["access_log"][0]["typed_config"]["log_format"]["json_format"]
        log["figures"] = "%DYNAMIC_METADATA(extproc)%"


ASKED = Mode("asked")
ASKED_TWICE = Mode("asked after the request's mode was overridden", request="STREAMED")
STREAMED = Mode("streamed", response="STREAMED", override=False)
WHOLE = Mode("buffered", response="BUFFERED", override=False)
PARTIAL = Mode("partial", response="BUFFERED_PARTIAL", override=False)
FULL_DUPLEX = Mode("duplex", request="FULL_DUPLEX_STREAMED", response="FULL_DUPLEX_STREAMED", override=False)
ONE_WAY_DUPLEX = Mode("duplex answers", response="FULL_DUPLEX_STREAMED", override=False)
DENIED = Mode("denied", override=False)
NOT_HONOURED = Mode("full duplex requests", request="FULL_DUPLEX_STREAMED")
SENDING = [ASKED, ASKED_TWICE, STREAMED, WHOLE, PARTIAL, FULL_DUPLEX, ONE_WAY_DUPLEX]
"""All in which the service gets to see an answer."""


class Got(NamedTuple):
    """What came of a request, at each who saw it."""

    head: bytes
    body: bytes
    trailers: bytes
    line: dict[str, Any]
    """The service's log line."""
    access: dict[str, Any]
    """Envoy's."""
    request: Request
    """As it reached the upstream."""

    def header(self, name: str) -> str | None:
        lines = [line.partition(": ") for line in self.head.decode().splitlines()[1:]]
        return next((value for key, _, value in lines if key == name), None)


class World:
    """One upstream and one service; an Envoy for each mode that is asked for."""

    def __init__(self, upstream: AnsweringUpstream, service: Service, directory: Path) -> None:
        self.upstream = upstream
        self.service = service
        self._directory = directory
        self._exits = AsyncExitStack()
        self._stacks: dict[str, Stack] = {}

    async def through(self, mode: Mode) -> Stack:
        if mode.name not in self._stacks:
            self._stacks[mode.name] = await self._start(mode)
        return self._stacks[mode.name]

    async def _start(self, mode: Mode) -> Stack:
        way = DUPLEX if mode.request == "FULL_DUPLEX_STREAMED" else BUFFERED
        pools = {POOL: [self.upstream.address]}
        name = mode.name.replace(" ", "-").replace("'", "")
        envoy = Envoy(way.bootstrap, self._directory, pools=pools, ext_proc=self.service.grpc, name=name)
        bootstrap = yaml.safe_load(envoy.config_file.read_text())
        mode.change(bootstrap)
        envoy.config_file.write_text(yaml.safe_dump(bootstrap))
        await self._exits.enter_async_context(running(envoy))
        client = await self._exits.enter_async_context(client_of(envoy))
        return Stack(client, envoy, self.service, [], way)

    async def close(self) -> None:
        await self._exits.aclose()

    def lines(self) -> list[dict[str, Any]]:
        return [line for line in self.service.log() if line["event"] == "request"]

    async def ask(
        self, mode: Mode, answer: Answer, model: str = "alias", path: str = CHAT, **headers: str
    ) -> Got:
        """A request through Envoy, answered so."""
        stack = await self.through(mode)
        told, accessed = len(self.lines()), len(stack.envoy.access_log())
        self.upstream.answer = answer
        body = b'{"model": "%b", "stream": true}' % model.encode()
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        request = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\nte: trailers\r\ncontent-type: application/json\r\n"
            f"{extra}content-length: {len(body)}\r\n\r\n"
        )
        head, got, trailers = await exchange(stack.envoy.listen, request.encode() + body)
        lines = await eventually(self.lines, lambda lines: len(lines) > told)
        access = await eventually(stack.envoy.access_log, lambda log: len(log) > accessed)
        return Got(head, got, trailers, lines[-1], access[-1], self.upstream.requests[-1])


@asynccontextmanager
async def running_world(directory: Path, responses: Mapping[str, Any]) -> AsyncIterator[World]:
    """With this `responses:` in the config; at its end nothing is in flight, and the service has logged no fault."""
    async with AnsweringUpstream() as upstream:
        pool = {"name": POOL, "endpoints": [upstream.address], "metrics": {"engine": "none"}}
        models = [{"name": "alias", "pool": POOL, "targets": [{"model": "target-8b"}]}]
        settings = {"pools": [pool], "models": models, "responses": dict(responses)}
        async with running_service(settings, directory) as service:
            world = World(upstream, service, directory)
            try:
                yield world
                for stack in world._stacks.values() if service.running else ():
                    await stack.idle()
                assert [line for line in service.log() if line["level"] == "error"] == []
            finally:
                await world.close()


def world_fixture(responses: Mapping[str, Any]) -> Any:
    """A World for the tests of a module."""

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
        async with running_world(tmp_path_factory.mktemp("world"), responses) as world:
            yield world

    return world
