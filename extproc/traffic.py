"""All requests of an endpoint, as its counters tell, and how many of them were ours."""

from __future__ import annotations

import math

from .engine_metrics import EngineMetrics

FADE_S = 60.0
"""Over how long an endpoint's traffic fades: some hundred requests, so that shares are known within some percent."""
DOUBT = 5.0
"""So many requests of ours are taken to have come beforehand: of few, one that is counted late would look like another
router's."""


class Traffic:
    """What an endpoint's counters tell of all requests there, and how many of them were ours."""

    __slots__ = ("_elapsed_s", "_ended", "all", "ours", "tokens")

    def __init__(self, ended: int = 0) -> None:
        """*ended*: requests of ours that are no part of it, as they ended before."""
        self.ours = 0.0
        """Requests of ours that ended, faded."""
        self.all = 0.0
        """Requests that ended, faded likewise."""
        self.tokens = 0.0
        """Prompt tokens computed, faded likewise."""
        self._elapsed_s = 0.0
        self._ended = ended

    def measure(self, before: EngineMetrics, after: EngineMetrics, ended: int, elapsed_s: float) -> None:
        """Two scrapes *elapsed_s* apart; *ended*: how many requests of ours ever did."""
        finished = _grown(before.requests_finished_total, after.requests_finished_total)
        tokens = _grown(before.prompt_tokens_total, after.prompt_tokens_total)
        cached = _grown(before.prefix_cache_hits_total, after.prefix_cache_hits_total)
        ours, self._ended = ended - self._ended, ended
        if finished is None or tokens is None:
            return
        keep = math.exp(-elapsed_s / FADE_S)
        self.ours = self.ours * keep + ours
        self.all = self.all * keep + finished
        # What the cache gives is counted at a prefill's beginning, the prompt at its end.
        self.tokens = self.tokens * keep + tokens - (cached or 0.0)
        self._elapsed_s = self._elapsed_s * keep + elapsed_s

    @property
    def share(self) -> float:
        """Of the requests, ours: 0..1."""
        return min(1.0, (self.ours + DOUBT) / (self.all + DOUBT))

    def busy(self, token_s: float) -> float:
        """Share of the time that it spends on prompts, of which a token takes *token_s*."""
        return max(0.0, self.tokens / self._elapsed_s * token_s) if self._elapsed_s else 0.0


def _grown(before: float | None, after: float | None) -> float | None:
    """By how much a counter grew; None where it is unknown or began anew."""
    return after - before if before is not None and after is not None and after >= before else None
