"""A small engine, and all that comes out of it."""

from __future__ import annotations

from typing import Any

from extproc.sim.engine import Engine, EngineConfig
from extproc.sim.profiles import GpuProfile
from extproc.sim.sequence import Event, Request

# Powers of two, so that every sum is exact and tests can say ==.
PROFILE = GpuProfile(base_s=1.0, token_s=0.5, context_s=2**-10, sequence_s=0.25, num_blocks=0)


def engine(**changes: Any) -> Engine:
    return Engine(EngineConfig(**{"profile": PROFILE, "num_blocks": 1000, **changes}))


def request(name: str = "r", prompt: int = 16, output: int = 3, **more: Any) -> Request:
    return Request(id=name, prompt_tokens=prompt, output_tokens=output, **more)


def run(subject: Engine, now: float = 0.0) -> list[Event]:
    """All events until nothing is left to do."""
    events: list[Event] = []
    while (due := subject.next_event(now)) is not None:
        now = due
        events += subject.advance(now)
    return events


def times(events: list[Event]) -> list[tuple[str, str, float]]:
    return [(type(event).__name__, event.id, event.at_s) for event in events]
