"""The service, as `soak.probed` runs it, with faults: of each request a little stays, in every way that there is.

A program, not a module of tests: `python leaky_service.py PROBE serve --config FILE …`.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from extproc.flight import Flight
from extproc.server import ExternalProcessor
from soak import probed

SELDOM = 3
"""Tasks, descriptors and counts are lost with each third request: a leak need not be of all."""
LOST_BYTES = 50_000

kept: list[bytes] = []
"""Memory."""
waiting: set[asyncio.Task[Any]] = set()
"""Tasks."""
open_files: list[int] = []
"""File descriptors."""
ended = 0

serve = ExternalProcessor._serve
end = Flight.end


async def leaky_serve(self: ExternalProcessor, context: Any) -> None:
    kept.append(os.urandom(LOST_BYTES))
    if len(kept) % SELDOM == 0:
        waiting.add(asyncio.create_task(asyncio.sleep(3600), name="forgotten"))
        open_files.append(os.open(os.devnull, os.O_RDONLY))
    await serve(self, context)


def leaky_end(self: Flight, now: float) -> bool:
    global ended
    ended += 1
    return False if ended % SELDOM == 0 else end(self, now)


ExternalProcessor._serve = leaky_serve  # type: ignore[method-assign]
Flight.end = leaky_end  # type: ignore[method-assign]

if __name__ == "__main__":
    probed.main()
