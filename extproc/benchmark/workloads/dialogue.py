"""Prompts that grow: each call's prompt is the one before with its answer and something new."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.benchmark.workload import BLOCK_TOKENS, Call

DIALOGUE_BLOCKS = 1 << 20
"""Integers set aside for each dialogue's own contents: more than any context has blocks."""


def contents(shared: Sequence[range], own: int, tokens: int) -> tuple[range, ...]:
    """Blocks of the first *tokens* tokens: what is shared, then those of dialogue number *own* (from 0)."""
    left = tokens // BLOCK_TOKENS
    pieces = []
    for piece in (*shared, range(DIALOGUE_BLOCKS * (own + 1), DIALOGUE_BLOCKS * (own + 2))):
        if left > 0:
            pieces.append(piece[:left])
            left -= len(piece)
    return tuple(pieces)


def by_time(calls: list[Call], duration_s: float) -> list[Call]:
    """Those of a run, in the order in which they are sent."""
    return sorted((call for call in calls if 0 <= call.at_s < duration_s), key=lambda call: call.at_s)
