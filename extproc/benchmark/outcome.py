"""What came of each call of a run."""

from __future__ import annotations

from msgspec import Struct


class Outcome(Struct, frozen=True, kw_only=True, gc=False):
    """One call.  Times in seconds from the start of the run."""

    call: int
    """Its index in the workload."""
    sent_s: float
    replica: int
    """Index of the replica that served it; -1: refused."""
    first_token_s: float
    finished_s: float
    """Of a refused call both are when it was refused."""
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    """Of the prompt, those that the replica had in its cache."""
    preemptions: int = 0
    queued_s: float = 0.0
    """How long the router held it."""
    priority: int = 0
    tenant: str = ""


class Run(Struct, frozen=True, kw_only=True):
    """One workload under one policy."""

    outcomes: list[Outcome]
    """Of the calls that count (sent after the warm-up), in the order of their end."""
    measured_s: float
    """How long calls that count were sent for; in a closed loop, the whole run."""
    kv_usage: list[tuple[float, tuple[float, ...]]]
    """Time, and the KV-cache usage of each replica (0..1) then, once a second."""
    simulated_s: float
    wall_s: float
    """How long simulating took."""
