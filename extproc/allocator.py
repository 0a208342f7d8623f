"""What glibc keeps of the memory that bodies leave: enough that the next one need not ask the kernel again."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

KEPT_BYTES: Final = 8 * 2**20
"""Of freed memory, for each of malloc's arenas (a thread of gRPC's may have its own).  glibc begins with 128 KiB: a
body of 220 KB then costs 170 page faults, a third of a millisecond.  It would raise that by itself, up to 64 MiB,
and for ever, at the first large body."""
APART_BYTES: Final = 4 * 2**20
"""Larger blocks are the kernel's again the moment they are freed."""

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""Of malloc.h; mallopt(3)."""
_THEIRS: Final = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables by which an operator says what memory is to be kept, or who keeps it."""


def keep_freed_memory(environment: Mapping[str, str]) -> bool:
    """Whether glibc was told; not where *environment* tells it, nor where there is no glibc."""
    if any(name.startswith(_THEIRS) for name in environment):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all((mallopt(M_MMAP_THRESHOLD, APART_BYTES), mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)))
