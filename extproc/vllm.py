"""What a model server says of itself: the few figures we need from its metrics page.

The page is Prometheus text, or OpenMetrics; only the lines that are needed are looked at, as all of it takes
fifty times as long.  Names stand in one table, `VLLM`, so that another engine is another table.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec

MAX_REQUESTS = 1e9
"""More waiting or running requests than this is a broken page: no server could hold them in memory."""

MAX_COUNT = 1e15
"""A counter beyond this is broken: at a million tokens a second it would take 30 years."""

MAX_LINES = 30_000
"""A page with more wanted lines is refused: collecting this many stalls the event loop for about 10 ms.  The
longest page that the scraper takes, of nothing but LoRA series, has half of it."""

MAX_SERIES = 2048
MAX_FIGURE_BYTES = 128 * 1024
"""A figure with more series, or bytes of them, counts as missing, so that no page stalls the event loop for
long.  Enough for 90 ranks, and for 1,000 LoRA combinations, of which vLLM never forgets one."""

MAX_QUOTED = 80
"""How much of a faulty line an error repeats, in bytes: enough to find it, too little to flood a log."""


class MetricsError(ValueError):
    """The page does not give the figures we need; the message says which, and what stood there."""


class MetricNames(msgspec.Struct, frozen=True, kw_only=True):
    """Under which names an engine publishes the figures; of several names the first that the page has counts.

    An empty tuple: the engine does not publish it.
    """

    waiting: tuple[str, ...]
    running: tuple[str, ...]
    kv_cache_usage: tuple[str, ...] = ()
    lora_requests_info: tuple[str, ...] = ()
    cache_config_info: tuple[str, ...] = ()
    prompt_tokens_total: tuple[str, ...] = ()
    generation_tokens_total: tuple[str, ...] = ()
    requests_finished_total: tuple[str, ...] = ()
    prefix_cache_hits_total: tuple[str, ...] = ()
    iterations_total: tuple[str, ...] = ()


VLLM = MetricNames(
    waiting=("vllm:num_requests_waiting",),
    running=("vllm:num_requests_running",),
    kv_cache_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),  # the second: before 0.10
    lora_requests_info=("vllm:lora_requests_info",),
    cache_config_info=("vllm:cache_config_info",),
    prompt_tokens_total=("vllm:prompt_tokens_total",),
    generation_tokens_total=("vllm:generation_tokens_total",),
    requests_finished_total=("vllm:request_success_total",),
    prefix_cache_hits_total=(
        "vllm:prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits_total",
    ),  # the second: before 0.10
    iterations_total=("vllm:iteration_tokens_total_count",),
)


class EngineMetrics(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One reading of one server; of all its data-parallel ranks (label `engine`) together."""

    waiting: int
    """Requests accepted but not yet computed; the sum over the ranks."""
    running: int
    """Requests in the running batch; the sum over the ranks."""
    kv_cache_usage: float = 0.0
    """Share of the key-value cache in use, 0..1; 0 where the engine does not say.

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


def fell(before: float | None, after: float | None) -> bool:
    """Whether a counter began anew: the server was restarted."""
    return before is not None and after is not None and after < before


Lines = dict[str, list[bytes]]
"""What follows the name on each line that was looked for, by name: labels, value and the rest."""


def parse(page: bytes, names: MetricNames = VLLM) -> EngineMetrics:
    """Read a metrics page.

    Raises MetricsError where the waiting or running requests are missing, or where they or the cache usage
    make no sense; everything else is left at its default where it is missing or makes no sense.
    """
    lines = _wanted_lines(page, names)
    running_loras, waiting_loras, max_loras = _loras(_first(lines, names.lora_requests_info))
    block_size, num_gpu_blocks = _cache_config(_first(lines, names.cache_config_info))
    return EngineMetrics(
        waiting=_requests(lines, names.waiting),
        running=_requests(lines, names.running),
        kv_cache_usage=_kv_cache_usage(_first(lines, names.kv_cache_usage)),
        running_loras=running_loras,
        waiting_loras=waiting_loras,
        max_loras=max_loras,
        block_size=block_size,
        num_gpu_blocks=num_gpu_blocks,
        prompt_tokens_total=_counter(_first(lines, names.prompt_tokens_total)),
        generation_tokens_total=_counter(_first(lines, names.generation_tokens_total)),
        requests_finished_total=_counter(_first(lines, names.requests_finished_total)),
        prefix_cache_hits_total=_counter(_first(lines, names.prefix_cache_hits_total)),
        iterations_total=_counter(_first(lines, names.iterations_total)),
    )


@lru_cache(maxsize=64)
def all_names(names: MetricNames) -> tuple[str, ...]:
    """Every metric name in *names*, in the table's order."""
    return tuple(name for group in msgspec.structs.astuple(names) for name in group)


