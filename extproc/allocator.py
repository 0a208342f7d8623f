"""What is kept of the memory that bodies leave: enough that the next one need not ask the kernel again."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

KEPT_BYTES: Final = 8 * 2**20
"""Of freed memory, at the top of each arena.  glibc begins with 128 KiB: a body of 220 KB then costs 170 page faults, a
third of a millisecond.  It would raise that by itself, up to 64 MiB, and for ever, at the first large body."""
APART_BYTES: Final = 4 * 2**20
"""Larger blocks are the kernel's again the moment they are freed."""

ARENAS: Final = 2
"""Of malloc's; left alone each thread of gRPC's has its own, up to 8 for each core, and keeps as much there."""

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""Of malloc.h; mallopt(3)."""
_THEIRS: Final = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables by which an operator says what memory is to be kept, or who keeps it."""


def give_back() -> None:
    """Give the kernel what is free now, wherever in the heap it lies: M_TRIM_THRESHOLD looks at the top only.

    Takes 30 ms for each 100 MB, in which no other thread gets memory of this heap.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed_memory(environment: Mapping[str, str]) -> bool:
    """Whether glibc was told; not where *environment* tells it, nor where there is no glibc."""
    if any(name.startswith(_THEIRS) for name in environment):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((M_ARENA_MAX, ARENAS), (M_MMAP_THRESHOLD, APART_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES))
    taken = [mallopt(name, value) for name, value in settings]
    return all(taken)
