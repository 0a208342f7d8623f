"""Requests of the OpenAI and Anthropic APIs: how many tokens they bring and want."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from math import ceil
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from extproc.sim.kv_cache import Contents
from extproc.sim.sequence import FinishReason

Json = dict[str, Any]

TOKEN_CHARS = 4
"""Of English, about as many characters are one token."""
BLOCK_TOKENS = 16
"""Of a KV block: vLLM's default on GPUs."""


class ApiError(Exception):
    """Answered in the shape of vLLM's ErrorResponse."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.param = status, kind, message, param

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})


def bad_request(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, "BadRequestError", message, param)


class Call(Struct, frozen=True):
    """A request to generate, whatever API it came by."""

    model: str
    """As the client wrote it."""
    prompt_tokens: int
    output_tokens: int
    max_tokens: int | None
    finish_reason: FinishReason
    stream: bool
    include_usage: bool = False
    continuous_usage: bool = False
    blocks: Contents = ()
    """Contents of the prompt's full blocks."""


class StreamOptions(Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class Body(Struct):
    """The fields that count; anything else is let pass."""

    model: str | None = None
    messages: list[Json] | UnsetType = UNSET
    prompt: str | list[Any] | UnsetType = UNSET
    input: str | list[Any] | UnsetType = UNSET
    system: str | list[Any] = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None


def decode(body: bytes) -> Body:
    """ApiError 400: not JSON, or a field of the wrong type."""
    try:
        return msgspec.json.decode(body, type=Body)
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise bad_request(f"{type(error).__name__}: {error}") from None


def generation(body: Body, model: str, max_model_len: int, draw: Callable[[], int]) -> Call:
    """`draw` tells the length of an answer that the client does not limit. ApiError 400: wants too much."""
    if body.n not in (None, 1):
        raise bad_request("n must be 1: this server is simulated", "n")
    text = prompt_text(body)
    prompt_tokens = len(text) // TOKEN_CHARS
    max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if max_tokens is not None and max_tokens < 1:
        raise bad_request(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens")
    room = max_model_len - prompt_tokens
    if room < (max_tokens or 1):
        raise bad_request(
            f"This model's maximum context length is {max_model_len} tokens. However, you requested "
            f"{max_tokens or 1} output tokens and your prompt contains {prompt_tokens} input tokens.",
            "input_tokens",
        )
    drawn = draw() if max_tokens is None else max_tokens
    options = body.stream_options or StreamOptions()
    return Call(
        model=model,
        prompt_tokens=prompt_tokens,
        output_tokens=min(drawn, room),
        max_tokens=max_tokens,
        finish_reason="length" if max_tokens is not None or drawn > room else "stop",
        stream=bool(body.stream),
        include_usage=options.include_usage,
        continuous_usage=options.continuous_usage_stats,
        blocks=contents(text),
    )


def count_prompt(body: Body) -> int:
    """Tokens of `messages` (with `system`), `prompt` or `input`, whichever is there."""
    return len(prompt_text(body)) // TOKEN_CHARS


def prompt_text(body: Body) -> str:
    """The whole prompt, TOKEN_CHARS characters a token."""
    if body.messages is not UNSET:
        return (token_text(body.system) if body.system else "") + chat_text(body.messages)
    if body.prompt is not UNSET:
        prompt = body.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise bad_request("only one prompt: this server is simulated", "prompt")
            prompt = prompt[0]
        return token_text(prompt)
    if body.input is not UNSET:
        return input_text(body.input)
    raise bad_request("messages, prompt or input is required")


def input_text(value: str | list[Any]) -> str:
    """Of an embedding's `input`: a text, tokens, or a list of either."""
    if isinstance(value, list) and value and not isinstance(value[0], int):
        return "".join(map(token_text, value))
    return token_text(value)


def chat_text(messages: list[Json]) -> str:
    """Four tokens a message for its role and marks, and its content; at least one token."""
    size = 4 * TOKEN_CHARS
    parts = [
        f"{message.get('role')}"[:size].ljust(size, "\0") + token_text(message.get("content") or [])
        for message in messages
    ]
    return "".join(parts) or token_text("")


def token_text(value: object) -> str:
    """About four characters a token; a list of numbers is tokens already; of parts, those with text count."""
    if isinstance(value, str):
        return value.ljust(TOKEN_CHARS * max(1, ceil(len(value) / TOKEN_CHARS)), "\0")
    if isinstance(value, list):
        texts = [part.get("text") for part in value if isinstance(part, dict)]
        if texts:
            return "".join(token_text(text) for text in texts if isinstance(text, str))
        return "".join(f"{item}"[-TOKEN_CHARS:].ljust(TOKEN_CHARS, "\0") for item in value)
    raise bad_request("a prompt must be a string, tokens or a list of parts")


def contents(text: str) -> Contents:
    """What stands in the full blocks of a prompt: each a hash of the block and all before it."""
    data = text.encode("utf-32-le", "surrogatepass")
    size = 4 * TOKEN_CHARS * BLOCK_TOKENS
    digest, blocks = b"", []
    for start in range(0, len(data) - size + 1, size):
        digest = blake2b(data[start : start + size], key=digest, digest_size=8).digest()
        content = int.from_bytes(digest)
        blocks.append(range(content, content + 1))
    return tuple(blocks)
