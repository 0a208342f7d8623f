"""What a model server says of itself: the few figures we need from its metrics page.

Under which names it says them stands in a table an engine: see `engines`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec

from .metrics_page import (
    MAX_FIGURE_BYTES,
    MAX_SERIES,
    Lines,
    MetricsError,
    distinct,
    first,
    label,
    labels_of,
    metric_names,
    split,
    values,
    wanted_lines,
)

MAX_REQUESTS = 1e9
"""More waiting or running requests than this is a broken page: no server could hold them in memory."""

MAX_COUNT = 1e15
"""A counter beyond this is broken: at a million tokens a second it would take 30 years."""

MAX_BLOCKS = 10**12
"""No cache has more blocks."""


class SeriesLabels(msgspec.Struct, frozen=True, kw_only=True):
    """What labels mean to an engine."""

    block_size: bytes = b"block_size"
    num_gpu_blocks: bytes = b"num_gpu_blocks"
    """Of `cache_config_info`."""
    copies: frozenset[bytes] = frozenset()
    """Series that differ in these only tell the same, as ranks of one replica do: the greatest counts."""
    parts: frozenset[bytes] = frozenset()
    """What a series with one of these tells is counted in a series without it, too."""


class MetricNames(msgspec.Struct, frozen=True, kw_only=True):
    """Under which names an engine publishes the figures; of several names the first that the page has counts.

    A name, or `name{label="value"}`.  An empty tuple: the engine does not publish it.
    """

    waiting: tuple[str, ...]
    running: tuple[str, ...]
    kv_cache_usage: tuple[str, ...] = ()
    lora_requests_info: tuple[str, ...] = ()
    cache_config_info: tuple[str, ...] = ()
    block_size: tuple[str, ...] = ()
    num_gpu_blocks: tuple[str, ...] = ()
    prompt_tokens_total: tuple[str, ...] = ()
    generation_tokens_total: tuple[str, ...] = ()
    requests_finished_total: tuple[str, ...] = ()
    prefix_cache_hits_total: tuple[str, ...] = ()
    iterations_total: tuple[str, ...] = ()
    from_first_request: bool = False
    """Its page has no lines of them before a request has ended."""
    labels: SeriesLabels = SeriesLabels()


class EngineMetrics(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One reading of one server; of all its data-parallel ranks (vLLM's label `engine`) together."""

    waiting: int
    """Requests accepted but not yet computed; the sum over the ranks."""
    running: int
    """Requests in the running batch; the sum over the ranks."""
    kv_cache_usage: float | None = None
    """Share of the key-value cache in use, 0..1; None where the engine does not say.

    The mean over the ranks: the server itself spreads what we send over its ranks, so that one full rank
    does not make a full server.
    """
    running_loras: frozenset[str] = frozenset()
    """Adapters that running requests use."""
    waiting_loras: frozenset[str] = frozenset()
    """Adapters that waiting requests need."""
    max_loras: int = 0
    """Adapters that fit into one batch; 0: unknown, or no LoRA."""
    block_size: int = 0
    """Tokens per cache block; 0: unknown."""
    num_gpu_blocks: int = 0
    """Cache blocks, the sum over the ranks; 0: unknown."""
    prompt_tokens_total: float | None = None
    """Prompt tokens computed since the server's start; None: unknown."""
    generation_tokens_total: float | None = None
    """Tokens generated since the server's start; None: unknown."""
    requests_finished_total: float | None = None
    """Requests ended since the server's start, for whatever reason; None: unknown."""
    prefix_cache_hits_total: float | None = None
    """Prompt tokens that the prefix cache gave since the server's start; None: unknown."""
    iterations_total: float | None = None
    """Iterations of the engine since the server's start; None: unknown."""


class UnusedError(MetricsError):
    """The page tells nothing yet, as the server has had no request: no fault, and nothing is known."""


def fell(before: float | None, after: float | None) -> bool:
    """Whether a counter began anew: the server was restarted."""
    return before is not None and after is not None and after < before


