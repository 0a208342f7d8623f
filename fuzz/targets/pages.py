"""Metrics pages of model servers: figures that make sense, or a MetricsError."""

from __future__ import annotations

import math

from extproc.engine_metrics import MAX_REQUESTS, EngineMetrics, MetricNames, all_names, parse
from extproc.engines import ENGINES
from extproc.metrics_page import MetricsError

from ..recorded import recorded
from ..target import Target

KINDS = sorted(ENGINES)
MAX_ERROR_CHARS = 4096
"""An error becomes a log line and a part of /debug/state."""


def run(data: bytes) -> None:
    engine, page = ENGINES[KINDS[data[0] % len(KINDS)]] if data else ENGINES[KINDS[0]], data[1:]
    read = _read(page, engine.names)
    if isinstance(read, EngineMetrics):
        _check(read)
    strangers = b'\n# HELP other_metric of somebody else\nother_metric{le="+Inf"} 3\n'
    assert _read(strangers + page, engine.names) == read, "what is not ours matters"


def _read(page: bytes, names: MetricNames) -> EngineMetrics | str:
    try:
        return parse(page, names)
    except MetricsError as error:
        told = str(error)
    assert len(told) < MAX_ERROR_CHARS
    return told


def _check(read: EngineMetrics) -> None:
    assert read.waiting >= 0
    assert read.running >= 0
    assert read.waiting + read.running < 1000 * MAX_REQUESTS
    assert read.kv_cache_usage is None or 0 <= read.kv_cache_usage <= 1
    assert min(read.max_loras, read.block_size, read.num_gpu_blocks) >= 0
    for name in (
        "prompt_tokens_total",
        "generation_tokens_total",
        "requests_finished_total",
        "prefix_cache_hits_total",
        "iterations_total",
    ):
        value = getattr(read, name)
        assert value is None or (value >= 0 and math.isfinite(value)), name
    assert all(name.strip() for name in read.running_loras | read.waiting_loras)


def _seeds() -> list[bytes]:
    seeds = []
    for page in recorded("*.prom"):
        names = {name.encode() for kind in KINDS for name in all_names(ENGINES[kind].names)}
        wanted = [line for line in page.split(b"\n") if line.startswith(tuple(names))]
        seeds += [bytes([index]) + b"\n".join(wanted) for index in range(len(KINDS))]
    odd = (
        b'vllm:num_requests_waiting{a="}\\"\\n"} 1e3 1700000000\nvllm:num_requests_running NaN # {x="y"} 1\n'
    )
    return [*seeds, bytes([KINDS.index("vllm")]) + odd]


_NAMES = sorted({name for kind in KINDS for name in all_names(ENGINES[kind].names)})
TARGET = Target(
    run,
    _seeds,
    (
        *(name.encode() for name in _NAMES),
        *b'{engine="1"} running_lora_adapters="a,b" max_lora="4" block_size="16" NaN +Inf -Inf -1 1e308 0x10'.split(),
        b" 1\n",
        b"\n",
        b'\\"',
        b'="',
    ),
)
