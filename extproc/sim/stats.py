"""What an engine counts, under the names that vLLM gives it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from msgspec import Struct

from extproc.sim.sequence import Finished


class Histogram:
    """A Prometheus histogram: `counts[i]` observations in (bounds[i-1], bounds[i]], the last beyond all."""

    __slots__ = ("bounds", "count", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.count += times
        self.sum += value * times

    def observe_all(self, values: Iterable[float], times: int) -> None:
        """Each of `values` so many times."""
        bounds, counts, count, total = self.bounds, self.counts, self.count, self.sum
        for value in values:
            counts[bisect_left(bounds, value)] += times
            count += times
            total += value * times
        self.count, self.sum = count, total

    def cumulative(self) -> Iterator[int]:
        """The counts of the buckets as a page shows them, the one of `+Inf` last."""
        total = 0
        for count in self.counts:
            total += count
            yield total


# The bounds are those of vllm/v1/metrics/loggers.py (0.32).
ITERATION_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
TTFT_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_LATENCY_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_LATENCY_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


OF_REQUESTS = (
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_params_n",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_num_preemptions",
    "request_prefill_kv_computed_tokens",
)
"""What is observed of every request at its end; `Stats.observe` has the values in this order."""


def one_two_five(largest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 … up to `largest`."""
    bounds = [m * 10**e for e in range(len(str(largest))) for m in (1, 2, 5)]
    return tuple(float(bound) for bound in bounds if bound <= largest)


class Stats:
    """Counters and histograms of one engine since its start; read them, only the engine writes."""

    def __init__(self, max_model_len: int) -> None:
        lengths = one_two_five(max_model_len)
        self.prompt_tokens = 0
        """vllm:prompt_tokens_total, counted when a prompt is computed; with what was cached."""
        self.cached_prompt_tokens = 0
        """Of those, what the prefix cache had."""
        self.prefix_cache_queries = 0
        """In tokens, when a request is admitted; preempted ones that come again do not count."""
        self.prefix_cache_hits = 0
        self.generation_tokens = 0
        self.preemptions = 0
        self.success = {"stop": 0, "length": 0, "abort": 0, "error": 0, "repetition": 0}
        """vllm:request_success_total by finished_reason. As in vLLM, without what clients aborted."""
        self.aborted = 0
        self.histograms = {
            "request_prompt_tokens": Histogram(lengths),
            "request_generation_tokens": Histogram(lengths),
            "iteration_tokens_total": Histogram(ITERATION_TOKENS),
            "request_max_num_generation_tokens": Histogram(lengths),
            "request_params_n": Histogram((1, 2, 5, 10, 20)),
            "request_params_max_tokens": Histogram(lengths),
            "time_to_first_token_seconds": Histogram(TTFT_S),
            "inter_token_latency_seconds": Histogram(TOKEN_LATENCY_S),
            "request_time_per_output_token_seconds": Histogram(TOKEN_LATENCY_S),
            "e2e_request_latency_seconds": Histogram(REQUEST_LATENCY_S),
            "request_queue_time_seconds": Histogram(REQUEST_LATENCY_S),
            "request_inference_time_seconds": Histogram(REQUEST_LATENCY_S),
            "request_prefill_time_seconds": Histogram(REQUEST_LATENCY_S),
            "request_decode_time_seconds": Histogram(REQUEST_LATENCY_S),
            "request_num_preemptions": Histogram((1, 2, 3, 4, 5, 10, 20)),
            "request_prefill_kv_computed_tokens": Histogram(lengths),
        }
        """By metric name without `vllm:`."""
        self.iteration_tokens = self.histograms["iteration_tokens_total"]
        self.ttft = self.histograms["time_to_first_token_seconds"]
        self.inter_token = self.histograms["inter_token_latency_seconds"]
        self._of_requests = [self.histograms[name] for name in OF_REQUESTS]

    def observe(self, finished: Finished) -> None:
        """Count the end of a request (vllm/v1/metrics/stats.py: update_from_finished_request)."""
        request = finished.request
        self.success[finished.reason] += 1
        decode_s = finished.at_s - finished.first_token_s
        values = (
            request.prompt_tokens,
            request.output_tokens,
            request.output_tokens,
            1,
            decode_s / max(1, request.output_tokens - 1),
            finished.at_s - finished.arrival_s,
            finished.admitted_s - finished.arrival_s,
            finished.at_s - finished.admitted_s,
            finished.first_token_s - finished.admitted_s,
            decode_s,
            finished.preemptions,
            request.prompt_tokens - finished.cached_tokens,
        )
        for histogram, value in zip(self._of_requests, values, strict=True):
            histogram.counts[bisect_left(histogram.bounds, value)] += 1
            histogram.count += 1
            histogram.sum += value
        if request.max_tokens is not None:
            self.histograms["request_params_max_tokens"].observe(request.max_tokens)

    def snapshot(self, gauges: Gauges, lora_requests: tuple[tuple[str, float], ...]) -> Snapshot:
        sums = {name: (histogram.sum, histogram.count) for name, histogram in self.histograms.items()}
        return Snapshot(
            gauges=gauges,
            lora_requests=lora_requests,
            prompt_tokens=self.prompt_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            prefix_cache_queries=self.prefix_cache_queries,
            prefix_cache_hits=self.prefix_cache_hits,
            generation_tokens=self.generation_tokens,
            preemptions=self.preemptions,
            success=dict(self.success),
            ttft=sums["time_to_first_token_seconds"],
            inter_token_latency=sums["inter_token_latency_seconds"],
            e2e_latency=sums["e2e_request_latency_seconds"],
            queue_time=sums["request_queue_time_seconds"],
        )


class Gauges(Struct, frozen=True, gc=False):
    running: int
    waiting: int
    """All that wait, deferred ones included."""
    deferred: int
    """Those of the waiting that wait for a LoRA slot."""
    kv_cache_usage: float
    """Ratio of KV blocks in use, 0 to 1."""


class Snapshot(Struct, frozen=True, gc=False):
    """What a scrape of the engine tells: gauges as of the end of its last iteration, counters as of now."""

    gauges: Gauges
    lora_requests: tuple[tuple[str, float], ...]
    """`Engine.lora_requests`."""
    prompt_tokens: int
    cached_prompt_tokens: int
    """Of those, what the prefix cache had: vllm:prompt_tokens_by_source_total, local_cache_hit."""
    prefix_cache_queries: int
    """In tokens; so the hits."""
    prefix_cache_hits: int
    generation_tokens: int
    preemptions: int
    success: dict[str, int]
    ttft: tuple[float, int]
    """Sum in seconds and count; so the others."""
    inter_token_latency: tuple[float, int]
    e2e_latency: tuple[float, int]
    queue_time: tuple[float, int]
