"""Runs inputs one by one: watches their CPU time, the process's memory, and leaves word of what it is at."""

from __future__ import annotations

import gc
import mmap
import os
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from time import monotonic, thread_time

import psutil

from .outcome import MAX_GROWTH_BLOCKS, MAX_GROWTH_BYTES, MAX_INPUT_S, Outcome, Plan, keep

_HEAD = struct.Struct("<QI")
EVERY = 256
"""After so many inputs memory and time are looked at."""
WARM_UP = 4
"""The first quarter fills caches, pools of memory, and most of the corpus."""


class Word:
    """A file that tells another process which input is being run, should this one never come back from it."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        size = _HEAD.size + max_bytes
        path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)

    def leave(self, number: int, data: bytes) -> None:
        self._map[: _HEAD.size] = _HEAD.pack(number, len(data))
        self._map[_HEAD.size : _HEAD.size + len(data)] = data


def read_word(path: Path) -> tuple[int, bytes]:
    """(how many inputs, the last of them) of a `Word`; 0 where there is none yet."""
    try:
        word = path.read_bytes()
    except OSError:
        return 0, b""
    if len(word) < _HEAD.size:
        return 0, b""
    number, size = _HEAD.unpack_from(word)
    return number, word[_HEAD.size : _HEAD.size + size]


class Guard:
    """Calls a target, until its plan is fulfilled or it is at fault: then tells *done* of it."""

    def __init__(
        self, plan: Plan, run: Callable[[bytes], None], word: Word, done: Callable[[Outcome], None]
    ) -> None:
        self.outcome = Outcome(plan.target)
        self._plan = plan
        self._run = run
        self._word = word
        self._done = done
        self._begun = monotonic()
        self._parent = os.getppid()
        self._process = psutil.Process()
        self._base: tuple[int, int] | None = None

    def __call__(self, data: bytes) -> None:
        outcome = self.outcome
        self._word.leave(outcome.inputs, data)
        before = thread_time()
        try:
            self._run(data)
        except Exception as error:
            self._blame("crash", "".join(traceback.format_exception(error)), data)
            return
        took_s = thread_time() - before
        outcome.inputs += 1
        outcome.slowest_s = max(outcome.slowest_s, took_s)
        if took_s > MAX_INPUT_S:
            self._blame("slow", f"{took_s:.1f} s of CPU for {len(data)} bytes", data)
        elif outcome.inputs % EVERY == 0 or outcome.inputs >= self._plan.inputs:
            self._look()

    def _look(self) -> None:
        outcome = self.outcome
        ended = outcome.inputs >= self._plan.inputs
        late = monotonic() - self._begun > self._plan.most_s or self._is_orphan
        if self._base is None and outcome.inputs >= self._plan.inputs // WARM_UP:
            self._base = self._memory()
        elif self._base is not None:
            growth = self._process.memory_info().rss - self._base[0]
            outcome.growth_bytes = max(outcome.growth_bytes, growth)
        if ended or late:
            outcome.verdict = "ok" if ended else "time up"
            self._check_growth()
            self._end()

    @property
    def _is_orphan(self) -> bool:
        """Who asked for this is gone."""
        return os.getppid() != self._parent

    def _check_growth(self) -> None:
        outcome = self.outcome
        if self._base is None:
            return
        outcome.growth_blocks = self._memory()[1] - self._base[1]
        if outcome.growth_bytes > MAX_GROWTH_BYTES or outcome.growth_blocks > MAX_GROWTH_BLOCKS:
            outcome.verdict = "grew"
            outcome.detail = f"{outcome.growth_bytes / 1e6:.0f} MB, {outcome.growth_blocks} objects"

    def _memory(self) -> tuple[int, int]:
        """(bytes of the process, objects of Python's)."""
        gc.collect()
        return self._process.memory_info().rss, sys.getallocatedblocks()

    def _blame(self, verdict: str, detail: str, data: bytes) -> None:
        self.outcome.verdict, self.outcome.detail = verdict, detail
        self.outcome.found = str(keep(self.outcome.target, data))
        self._end()

    def _end(self) -> None:
        self.outcome.seconds = monotonic() - self._begun
        self._done(self.outcome)
