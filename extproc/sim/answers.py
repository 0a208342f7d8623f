"""Answers in the shapes of vLLM's APIs, whole and as server-sent events."""

from __future__ import annotations

import time
from typing import Any, Protocol

import msgspec

from extproc.sim.calls import Call, Json

encode = msgspec.json.encode


def event(data: object) -> bytes:
    return b"data: " + encode(data) + b"\n\n"


class Answer(Protocol):
    """One answer in one API. Of a stream: `start` and then `tokens` for each piece, the last with its end."""

    def __init__(self, call: Call, request_id: str) -> None: ...

    def whole(self, text: str, cached_tokens: int) -> Json: ...

    def start(self) -> bytes: ...

    def tokens(self, text: str, so_far: int) -> bytes: ...

    def end(self, text: str, cached_tokens: int) -> bytes: ...


def usage(call: Call, completion_tokens: int, cached_tokens: int = 0) -> Json:
    """`cached_tokens`: 0 also where the server does not tell."""
    return {
        "prompt_tokens": call.prompt_tokens,
        "total_tokens": call.prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens} if cached_tokens else None,
    }


class OpenAi:
    """What chat and text completions have in common. A chunk's text is put between ready-made bytes."""

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, call: Call, request_id: str) -> None:
        self._call = call
        self._head: Json = {
            "id": f"{self.prefix}-{request_id}",
            "created": int(time.time()),
            "model": call.model,
        }
        self._before, self._after = event(self._chunk(TEXT)).split(encode(TEXT))

    def whole(self, text: str, cached_tokens: int) -> Json:
        choice = {
            "index": 0,
            **self.message(text),
            "logprobs": None,
            "finish_reason": self._call.finish_reason,
        }
        return {
            **self._head,
            "object": self.whole_object,
            "choices": [choice],
            "usage": usage(self._call, self._call.output_tokens, cached_tokens),
        }

    def tokens(self, text: str, so_far: int) -> bytes:
        if self._call.continuous_usage:
            return event({**self._chunk(text), "usage": usage(self._call, so_far)})
        return self._before + encode(text) + self._after

    def end(self, text: str, cached_tokens: int) -> bytes:
        call = self._call
        last = self._chunk(text, call.finish_reason)
        if call.continuous_usage:
            last["usage"] = usage(call, call.output_tokens)
        parts = [event(last)]
        if call.include_usage:
            whole = usage(call, call.output_tokens, cached_tokens)
            parts.append(event({**self._chunk(""), "choices": [], "usage": whole}))
        return b"".join(parts) + b"data: [DONE]\n\n"

    def _chunk(self, text: str, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, **self.delta(text), "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": self.chunk_object, "choices": [choice]}

    def message(self, text: str) -> Json:
        raise NotImplementedError

    def delta(self, text: str) -> Json:
        raise NotImplementedError


TEXT = "\0text\0"
"""Stands for the text where a chunk is taken apart."""


class ChatCompletion(OpenAi):
    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def start(self) -> bytes:
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        chunk: Json = {**self._chunk(""), "choices": [choice]}
        if self._call.continuous_usage:
            chunk["usage"] = usage(self._call, 0)
        return event(chunk)

    def message(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "tool_calls": []}}

    def delta(self, text: str) -> Json:
        return {"delta": {"content": text}}


class TextCompletion(OpenAi):
    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def start(self) -> bytes:
        return b""

    def message(self, text: str) -> Json:
        return {"text": text}

    delta = message


class AnthropicMessage:
    """POST /v1/messages."""

    def __init__(self, call: Call, request_id: str) -> None:
        self._call = call
        self._stop = "max_tokens" if call.finish_reason == "length" else "end_turn"
        self._head: Json = {
            "id": f"msg_{request_id}",
            "type": "message",
            "role": "assistant",
            "model": call.model,
        }

    def whole(self, text: str, cached_tokens: int) -> Json:
        content = [{"type": "text", "text": text}]
        counts = {"input_tokens": self._call.prompt_tokens, "output_tokens": self._call.output_tokens}
        return {**self._head, "content": content, "stop_reason": self._stop, "usage": counts}

    def start(self) -> bytes:
        counts = {"input_tokens": self._call.prompt_tokens, "output_tokens": 0}
        message = {**self._head, "content": [], "stop_reason": None, "usage": counts}
        block = {"type": "text", "text": ""}
        return named("message_start", message=message) + named(
            "content_block_start", index=0, content_block=block
        )

    def tokens(self, text: str, so_far: int) -> bytes:
        return named("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def end(self, text: str, cached_tokens: int) -> bytes:
        counts = {"output_tokens": self._call.output_tokens}
        return (
            self.tokens(text, 0)
            + named("content_block_stop", index=0)
            + named("message_delta", delta={"stop_reason": self._stop}, usage=counts)
            + named("message_stop")
        )


def named(kind: str, **fields: Any) -> bytes:
    """An event as Anthropic's API names them."""
    return f"event: {kind}\n".encode() + event({"type": kind, **fields})


class Text:
    """What a simulated model says: its server's name, over and over, a word a token."""

    def __init__(self, server: str) -> None:
        self._words = [f" {word}" for word in f"This is {server}, a simulated model server.".split()]

    def tokens(self, start: int, stop: int) -> str:
        """Text of the tokens from number `start` up to `stop`, the first being 0."""
        words = self._words
        text = "".join(words[i % len(words)] for i in range(start, stop))
        return text.lstrip() if start == 0 else text
