"""Requests as the engine sees them, and what it tells about them."""

from __future__ import annotations

import enum
from typing import Literal

from msgspec import Struct

from extproc.sim.kv_cache import Contents, Held

FinishReason = Literal["stop", "length"]


class Request(Struct, frozen=True, kw_only=True, gc=False):
    """Work for an engine. Its output length is known beforehand: nothing is computed."""

    id: str
    prompt_tokens: int
    output_tokens: int
    """0 for embeddings and the like: over when the prompt is computed."""
    max_tokens: int | None = None
    """The limit the client set, for the histogram only."""
    finish_reason: FinishReason = "stop"
    lora: str | None = None
    stream: bool = False
    """Whether every token is an event."""
    blocks: Contents = ()
    """Contents of prompt and answer: one integer for each full block of the engine's `block_size`, in their order,
    as ranges that follow each other. Equal integers: the block and all before it are equal. Blocks beyond what is
    given are like no others."""


class FirstToken(Struct, frozen=True, gc=False):
    id: str
    at_s: float


class Token(Struct, frozen=True, gc=False):
    """Each further token, of requests with `stream` only."""

    id: str
    at_s: float


class Finished(Struct, frozen=True, gc=False):
    """The end of a request, after its last token at the same time. Times in seconds on the engine's clock."""

    id: str
    at_s: float
    reason: FinishReason
    request: Request
    arrival_s: float
    admitted_s: float
    """When its first prefill began; preemptions do not change it."""
    first_token_s: float
    preemptions: int
    cached_tokens: int = 0
    """Of the prompt, those found in the prefix cache when it was first admitted."""


Event = FirstToken | Token | Finished


class Phase(enum.Enum):
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    OVER = "over"


class Sequence:
    """State of one request. While it decodes, `generated` is as of `first_step`: one token a step since.

    Steps are the iterations that decode; without chunked prefill others lie between them.
    """

    __slots__ = (
        "admitted_at",
        "arrival",
        "cached_tokens",
        "computed",
        "first_step",
        "first_token_at",
        "generated",
        "held",
        "last_step",
        "last_token_at",
        "order",
        "phase",
        "preemptions",
        "request",
        "target",
    )

    def __init__(self, request: Request, order: int, arrival: float) -> None:
        self.request = request
        self.order = order
        """Lower ones are first in the queue."""
        self.arrival = arrival
        self.phase = Phase.WAITING
        self.target = request.prompt_tokens
        """Tokens to compute before it decodes: the prompt, and after a preemption also what it generated."""
        self.computed = 0
        self.held: Held | None = None
        """Its KV blocks, while it is in the batch."""
        self.cached_tokens = 0
        self.generated = 0
        self.first_step = 0
        """Steps that had ended when it began to decode."""
        self.last_step = -1
        """Steps that will have ended with its last token; -1: it does not decode."""
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at = 0.0
        """As of when it began to decode, or was preempted."""
        self.preemptions = 0

    def admit(self, at: float, held: Held, cached_tokens: int) -> None:
        self.phase = Phase.PREFILL
        self.held = held
        self.computed = cached_tokens
        if self.admitted_at is None:
            self.admitted_at = at
            self.cached_tokens = cached_tokens

    def start_decoding(self, step: int, at: float) -> None:
        self.phase = Phase.DECODE
        self.first_step = step
        self.last_step = step + self.request.output_tokens - self.generated
        self.last_token_at = at

    def stop_decoding(self, step: int, last_token_at: float) -> None:
        self.generated += step - self.first_step
        self.last_step = -1
        self.last_token_at = last_token_at

    def requeue(self, order: int) -> None:
        self.order = order
        self.phase = Phase.WAITING
        self.target = self.request.prompt_tokens + self.generated
        self.computed = 0
        self.preemptions += 1

    def finish(self, at: float) -> Finished:
        assert self.admitted_at is not None
        assert self.first_token_at is not None
        return Finished(
            id=self.request.id,
            at_s=at,
            reason=self.request.finish_reason,
            request=self.request,
            arrival_s=self.arrival,
            admitted_s=self.admitted_at,
            first_token_s=self.first_token_at,
            preemptions=self.preemptions,
            cached_tokens=self.cached_tokens,
        )
