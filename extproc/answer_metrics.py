"""What answers say of themselves, as metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import Counter, Histogram

from .answers import Figures, Usage

# Buckets of OpenTelemetry's conventions for generative AI, which name these measures alike (gen_ai.server.*, and
# gen_ai.client.token.usage); the first token of a long prompt, or after a queue, takes longer than theirs end.
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    *(20, 40, 80, 160, 640),
)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)


class AnswerMetrics:
    """Of answers that were read (`responses:` in the config)."""

    def __init__(self, counter: Callable[..., Counter], histogram: Callable[..., Histogram]) -> None:
        served = ["model", "target_model", "pool"]
        self.read = counter(
            "answers_read", "Answers that were to be read, by what came of it.", ["pool", "result"]
        )
        self.tokens = histogram(
            "answer_tokens", "Tokens an answer, as its server told.", [*served, "type"], buckets=TOKENS
        )
        self.first_token = histogram(
            "time_to_first_token_seconds",
            "From request headers to the first token of a streamed answer.",
            served,
            buckets=FIRST_TOKEN_S,
        )
        self.per_token = histogram(
            "time_per_output_token_seconds",
            "Mean time between the tokens of a streamed answer.",
            served,
            buckets=PER_TOKEN_S,
        )
        self.finish_reasons = counter(
            "answer_finish_reasons", "Answers by why they ended.", [*served, "finish_reason"]
        )


class AnswerSeries:
    """Those of one (model, target_model, pool), looked up once: `labels()` costs a microsecond each time."""

    def __init__(self, metrics: AnswerMetrics, names: tuple[str, str, str]) -> None:
        self._metrics = metrics
        self._names = names
        self._found: dict[tuple[Any, ...], Any] = {}

    def count(self, result: str, figures: Figures | None, ttft_s: float | None) -> None:
        """An answer that has ended."""
        self._metrics.read.labels(self._names[2], result).inc()
        if figures is None:
            return
        usage = figures.usage or Usage()
        for kind in ("prompt", "cached", "completion"):
            tokens = getattr(usage, f"{kind}_tokens")
            if tokens is not None:
                self._series(self._metrics.tokens, kind).observe(tokens)
        if figures.finish_reason is not None:
            self._series(self._metrics.finish_reasons, figures.finish_reason).inc()
        if ttft_s is not None:
            self._series(self._metrics.first_token).observe(ttft_s)
        if figures.time_per_token_s is not None:
            self._series(self._metrics.per_token).observe(figures.time_per_token_s)

    def _series(self, metric: Any, *label: str) -> Any:
        found = self._found.get((metric, *label))
        if found is None:
            found = self._found[metric, *label] = metric.labels(*self._names, *label)
        return found

    def remove(self) -> None:
        """From the page."""
        for metric, *label in self._found:
            metric.remove(*self._names, *label)
