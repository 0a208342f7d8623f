"""`python -m fuzz.worker DIRECTORY`: fuzzes one target as the plan in DIRECTORY says, and leaves a report there.

A process of its own: what is found may end it, and libFuzzer never gives control back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from .guard import Guard, Word
from .mutator import Mutator
from .outcome import CORPUS, Outcome, Plan
from .target import Target
from .targets import load

PLAN, REPORT, WORD, SEEDS, WORDS = "plan.json", "report.json", "word", "seeds", "words"
INSTRUMENTED = ["extproc", "yaml"]
"""Whose branches count as coverage: ours, and those of the parser that is written in Python."""
Done = Callable[[Outcome], NoReturn]


def main(directory: Path) -> None:
    plan = msgspec.json.decode((directory / PLAN).read_bytes(), type=Plan)

    def done(outcome: Outcome) -> NoReturn:
        (directory / REPORT).write_bytes(msgspec.json.encode(outcome))
        os._exit(0)  # out of libFuzzer, too

    (_guided if plan.guided else _unguided)(plan, directory, done)


def _unguided(plan: Plan, directory: Path, done: Done) -> None:
    target = load(plan.target)
    guard = _guard(plan, target, directory, done)
    for data in Mutator(target, plan.seed):
        guard(data)


def _guided(plan: Plan, directory: Path, done: Done) -> None:
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

    with atheris.instrument_imports(include=INSTRUMENTED):
        target = load(plan.target)
    corpus, seeds = CORPUS / plan.target, directory / SEEDS
    corpus.mkdir(parents=True, exist_ok=True)
    seeds.mkdir()
    for number, seed in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(seed[: target.max_bytes])
    (directory / WORDS).write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens if token))
    arguments = [
        f"-seed={plan.seed}",
        f"-max_len={target.max_bytes}",
        f"-dict={directory / WORDS}",
        f"-artifact_prefix={directory}/",
        "-timeout=1000000",  # by the wall clock; we watch the CPU time ourselves
        "-rss_limit_mb=0",
        "-detect_leaks=0",
        "-verbosity=0",
    ]
    guard = _guard(plan, target, directory, done)
    atheris.Setup([sys.argv[0], *arguments, str(corpus), str(seeds)], guard)
    atheris.Fuzz()


def _guard(plan: Plan, target: Target, directory: Path, done: Done) -> Guard:
    return Guard(plan, target.run, Word(directory / WORD, target.max_bytes), done)


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
