"""W3C Trace Context (level 1): what `traceparent` says, and what of it one request keeps.

https://www.w3.org/TR/trace-context-1/ .  Pure: ids are drawn by whoever samples.
"""

from __future__ import annotations

import re

from msgspec import Struct

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
SAMPLED = 0x01

_VERSION_00 = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LATER = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
"""Versions to come may add fields behind a dash; what is before them stays as it is (section 4.2.2)."""


class Parent(Struct, frozen=True, gc=False):
    """The span that a request comes from."""

    trace_id: int
    """128 bits, not 0."""
    span_id: int
    """64 bits, not 0."""
    sampled: bool
    """Whether it is recorded, as its `traceparent` says."""


class Trace(Struct, frozen=True, gc=False):
    """The span of one request, before it ends."""

    trace_id: int
    span_id: int
    parent: Parent | None
    sampled: bool
    """Whether it will be told."""
    header: str | None = None
    """The `traceparent` that the model server is to get; None: what the client sent goes on, if anything."""
    state: str = ""
    """The parent's `tracestate`."""


def parse(text: str | None) -> Parent | None:
    """What a `traceparent` of *text* says; None for none, or one that is not valid (section 3.2)."""
    if text is None:
        return None
    found = _VERSION_00.fullmatch(text) if text.startswith("00") else _LATER.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id = int(found[1], 16), int(found[2], 16)
    if not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(found[3], 16) & SAMPLED))


def header(trace_id: int, span_id: int) -> str:
    """The `traceparent` of a sampled span."""
    return f"00-{trace_id:032x}-{span_id:016x}-{SAMPLED:02x}"
