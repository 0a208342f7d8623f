"""The routes of the model APIs."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from functools import partial
from random import Random
from uuid import uuid4

import msgspec
from aiohttp import web

from extproc.sim.answers import Answer, AnthropicMessage, ChatCompletion, OpenAi, Text, TextCompletion
from extproc.sim.calls import ApiError, Body, Call, Json, bad_request, count_prompt, decode, generation
from extproc.sim.clockwork import Clockwork, Ticket
from extproc.sim.config import SimConfig
from extproc.sim.faults import Faults
from extproc.sim.listener import reset
from extproc.sim.orca import load_report
from extproc.sim.sequence import Request

VERSION = "0.32.0"
"""The vLLM whose API and metrics these are."""
EMBEDDING_SIZE = 16


class Api:
    def __init__(self, config: SimConfig, clockwork: Clockwork, faults: Callable[[], Faults]) -> None:
        self._config = config
        self._max_model_len = config.engine.max_tokens
        self._clockwork = clockwork
        self._faults = faults
        self._rng = Random(config.seed)
        self._text = Text(config.name)
        self._created = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self._health),
            web.get("/ping", self._health),
            web.get("/version", self._version),
            web.get("/v1/models", self._models),
            web.post("/v1/chat/completions", partial(self._generate, api=ChatCompletion)),
            web.post("/v1/completions", partial(self._generate, api=TextCompletion)),
            web.post("/v1/messages", partial(self._generate, api=AnthropicMessage)),
            web.post("/v1/messages/count_tokens", self._count_tokens),
            web.post("/v1/embeddings", self._embeddings),
            web.post("/tokenize", self._tokenize),
        ]

    # -- what needs no engine -------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, request: web.Request) -> web.Response:
        return answered({"version": VERSION})

    async def _models(self, request: web.Request) -> web.Response:
        base = self._config.models[0]
        cards = [self._card(name, root=base, parent=None) for name in self._config.models]
        cards += [self._card(name, root=name, parent=base) for name in self._config.loras]
        return answered({"object": "list", "data": cards})

    def _card(self, name: str, root: str, parent: str | None) -> Json:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": None if parent else self._max_model_len,
            "permission": [],
        }

    async def _count_tokens(self, request: web.Request) -> web.Response:
        body = decode(await request.read())
        self._served(body)
        return answered({"input_tokens": count_prompt(body)})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = decode(await request.read())
        self._served(body)
        count = count_prompt(body)
        tokens = {"count": count, "max_model_len": self._max_model_len, "tokens": list(range(count))}
        return answered({**tokens, "token_strs": None})

    # -- what the engine works on ---------------------------------------------------------------------------

    async def _generate(self, request: web.Request, api: type[Answer]) -> web.StreamResponse:
        body = decode(await request.read())
        model = self._served(body)
        call = generation(body, model, self._max_model_len, self._draw)
        request_id = uuid4().hex
        answer = api(call, request_id)
        ticket = self._submit(request_id, call)
        try:
            if call.stream:
                return await self._stream(request, call, answer, ticket)
            while not ticket.finished:
                await ticket.news()
        finally:
            self._clockwork.release(request_id)
        text = self._text.tokens(0, call.output_tokens)
        whole = await self._whole(request, answer.whole(text, self._told(ticket)))
        if issubclass(api, OpenAi):  # nothing else of vLLM's reports
            wanted = request.headers.get("endpoint-load-metrics-format", "")
            whole.headers.update(load_report(wanted, self._clockwork.gauges))
        return whole

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = decode(await request.read())
        model = self._served(body)
        inputs = body.input if isinstance(body.input, list) else [body.input]
        if inputs and isinstance(inputs[0], int):
            inputs = [inputs]
        tokens = count_prompt(body)
        if tokens > self._max_model_len:
            raise bad_request(f"input is {tokens} tokens long, at most {self._max_model_len} fit", "input")
        request_id = uuid4().hex
        ticket = self._submit(request_id, Call(model, tokens, 0, None, "stop", stream=False))
        try:
            while not ticket.finished:
                await ticket.news()
        finally:
            self._clockwork.release(request_id)
        data = [
            {"index": index, "object": "embedding", "embedding": embedding(value)}
            for index, value in enumerate(inputs)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        return answered(
            {"id": f"embd-{request_id}", "object": "list", "model": model, "data": data, "usage": usage}
        )

    def _submit(self, request_id: str, call: Call) -> Ticket:
        return self._clockwork.submit(
            Request(
                id=request_id,
                prompt_tokens=call.prompt_tokens,
                output_tokens=call.output_tokens,
                max_tokens=call.max_tokens,
                finish_reason=call.finish_reason,
                lora=call.model if call.model in self._config.loras else None,
                stream=call.stream,
                blocks=call.blocks,
            )
        )

    def _told(self, ticket: Ticket) -> int:
        """Cached tokens as the answer tells of them."""
        return ticket.cached_tokens if self._config.enable_prompt_tokens_details else 0

    async def _stream(
        self, request: web.Request, call: Call, answer: Answer, ticket: Ticket
    ) -> web.StreamResponse:
        """Server-sent events. Tokens that came while the last event was being sent share one, as in vLLM."""
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        fault = self._faults().request_fault
        sent = 0
        while not ticket.finished:
            await ticket.news()
            tokens = ticket.tokens
            piece = b"" if sent else answer.start()
            text = self._text.tokens(sent, tokens)
            cached = self._told(ticket)
            piece += answer.end(text, cached) if ticket.finished else answer.tokens(text, tokens)
            if fault.kind == "reset-mid-stream" and tokens >= fault.number:
                await self._reset(request)
            await response.write(piece)
            sent = tokens
        await response.write_eof()
        return response

    async def _whole(self, request: web.Request, answer: Json) -> web.Response:
        body = msgspec.json.encode(answer)
        response = web.Response(body=body, content_type="application/json")
        if self._faults().request_fault.kind == "reset-mid-stream":
            cut = web.StreamResponse(headers={"content-type": "application/json"})
            cut.content_length = len(body)
            await cut.prepare(request)
            await cut.write(body[: len(body) // 2])
            await self._reset(request)
        return response

    async def _reset(self, request: web.Request) -> None:
        reset(request.transport)
        await asyncio.get_running_loop().create_future()

    def _served(self, body: Body) -> str:
        """The model that is asked; without one the first, as in vLLM. ApiError 404: not one of ours."""
        model = body.model or self._config.models[0]
        if model not in self._config.models and model not in self._config.loras:
            raise ApiError(404, "NotFoundError", f"The model `{model}` does not exist.", "model")
        return model

    def _draw(self) -> int:
        """Length of an answer: the lognormal fit of the Azure 2023 conversation trace, mean 218 tokens."""
        return max(1, round(self._rng.lognormvariate(5.019, 0.859)))


def answered(data: Json) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), content_type="application/json")


def embedding(value: object) -> list[float]:
    """The same for the same input, between -1 and 1."""
    digest = hashlib.sha256(msgspec.json.encode(value)).digest()
    return [round(byte / 127.5 - 1, 6) for byte in digest[:EMBEDDING_SIZE]]
