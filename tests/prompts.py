"""Prompts as the router sees them: hashes of their beginnings, each of all that came before."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from extproc.request import CHECKPOINTS, Prompt


def beginnings(*parts: tuple[str, int]) -> tuple[int, ...]:
    """Hashes of a text made of *parts*, (what it says, for how many checkpoints)."""
    return chain([name for name, count in parts for _ in range(count)])


def chain(pieces: Sequence[object]) -> tuple[int, ...]:
    """Hashes of the beginnings of *pieces*, one checkpoint each."""
    hashes, so_far = [], 0
    for piece in pieces:
        so_far = xxhash.xxh3_64_intdigest(f"{so_far}/{piece}".encode())
        hashes.append(so_far)
    return tuple(hashes)


def prompt(*parts: tuple[str, int]) -> Prompt:
    """A prompt as long as its last checkpoint."""
    hashes = beginnings(*parts)
    return Prompt(CHECKPOINTS[len(hashes) - 1], hashes)