@lru_cache(maxsize=64)
def _finder(names: MetricNames) -> tuple[re.Pattern[bytes], dict[bytes, str]]:
    """A pattern that finds `(name, rest)` of the lines looked for, and the name for each spelling in it.

    The line feed in front, not `^`, lets the regex engine skip to the next line: 28 µs instead of 194 a page.
    `:` may be `_`: OpenMetrics writers escape it.
    """
    spellings = {s.encode(): name for name in all_names(names) for s in (name, name.replace(":", "_"))}
    either = "|".join(re.escape(name).replace(":", "[:_]") for name in all_names(names))
    return re.compile(rb"\n(" + either.encode() + rb")([{ \t][^\n]*)"), spellings


def _wanted_lines(page: bytes, names: MetricNames) -> Lines:
    (pattern, spellings), lines = _finder(names), Lines()
    for count, found in enumerate(pattern.finditer(b"\n" + page)):
        if count >= MAX_LINES:
            raise MetricsError(f"more than {MAX_LINES} lines of the wanted metrics")
        name, rest = found.groups()
        lines.setdefault(spellings[name], []).append(rest)
    return lines


def _first(lines: Lines, aliases: tuple[str, ...]) -> list[bytes]:
    found = next((lines[name] for name in aliases if name in lines), [])
    return found if len(found) <= MAX_SERIES and sum(map(len, found)) <= MAX_FIGURE_BYTES else []


_SAMPLE = re.compile(
    rb'[ \t]*+(?:\{((?:[^"{}]++|"(?:[^"\\]++|\\.)*+")*+)\})?'  # labels; a quoted value may hold anything
    rb"[ \t]*+([^\s#{}]++)"  # the value
    rb"(?:[ \t].*)?\s*+",  # a timestamp, an exemplar
    re.DOTALL,
)
_LABEL = re.compile(rb'(\w+)[ \t]*=[ \t]*"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"\\": b"\\", b'"': b'"'}


def _split(rest: bytes) -> tuple[bytes, float]:
    """(labels, value) of a line after its name."""
    found = _SAMPLE.fullmatch(rest)
    if not found:
        raise MetricsError(f"malformed: {_quoted(rest)}")
    labels, value = found.groups()
    try:
        return labels or b"", float(value)
    except ValueError:
        raise MetricsError(f"not a number: {_quoted(value)}") from None


def _values(lines: list[bytes], most: float = math.inf) -> Iterator[float]:
    """The values, all finite and within 0..most; raises MetricsError."""
    for rest in lines:
        value = _split(rest)[1]
        if not 0 <= value <= most or value == math.inf:
            raise MetricsError(f"out of range: {value}")
        yield value


def _requests(lines: Lines, aliases: tuple[str, ...]) -> int:
    found = _first(lines, aliases)
    if not found:
        raise MetricsError(f"{' or '.join(aliases)} is missing, or too large")
    try:
        return round(sum(_values(found, MAX_REQUESTS)))
    except MetricsError as error:
        raise MetricsError(f"{aliases[0]}: {error}") from None


def _kv_cache_usage(lines: list[bytes]) -> float:
    values = [_split(rest)[1] for rest in lines]
    if not all(map(math.isfinite, values)):
        raise MetricsError(f"cache usage is no finite number: {values}")
    return sum(min(max(v, 0.0), 1.0) for v in values) / len(values) if values else 0.0


def _counter(lines: list[bytes]) -> float | None:
    try:
        return sum(_values(lines, MAX_COUNT)) if lines else None
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
            text, value = _split(rest)
        except MetricsError:
            continue
        if value > at:
            newest, at = text, value
    labels = dict(_LABEL.findall(newest))
    return (
        _names(_label(labels, b"running_lora_adapters")),
        _names(_label(labels, b"waiting_lora_adapters")),
        _whole(_label(labels, b"max_lora")),
    )


def _cache_config(lines: list[bytes]) -> tuple[int, int]:
    """(block size, number of blocks)."""
    block_size = blocks = 0
    for rest in lines:
        try:
            labels = dict(_LABEL.findall(_split(rest)[0]))
        except MetricsError:
            continue
        block_size = max(block_size, _whole(_label(labels, b"block_size")))
        blocks += _whole(_label(labels, b"num_gpu_blocks"))
    return block_size, blocks


def _label(labels: dict[bytes, bytes], name: bytes) -> str:
    """The label's value without its escapes; empty where there is none."""
    value = labels.get(name, b"")
    if b"\\" in value:
        value = _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[0]), value)
    return value.decode(errors="replace")


def _names(joined: str) -> frozenset[str]:
    return frozenset(filter(None, map(str.strip, joined.split(","))))


def _whole(text: str) -> int:
    """A non-negative integer of at most 12 digits (no cache has more blocks), else 0 (vLLM writes `None`)."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0


def _quoted(line: bytes) -> str:
    return repr(line[:MAX_QUOTED].decode(errors="replace"))
