"""One inference request as the core sees it, and which API its path belongs to."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from msgspec import Struct

Headers = Mapping[str, str]
"""Lower-case names to values."""


class Api(enum.Enum):
    """What a path promises about the body."""

    MODEL_REQUIRED = enum.auto()
    """A JSON object with a top-level `model`, or the request is refused."""
    MODEL_OPTIONAL = enum.auto()
    """JSON; without a `model` it goes to the default pool untouched."""
    FORM = enum.auto()
    """multipart/form-data; without a `model` it goes to the default pool untouched."""
    MODEL_LIST = enum.auto()
    """`/v1/models`, `/v1/models/NAME`: answered by us."""
    OTHER = enum.auto()
    """Anything else: JSON if its content type says so, else not ours to read."""


# The ends of paths: any prefix may stand in front (`/openai/v1/chat/completions`).
# OpenAI, Anthropic (messages), Cohere (v2/embed, rerank), SageMaker (invocations) and vLLM's own.
_REQUIRED = (
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "messages/count_tokens",
)
_OPTIONAL = (
    "tokenize",
    "detokenize",
    "pooling",
    "classify",
    "score",
    "generative_scoring",
    "rerank",
    "v2/embed",
    "inference/v1/generate",
    "invocations",
    "moderations",
    "images/generations",
    "audio/speech",
    "chat/completions/batch",
    "chat/completions/render",
    "completions/render",
)
_FORM = ("audio/transcriptions", "audio/translations")
_REQUIRED_ENDS = tuple("/" + end for end in _REQUIRED)
_OPTIONAL_ENDS = tuple("/" + end for end in _OPTIONAL)
_FORM_ENDS = tuple("/" + end for end in _FORM)


def api_of(method: str, path: str) -> Api:
    """The API that *path* (query and trailing slash do not count) belongs to."""
    path = plain_path(path).rstrip("/")
    if method == "GET" and (path.endswith("/v1/models") or "/v1/models/" in path):
        return Api.MODEL_LIST
    if path.endswith(_REQUIRED_ENDS):
        return Api.MODEL_REQUIRED
    if path.endswith(_OPTIONAL_ENDS):
        return Api.MODEL_OPTIONAL
    return Api.FORM if path.endswith(_FORM_ENDS) else Api.OTHER


def bare_path(path: str) -> str:
    """*path* without query and fragment."""
    return path.partition("?")[0].partition("#")[0]


def plain_path(path: str) -> str:
    """The same with percent-encoding undone, once: that is what model servers route by (ASGI's `path`)."""
    return unquote(bare_path(path))


def _checkpoints() -> tuple[int, ...]:
    positions, position = [], 0
    while position < MAX_PREFIX_TOKENS:
        position += max(64, position // 1024 * 64)
        positions.append(position)
    return tuple(positions)


MAX_PREFIX_TOKENS = 131_072
"""Longer beginnings are not told apart: few models take longer prompts."""
CHECKPOINTS = _checkpoints()
"""After how many tokens a prompt's beginning is hashed: every 64 at first, later every sixteenth of what went before,
so that 8,000 tokens take 57 hashes and the place where two prompts part is known within 6 %."""


class Prompt(Struct, frozen=True, gc=False):
    """What can be known of a prompt before a model server has it."""

    tokens: int = 0
    """How long it is, estimated from its bytes; 0: unknown."""
    prefix: tuple[int, ...] = ()
    """Hashes (64 bits) of its first CHECKPOINTS[0], CHECKPOINTS[1], … tokens, as many as it has."""
    max_output_tokens: int | None = None
    """The client's limit."""


NO_PROMPT = Prompt()


class InferenceRequest(Struct, gc=False):
    """What the deciding core is asked about."""

    headers: Headers
    model: str | None
    """The client's model name; None where the request has none."""
    body_bytes: int = 0
    prompt: Prompt = NO_PROMPT
    subset: frozenset[str] | None = None
    """Addresses (`ip` or `ip:port`) that a subset hint allows; None: no hint."""
    target_model: str = ""
    """What the model server calls it; filled in once the target is drawn."""
    is_adapter: bool = False
    """Whether an endpoint ever told of `target_model` as a LoRA adapter."""
    cached: Mapping[Any, int] = {}
    """Endpoints that probably have a beginning of the prompt in their cache, and how many tokens of it."""
    expected: Mapping[Any, int] = {}
    """`cached`, with what the requests of others may have left there."""