def parse(page: bytes, names: MetricNames) -> EngineMetrics:
    """Read a metrics page.

    Raises MetricsError where the waiting or running requests are missing, or where they or the cache usage
    make no sense; UnusedError where they are missing as they may be; everything else is left at its default where it
    is missing or makes no sense.
    """
    lines = wanted_lines(page, _selectors(names))
    if names.from_first_request and _is_unused(page, lines, names):
        raise UnusedError("it has had no request yet, and tells nothing before")
    if names.labels.copies or names.labels.parts:
        lines = _without_repetitions(lines, names.labels)
    running_loras, waiting_loras, max_loras = _loras(first(lines, names.lora_requests_info))
    block_size, num_gpu_blocks = _cache_config(lines, names)
    return EngineMetrics(
        waiting=_requests(lines, names.waiting),
        running=_requests(lines, names.running),
        kv_cache_usage=_kv_cache_usage(first(lines, names.kv_cache_usage)),
        running_loras=running_loras,
        waiting_loras=waiting_loras,
        max_loras=max_loras,
        block_size=block_size,
        num_gpu_blocks=num_gpu_blocks,
        prompt_tokens_total=_counter(first(lines, names.prompt_tokens_total)),
        generation_tokens_total=_counter(first(lines, names.generation_tokens_total)),
        requests_finished_total=_counter(first(lines, names.requests_finished_total)),
        prefix_cache_hits_total=_counter(first(lines, names.prefix_cache_hits_total)),
        iterations_total=_counter(first(lines, names.iterations_total)),
    )


@lru_cache(maxsize=64)
def _selectors(names: MetricNames) -> tuple[str, ...]:
    """Every selector in *names*, in the table's order."""
    groups = msgspec.structs.astuple(names)
    return tuple(selector for group in groups if isinstance(group, tuple) for selector in group)


def all_names(names: MetricNames) -> tuple[str, ...]:
    """Every metric name in *names*, in the table's order."""
    return metric_names(_selectors(names))


def _without_repetitions(lines: Lines, labels: SeriesLabels) -> Lines:
    """Those too large to look at stay, as they will not count."""
    return {
        selector: distinct(found, labels.copies, labels.parts)
        if len(found) <= MAX_SERIES and sum(map(len, found)) <= MAX_FIGURE_BYTES
        else found
        for selector, found in lines.items()
    }


def _is_unused(page: bytes, lines: Lines, names: MetricNames) -> bool:
    """Whether the metrics are declared, and no request was counted.

    One that ended, with nothing told of the queue, is a server that was started without what makes it tell.
    """
    told = (names.waiting, names.running, names.requests_finished_total)
    declared = (b"# TYPE %s " % name.encode() in page for name in (*names.waiting, *names.running))
    return not any(first(lines, each) for each in told) and all(declared)


def _requests(lines: Lines, selectors: tuple[str, ...]) -> int:
    found = first(lines, selectors)
    if not found:
        raise MetricsError(f"{' or '.join(selectors)} is missing, or too large")
    try:
        return round(sum(values(found, MAX_REQUESTS)))
    except MetricsError as error:
        raise MetricsError(f"{selectors[0]}: {error}") from None


def _kv_cache_usage(lines: list[bytes]) -> float | None:
    found = [split(rest)[1] for rest in lines]
    if not all(map(math.isfinite, found)):
        raise MetricsError(f"cache usage is no finite number: {found}")
    return sum(min(max(v, 0.0), 1.0) for v in found) / len(found) if found else None


def _counter(lines: list[bytes]) -> float | None:
    try:
        return sum(values(lines, MAX_COUNT)) if lines else None
    except MetricsError:
        return None


def _loras(lines: list[bytes]) -> tuple[frozenset[str], frozenset[str], int]:
    """(running, waiting, most at once).

    vLLM makes a series for each combination that it ever ran; the value is the time when that was last so,
    hence the greatest is now.  A tie goes to the first.
    """
    newest, at = b"", -math.inf
    for rest in lines:
        try:
            value = split(rest)[1]
        except MetricsError:
            continue
        if value > at:
            newest, at = rest, value
    labels = labels_of(newest)
    return (
        _names(label(labels, b"running_lora_adapters")),
        _names(label(labels, b"waiting_lora_adapters")),
        _whole(label(labels, b"max_lora")),
    )


def _cache_config(lines: Lines, names: MetricNames) -> tuple[int, int]:
    """(block size, number of blocks), as gauges or as the labels of an info metric tell."""
    block_size = blocks = 0
    for rest in first(lines, names.cache_config_info):
        labels = labels_of(rest)
        block_size = max(block_size, _whole(label(labels, names.labels.block_size)))
        blocks += _whole(label(labels, names.labels.num_gpu_blocks))
    if names.block_size:
        block_size = max(_gauges(first(lines, names.block_size)), default=block_size)
    if names.num_gpu_blocks:
        blocks = sum(_gauges(first(lines, names.num_gpu_blocks))) or blocks
    return block_size, blocks


def _gauges(lines: list[bytes]) -> list[int]:
    """Whole numbers; empty where one of them makes no sense."""
    try:
        return [round(value) for value in values(lines, MAX_BLOCKS)]
    except MetricsError:
        return []


def _names(joined: str) -> frozenset[str]:
    return frozenset(filter(None, map(str.strip, joined.split(","))))


def _whole(text: str) -> int:
    """A non-negative integer of at most 12 digits (as MAX_BLOCKS), else 0 (vLLM writes `None`)."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0
