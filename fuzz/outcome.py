"""What came of fuzzing one target, and what is asked of a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

from msgspec import Struct

HERE = Path(__file__).parent
FOUND, CORPUS = HERE / "found", HERE / "corpus"
"""Inputs that found a fault; inputs that reached something new, with which the next run begins."""

MAX_INPUT_S = 1.0
"""CPU of one input.  The slowest (a config of 2 KiB) takes a tenth with coverage counted; who needs so much for
some kilobytes stalls the event loop, and is quadratic or worse."""
MAX_HANG_S = 10.0
"""CPU after which an input is not waited for: a second is a fault, which only its end can tell."""
MAX_START_S = 60.0
"""The same before the second input: imports, which are instrumented, take ten of them."""
MAX_STUCK_S = 600.0
"""After so long without progress it is not waited for either: it waits for something, which nothing here should, or
others have the processor."""
MAX_GROWTH_BYTES = 48 * 1024 * 1024
"""Of the process, from warm-up to end.  The engine's own corpus and tables take up to half of it; a leak of 1 KB an
input makes 50 MB of the smallest share."""
MAX_GROWTH_BLOCKS = 15_000
"""Objects of Python's, likewise: some caches of 4,096 entries may fill up; a leak of one object an input makes more."""


class Plan(Struct, frozen=True):
    """How much is to be done for one target."""

    target: str
    inputs: int
    most_s: float
    """It ends after so long in any case."""
    seed: int
    guided: bool
    """By coverage, with atheris; else our own mutator."""


class Outcome(Struct):
    """What was done, and what it showed."""

    target: str
    verdict: str = "ok"
    """`ok`, `time up` (fewer inputs than asked for), or a fault: `crash`, `slow`, `hang`, `grew`, `died`."""
    detail: str = ""
    inputs: int = 0
    seconds: float = 0.0
    corpus: int = 0
    slowest_s: float = 0.0
    growth_bytes: int = 0
    growth_blocks: int = 0
    found: str | None = None
    """The file with the input that is to blame."""

    @property
    def is_fault(self) -> bool:
        return self.verdict not in ("ok", "time up")


def keep(target: str, data: bytes, directory: Path = FOUND) -> Path:
    """Write an input that found a fault."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{target}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path
