"""How fast a model server works, measured from its own counters.

An engine works in iterations: each costs a fixed time (weights are read, bookkeeping) plus a time for each token that
it computes of prompts (survey: step = a + b·tokens; Vidur, arXiv 2405.05465).  Between two scrapes the counters tell
how many iterations it made and how many prompt tokens it computed; least squares with a fading memory tell a and b.
"""

from __future__ import annotations

from .engine_metrics import EngineMetrics, fell

FORGET_S = 300.0
"""Busy seconds over which the fit fades: hardware changes slowly, and short memories take noise for a difference."""
MAX_GAP_S = 10.0
"""Readings further apart say little: the engine may have been idle in between."""
MIN_BUSY_S = 20.0
"""Busy time before the fit is believed: earlier it misjudges equal servers by up to half."""
WINDOW_S = 2.0
"""Figures are taken together for so long: engines count a prompt when all of it is computed, which may be some scrapes
after the time went into it, and what is counted beside its time makes prompts look cheaper than they are."""
REMEMBERED_ANSWERS = 500
"""Over how many answers their mean length fades."""
MIN_ANSWERS = 5
"""Answers before their mean length is believed."""
CHUNK_TOKENS = 2048
"""Prompt tokens that an iteration computes at most: vLLM's default `max_num_batched_tokens` for servers."""
RIDGE = 1e-3
"""Keeps the fit defined where prompts and iterations always came in the same proportion."""


class StepTime:
    """The fit of one endpoint; both figures 0 until known."""

    __slots__ = (
        "_answer_tokens",
        "_answers",
        "_nn",
        "_np",
        "_nt",
        "_pp",
        "_pt",
        "_window",
        "busy_s",
        "iteration_s",
        "mean_output",
        "prefill_rate",
        "step_s",
        "token_s",
    )

    def __init__(self) -> None:
        self.step_s = 0.0
        """Seconds an iteration, as batches have been lately."""
        self.token_s = 0.0
        """Seconds a prompt token more."""
        self.busy_s = 0.0
        """Time that the fit rests on, faded."""
        self.iteration_s = 0.0
        """Seconds an iteration of the last seconds took, prompts included: the time between two tokens; 0: idle."""
        self.prefill_rate = 0.0
        """Prompt tokens a second while it does little else; 0: unknown."""
        self.mean_output = 0.0
        """Tokens of an answer, on average; 0: unknown."""
        self._nn = self._np = self._pp = self._nt = self._pt = 0.0
        self._window = [0.0, 0.0, 0.0]
        """Seconds, iterations and computed tokens not yet taken into the fit."""
        self._answers = self._answer_tokens = 0.0

    @property
    def tokens_per_step(self) -> float:
        """Prompt tokens of an iteration, on average."""
        return 1000 * self._np / self._nn if self._nn else 0.0

    def measure(self, before: EngineMetrics, after: EngineMetrics, elapsed_s: float) -> None:
        """Take in two readings of an engine's counters that are *elapsed_s* apart."""
        self._measure_answers(before, after)
        if elapsed_s > MAX_GAP_S or fell(before.iterations_total, after.iterations_total):
            self._window = [0.0, 0.0, 0.0]
            return
        if not (before.running and after.running):
            if not after.running:
                self.iteration_s = 0.0
            return  # it may have been idle in between
        self._window[0] += elapsed_s
        self._window[1] += _grown(before.iterations_total, after.iterations_total)
        self._window[2] += max(0.0, _computed(after) - _computed(before))
        if self._window[0] >= WINDOW_S:
            self.iteration_s = self._window[0] / self._window[1] if self._window[1] >= 1 else 0.0
            self.observe(*self._window)
            self._window = [0.0, 0.0, 0.0]

    def _measure_answers(self, before: EngineMetrics, after: EngineMetrics) -> None:
        finished = _grown(before.requests_finished_total, after.requests_finished_total)
        tokens = _grown(before.generation_tokens_total, after.generation_tokens_total)
        if tokens <= 0 and finished <= 0:
            return
        keep = 1.0 - finished / REMEMBERED_ANSWERS if finished < REMEMBERED_ANSWERS else 0.0
        self._answers = self._answers * keep + finished
        self._answer_tokens = self._answer_tokens * keep + tokens
        if self._answers >= MIN_ANSWERS:
            self.mean_output = self._answer_tokens / self._answers

    def observe(self, elapsed_s: float, iterations: float, tokens: float) -> None:
        """*iterations* and computed prompt *tokens* in *elapsed_s*, during which the engine was never idle."""
        if elapsed_s <= 0 or iterations < 1 or tokens < 0:
            return
        keep = max(0.0, 1.0 - elapsed_s / FORGET_S)
        kilo = tokens / 1000
        # intervals are weighted by 1/duration: their errors grow with it
        weight = 1.0 / elapsed_s
        self._nn = self._nn * keep + weight * iterations * iterations
        self._np = self._np * keep + weight * iterations * kilo
        self._pp = self._pp * keep + weight * kilo * kilo
        self._nt = self._nt * keep + weight * iterations * elapsed_s
        self._pt = self._pt * keep + weight * kilo * elapsed_s
        self.busy_s = self.busy_s * keep + elapsed_s
        if self.busy_s >= MIN_BUSY_S:
            self._solve()

    def _solve(self) -> None:
        nn, pp = self._nn * (1 + RIDGE), self._pp * (1 + RIDGE) + 1e-12
        det = nn * pp - self._np * self._np
        step_s = (self._nt * pp - self._pt * self._np) / det
        kilo_s = (self._pt * nn - self._nt * self._np) / det
        if step_s <= 0 or kilo_s < 0:  # noise: explain everything by the one that can
            step_s, kilo_s = self._nt / nn, 0.0
        self.step_s, self.token_s = step_s, kilo_s / 1000
        self.prefill_rate = 1.0 / (self.token_s + step_s / CHUNK_TOKENS)


def _grown(before: float | None, after: float | None) -> float:
    """By how much a counter grew; 0 where it is unknown or began anew."""
    return max(0.0, after - before) if before is not None and after is not None else 0.0


def _computed(metrics: EngineMetrics) -> float:
    """Prompt tokens computed since the start: without those that the prefix cache gave."""
    return (metrics.prompt_tokens_total or 0.0) - (metrics.prefix_cache_hits_total or 0.0)
