"""The time of one decision with the built-in default, by number of endpoints; and of reading what it rests on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import thread_time

from extproc.body import BodyReader
from extproc.prompt import read_prompt
from extproc.request import InferenceRequest, Prompt

from .busy_fleet import PROMPT_CHECKPOINTS, PROMPT_TOKENS, BusyFleet
from .figure import Figure

REACH_US = {5: None, 100: 100.0, 1_000: 1_000.0}
"""Of requests whose prompt is unknown."""
PROMPT_REACH_US = {5: None, 100: 250.0, 1_000: 1_500.0}
ROUNDS = 30
REQUESTS = 64
"""Different ones, so that no cache of the processor's holds just what is asked for."""


def measure(directory: Path) -> Iterator[Figure]:
    how = f"CPU, best of {ROUNDS}"
    for count in REACH_US:
        fleet = BusyFleet(count)
        plain, known = _decision_s(fleet, [Prompt()]), _decision_s(fleet, fleet.prompts(REQUESTS))
        yield Figure(f"a decision among {count} endpoints", plain * 1e6, "µs", REACH_US[count], how)
        yield Figure(
            f"… with a 32 KB prompt, {PROMPT_CHECKPOINTS} hashes",
            known * 1e6,
            "µs",
            PROMPT_REACH_US[count],
            how,
        )
        yield Figure("… and counting it until its end", _flight_s(fleet) * 1e6, "µs", None, how)
    body = _body(PROMPT_TOKENS * 4)
    yield Figure("reading a 32 KB body", _best_s(lambda: _read(body), 100) * 1e6, "µs", None, how)
    reader = _reader(body)
    prompt_s = _best_s(lambda: _exhaust(read_prompt(reader)), 100)
    yield Figure("… of that, its prompt", prompt_s * 1e6, "µs", None, how)


def _decision_s(fleet: BusyFleet, prompts: list[Prompt]) -> float:
    """Seconds a decision; nothing is counted, so that all are made in the same state."""
    requests = [InferenceRequest({}, "m", prompt=prompt) for prompt in prompts]
    rng = random.Random(1)
    decide, now = fleet.router.decide, fleet.now
    times = max(1, (20_000 // len(fleet.endpoints) + 20) // len(requests))

    def all_of_them() -> None:
        for request in requests:
            decide(request, now, rng)

    return _best_s(all_of_them, times) / len(requests)


def _flight_s(fleet: BusyFleet) -> float:
    """Seconds that it takes to count a request that is known to go somewhere, and to end it."""
    decisions = fleet.decisions(fleet.prompts(REQUESTS))

    def all_of_them() -> None:
        for decision in decisions:
            fleet.fly(decision)

    return _best_s(all_of_them, 5) / len(decisions)


def _body(size: int) -> bytes:
    words = random.Random(1)
    text = " ".join("".join(words.choices("etaoinshrdlu", k=words.randrange(2, 9))) for _ in range(size // 6))
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text[:size]}]}).encode()


def _reader(body: bytes) -> BodyReader:
    reader = BodyReader()
    _exhaust(reader.feed(body))
    _exhaust(reader.finish())
    return reader


def _read(body: bytes) -> None:
    _exhaust(read_prompt(_reader(body)))


def _exhaust(steps: Iterable[object]) -> None:
    for _ in steps:
        pass


def _best_s(action: Callable[[], None], times: int) -> float:
    """CPU seconds of one *action*, in the least disturbed of ROUNDS, as timeit has it."""
    return min(_round_s(action, times) for _ in range(ROUNDS))


def _round_s(action: Callable[[], None], times: int) -> float:
    begun = thread_time()
    for _ in range(times):
        action()
    return (thread_time() - begun) / times
