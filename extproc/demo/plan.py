"""What the demo sends and when: pure, drawn from a seed, so that two runs get the very same requests."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

ALIAS = "qwq"
STICKY_ALIAS = "qwq-sticky"
BASE = "qwq-32b"
CANARY = "qwq-32b-v2"
UNKNOWN = "no-such-model"
USERS = 8
"""Few enough that each comes back several times in a short demo."""

SHORT_PROMPT, LONG_PROMPT = 200, 4000
"""Mean prompt lengths in tokens: a question, and a question about a document."""
SHORT_ANSWER, LONG_ANSWER = 60, 200
"""Mean answer lengths in tokens."""
LONGEST_ANSWER = 400
BATCH_ANSWER = 100
SPREAD = (0.6, 1.4)
"""Prompts vary by this factor around their mean; answers vary as chat answers do, exponentially."""

CHARS_PER_TOKEN = 4
TEXT = "The river carries what a patient reader would call news of rain from hills nobody here has seen. "


@dataclass(frozen=True)
class PlannedRequest:
    """One chat completion."""

    at_s: float
    """Since the start of the plan."""
    model: str
    prompt_tokens: int
    """About: of English text, at four characters each."""
    max_tokens: int
    """Exact length of the answer: the model servers are told to ignore their end-of-text token."""
    stream: bool
    user: str | None = None

    @property
    def is_long(self) -> bool:
        return self.prompt_tokens > SHORT_PROMPT * SPREAD[1]

    def body(self) -> dict[str, object]:
        """The request as an OpenAI client sends it (`ignore_eos` is vLLM's)."""
        chars = self.prompt_tokens * CHARS_PER_TOKEN
        prompt = (TEXT * (chars // len(TEXT) + 1))[:chars]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.max_tokens,
            "ignore_eos": True,
            "stream": self.stream,
        }


def mixed_traffic(seed: int, duration_s: float, rate: float) -> list[PlannedRequest]:
    """A bit of everything: both aliases, streamed or not, few long prompts, now and then an unknown model.

    `rate`: requests a second, which come at random (Poisson).
    """
    rng = random.Random(seed)
    plan: list[PlannedRequest] = []
    for at_s in _arrivals(rng, rate):
        if at_s > duration_s:
            return plan
        model = rng.choices([ALIAS, STICKY_ALIAS, UNKNOWN], [70, 26, 4])[0]
        user = f"user-{rng.randrange(USERS)}" if model == STICKY_ALIAS else None
        prompt, answer = _lengths(rng, long_share=0.03)
        plan.append(PlannedRequest(at_s, model, prompt, answer, rng.random() < 0.7, user))
    raise AssertionError("arrivals have no end")


def burst(seed: int, count: int, rate: float, long_share: float) -> list[PlannedRequest]:
    """`count` streamed requests for the model of all pods; `long_share` of the prompts are 20x longer."""
    rng = random.Random(seed)
    plan: list[PlannedRequest] = []
    for at_s, _ in zip(_arrivals(rng, rate), range(count), strict=False):
        prompt, answer = _lengths(rng, long_share)
        plan.append(PlannedRequest(at_s, BASE, prompt, answer, stream=True))
    return plan


def batch_job(worker: int) -> Iterator[PlannedRequest]:
    """What one worker of another team's batch job asks for, one after the other without end: long documents."""
    rng = random.Random(worker)
    while True:
        prompt, answer = (int(mean * rng.uniform(*SPREAD)) for mean in (LONG_PROMPT, BATCH_ANSWER))
        yield PlannedRequest(0.0, BASE, prompt, answer, stream=False)


def _arrivals(rng: random.Random, rate: float) -> Iterator[float]:
    at_s = 0.0
    while True:
        yield at_s
        at_s += rng.expovariate(rate)


def _lengths(rng: random.Random, long_share: float) -> tuple[int, int]:
    """Tokens of the prompt and of the answer."""
    prompt, answer = (LONG_PROMPT, LONG_ANSWER) if rng.random() < long_share else (SHORT_PROMPT, SHORT_ANSWER)
    return int(prompt * rng.uniform(*SPREAD)), max(4, min(LONGEST_ANSWER, int(rng.expovariate(1 / answer))))
