"""What a workload is: calls of clients, and the replicas that serve them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from extproc.sim.engine import EngineConfig

BLOCK_TOKENS = 16
"""Tokens of a KV block, of which contents are told apart."""


class Call(Struct, frozen=True, kw_only=True, gc=False):
    """One request of a client."""

    at_s: float = 0.0
    """When it is sent, from the start of the run; in a closed loop, the earliest."""
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[range, ...] = ()
    """Contents of prompt and answer: one integer for each full block of BLOCK_TOKENS, in their order, as ranges that
    follow each other.  Equal integers: the block and all before it are equal.  What goes beyond them (or all, where
    this is empty) is like nothing else."""
    lora: str | None = None
    """The adapter that it asks for."""
    tenant: str = ""
    session: str = ""
    """Calls of one conversation have the same."""
    priority: int = 0
    """1 Critical, 0 Standard, -1 Sheddable."""


class Replica(Struct, frozen=True, kw_only=True):
    """One model server."""

    engine: EngineConfig
    labels: dict[str, str] = {}


class Workload(Struct, frozen=True, kw_only=True):
    """A run's input, made from a seed."""

    name: str
    replicas: tuple[Replica, ...]
    calls: Sequence[Call]
    """In the order of `at_s`."""
    duration_s: float
    """Until when calls are sent."""
    warmup_s: float = 0.0
    """Calls sent before are served and not measured: caches and queues are empty at first."""
    concurrency: int | None = None
    """None: open loop, calls come when they come.  Else closed: so many clients, each sending the next call when its
    last one ended; `duration_s` then does not count."""
