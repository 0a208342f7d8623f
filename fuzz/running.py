"""Fuzzes targets in processes of their own, and notices those that never come back."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

import msgspec
import psutil

from .guard import read_word
from .outcome import CORPUS, MAX_HANG_S, MAX_START_S, MAX_STUCK_S, Outcome, Plan, keep
from .worker import PLAN, REPORT, WORD

LOOK_S = 0.5
"""Between two looks at a worker: a small part of MAX_HANG_S."""
LOG_LINES = 30
"""Of a worker that died: its last words, a traceback's length."""


def fuzz(plan: Plan) -> Outcome:
    """What came of *plan*."""
    with tempfile.TemporaryDirectory(prefix="extproc-fuzz-") as name:
        directory = Path(name)
        (directory / PLAN).write_bytes(msgspec.json.encode(plan))
        begun = monotonic()
        with (directory / "log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker", name], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            try:
                hangs = _watch(worker, directory / WORD)
            finally:
                worker.kill()
                worker.wait()
        if hangs or not (directory / REPORT).exists():
            outcome = _lost(plan, directory, hangs, worker.returncode)
            outcome.seconds = monotonic() - begun
        else:
            outcome = msgspec.json.decode((directory / REPORT).read_bytes(), type=Outcome)
    if plan.guided and (CORPUS / plan.target).exists():
        outcome.corpus = sum(1 for _ in (CORPUS / plan.target).iterdir())
    return outcome


def _watch(worker: subprocess.Popen[bytes], word: Path) -> bool:
    """Until it ends; True where it makes no progress any more."""
    process = psutil.Process(worker.pid)
    at, since, cpu_then = -1, monotonic(), 0.0
    while True:
        try:
            worker.wait(LOOK_S)
            return False
        except subprocess.TimeoutExpired:
            pass
        number, _ = read_word(word)
        try:
            cpu_s = sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            return False
        if number != at:
            at, since, cpu_then = number, monotonic(), cpu_s
        most_s = MAX_HANG_S if number else MAX_START_S
        if cpu_s - cpu_then > most_s or monotonic() - since > MAX_STUCK_S:
            return True


def _lost(plan: Plan, directory: Path, hangs: bool, code: int) -> Outcome:
    """The worker told nothing: what it was at is to blame."""
    inputs, data = read_word(directory / WORD)
    log = (directory / "log").read_text(errors="replace").splitlines()[-LOG_LINES:]
    outcome = Outcome(plan.target, "hang" if hangs else "died", inputs=inputs)
    outcome.detail = "\n".join(log) if not hangs else f"no end after {MAX_HANG_S:g} s of CPU"
    outcome.detail += f"\nexit status {code}" if not hangs else ""
    outcome.found = str(keep(plan.target, data)) if inputs or hangs else None
    return outcome
