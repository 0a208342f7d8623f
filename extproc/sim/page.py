"""The metrics page, line for line that of a real server, filled from an engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from itertools import groupby

from prometheus_client.utils import floatToGoString

from extproc.sim.engine import Engine
from extproc.sim.stats import Histogram

RECORDED = "vllm-0.32.prom"
"""Page of an idle vLLM 0.32 (CPU, max_loras=2, max_model_len 8192) after some 20 requests. What the engine
does not model stays as it was recorded."""
RECORDED_MODEL = 'model_name="qwq-32b"'

Piece = str | Callable[[], str]
Samples = Callable[[], Iterable[tuple[str, float]]]


class MetricsPage:
    """Renders the page of one engine. Most of its lines are histogram buckets, so labels are made once."""

    def __init__(self, engine: Engine, model: str, started_unix_s: float, clock_offset_s: float) -> None:
        """`clock_offset_s`: Unix time minus the engine's clock."""
        self._engine = engine
        self._offset_s = clock_offset_s
        self._labels = f'engine="0",model_name="{escape(model)}"'
        self._created = number(started_unix_s)
        self._pieces = list(self._compile(escape(model)))

    def render(self) -> str:
        return "".join(piece if isinstance(piece, str) else piece() for piece in self._pieces)

    def _compile(self, model: str) -> Iterator[Piece]:
        recorded = resources.files("extproc.sim").joinpath("data", RECORDED).read_text(encoding="utf-8")
        recorded = recorded.replace(RECORDED_MODEL, f'model_name="{model}"')
        samples = self._samples()
        pieces = (piece for family in families(recorded) for piece in self._family(family, samples))
        for static, group in groupby(pieces, key=lambda piece: isinstance(piece, str)):
            if static:
                yield "".join(str(piece) for piece in group)
            else:
                yield from group

    def _family(self, family: list[str], samples: dict[str, Samples]) -> Iterator[Piece]:
        name = family[0].split(" ", 3)[2]
        header = "".join(family[:2])
        short = name.removeprefix("vllm:")
        if name.startswith("http_") or (short == "lora_requests_info" and not self._engine.config.max_loras):
            return
        yield header
        if short in samples:
            yield self._values(name, samples[short])
        elif short in self._engine.stats.histograms:
            yield self._histogram(name, self._engine.stats.histograms[short])
        elif name.startswith("vllm:") and name.endswith("_created"):
            yield from (line.rpartition(" ")[0] + f" {self._created}\n" for line in family[2:])
        elif short == "cache_config_info":
            yield from map(self._cache_config, family[2:])
        else:
            yield from family[2:]

    def _values(self, name: str, samples: Samples) -> Callable[[], str]:
        def render() -> str:
            return "".join(f"{name}{{{labels}}} {number(value)}\n" for labels, value in samples())

        return render

    def _histogram(self, name: str, histogram: Histogram) -> Callable[[], str]:
        engine, model = self._labels.split(",", 1)
        bounds = [number(bound) for bound in histogram.bounds] + ["+Inf"]
        buckets = [f'{name}_bucket{{{engine},le="{bound}",{model}}} ' for bound in bounds]
        count, total = f"{name}_count{{{self._labels}}} ", f"{name}_sum{{{self._labels}}} "

        def render() -> str:
            lines = [
                f"{label}{number(n)}\n" for label, n in zip(buckets, histogram.cumulative(), strict=True)
            ]
            lines.append(f"{count}{number(histogram.count)}\n")
            lines.append(f"{total}{number(histogram.sum)}\n")
            return "".join(lines)

        return render

    def _samples(self) -> dict[str, Samples]:
        """By family, without `vllm:`: labels and values of what is neither a histogram nor constant."""
        engine, stats, labels = self._engine, self._engine.stats, self._labels
        by_engine, by_model = labels.split(",", 1)

        def one(read: Callable[[], float]) -> Samples:
            return lambda: [(labels, read())]

        def by_reason() -> Iterator[tuple[str, float]]:
            gauges = engine.gauges
            yield f'{labels},reason="capacity"', gauges.waiting - gauges.deferred
            yield f'{labels},reason="deferred"', gauges.deferred

        def by_source() -> Iterator[tuple[str, float]]:
            yield f'{labels},source="local_compute"', stats.prompt_tokens - stats.cached_prompt_tokens
            yield f'{labels},source="local_cache_hit"', stats.cached_prompt_tokens
            yield f'{labels},source="external_kv_transfer"', 0

        def cached_by_source() -> Iterator[tuple[str, float]]:
            yield f'{labels},source="device"', stats.prefix_cache_hits
            for source in ("host", "p2p", "disk", "external_unspecified"):
                yield f'{labels},source="{source}"', 0

        def success() -> Iterator[tuple[str, float]]:
            for reason, count in stats.success.items():
                yield f'{by_engine},finished_reason="{reason}",{by_model}', count

        return {
            "num_requests_running": one(lambda: engine.gauges.running),
            "num_requests_waiting": one(lambda: engine.gauges.waiting),
            "num_requests_waiting_by_reason": by_reason,
            "kv_cache_usage_perc": one(lambda: engine.gauges.kv_cache_usage),
            "num_preemptions_total": one(lambda: stats.preemptions),
            "prompt_tokens_total": one(lambda: stats.prompt_tokens),
            "prompt_tokens_by_source_total": by_source,
            "generation_tokens_total": one(lambda: stats.generation_tokens),
            "request_success_total": success,
            "prompt_tokens_cached_total": one(lambda: stats.cached_prompt_tokens),
            "prompt_tokens_cached_by_source_total": cached_by_source,
            "prefix_cache_queries_total": one(lambda: stats.prefix_cache_queries),
            "prefix_cache_hits_total": one(lambda: stats.prefix_cache_hits),
            "lora_requests_info": self._lora_requests,
        }

    def _lora_requests(self) -> Iterator[tuple[str, float]]:
        """One series for every combination so far: the newest by value is the state, the rest is stale."""
        max_loras = self._engine.config.max_loras
        for adapters, at in self._engine.lora_requests.items():
            names = escape(adapters)
            yield (
                f'max_lora="{max_loras}",running_lora_adapters="{names}",waiting_lora_adapters="{names}"',
                at + self._offset_s,
            )

    def _cache_config(self, line: str) -> str:
        config = self._engine.config
        tokens = config.num_blocks * config.block_size
        values = {
            "block_size": config.block_size,
            "effective_attention_block_size": config.block_size,
            "enable_prefix_caching": config.prefix_caching,
            "kv_cache_max_concurrency": tokens / config.max_model_len,
            "kv_cache_size_tokens": tokens,
            "num_gpu_blocks": config.num_blocks,
        }
        for label, value in values.items():
            line = re.sub(rf'([{{,]){label}="[^"]*"', rf'\g<1>{label}="{value}"', line)
        return line


def number(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


def escape(value: str) -> str:
    """A label value as the exposition format wants it."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def families(page: str) -> Iterator[list[str]]:
    """Lines of a page by family: # HELP, # TYPE, then the samples, line feeds kept."""
    family: list[str] = []
    for line in page.splitlines(keepends=True):
        if line.startswith("# HELP") and family:
            yield family
            family = []
        family.append(line)
    if family:
        yield family


def restrict(page: str, names: frozenset[str]) -> str:
    """Only the samples with these names, and the headers of their families (prometheus_client's `name[]`)."""
    kept = []
    for family in families(page):
        samples = [line for line in family[2:] if re.split(r"[{ ]", line, maxsplit=1)[0] in names]
        if samples:
            kept += [*family[:2], *samples]
    return "".join(kept)
