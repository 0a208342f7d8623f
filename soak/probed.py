"""`extproc`, with a probe: on SIGUSR1 it collects its garbage and writes what its memory holds.

Arguments: the file that the probe writes, then those of `extproc`.  Where PYTHONTRACEMALLOC is set, a snapshot of
tracemalloc goes to that file's name with `.trace` behind it.
"""

from __future__ import annotations

import asyncio
import collections
import ctypes
import gc
import json
import signal
import sys
import tracemalloc
from pathlib import Path
from typing import Any

from extproc.allocator import give_back

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
"""The first fields of glibc's `struct mallinfo2`; the one after them is of no interest."""


class _MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (*FIELDS, "keepcost")]


def main() -> None:
    """Run `extproc` with the rest of the arguments."""
    file = Path(sys.argv[1])
    signal.signal(signal.SIGUSR1, lambda number, frame: tell(file))
    sys.argv = ["extproc", *sys.argv[2:]]
    from extproc.cli import main as extproc

    extproc()


def tell(file: Path) -> None:
    """Write the figures, at once for who looks."""
    gc.collect()
    if tracemalloc.is_tracing():
        tracemalloc.take_snapshot().dump(f"{file}.trace")
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(figures()))
    fresh.replace(file)


def figures() -> dict[str, Any]:
    """Python's small blocks, its containers, the bytes of the C heap; what is free goes back to the system first."""
    objects = gc.get_objects()
    kinds = collections.Counter(type(each).__qualname__ for each in objects)
    tasks = (each for each in objects if isinstance(each, asyncio.Task) and not each.done())
    kinds.update(f"task {_name(task)}" for task in tasks)
    return {
        "blocks": sys.getallocatedblocks(),
        "objects": len(objects),
        "heap_bytes": heap_bytes(),
        "kinds": dict(kinds.most_common()),
    }


def heap_bytes() -> int:
    """What is allocated of the C heap; 0 where the C library is not glibc >= 2.33, which alone tells."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    give_back()
    libc.mallinfo2.restype = _MallInfo
    heap = libc.mallinfo2()
    return int(heap.uordblks + heap.hblkhd)


def _name(task: asyncio.Task[Any]) -> str:
    """What it does, without what tells it from its like."""
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", None) or type(coroutine).__qualname__


if __name__ == "__main__":
    main()
