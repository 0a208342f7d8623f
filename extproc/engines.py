"""The model servers whose metrics pages we know: where they are, and what the figures are called there.

Beside each name stands the document that says so.  What an engine does not tell has no name here, and is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .engine_metrics import MetricNames, SeriesLabels


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of model server."""

    names: MetricNames
    path: str = "/metrics"
    """Of its page, unless configured otherwise."""
    selects: bool = False
    """Whether it can send the needed metrics only (`?name[]=…`)."""


class Page(msgspec.Struct, frozen=True):
    """What is read of a model server: which of its pages, and by whose names."""

    names: MetricNames
    port: int
    path: str


# vLLM 0.32, https://docs.vllm.ai/en/v0.32.0/usage/metrics/, and pages recorded from one.
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

# SGLang, with --enable-metrics.  [doc]: https://docs.sglang.io/docs/references/production_metrics; [src]: its
# python/sglang/srt/observability/metrics_collector.py of 2026, which says more.  Nothing tells of iterations, nor of
# adapters by name.
SGLANG = MetricNames(
    waiting=("sglang:num_queue_reqs",),  # [doc]
    running=("sglang:num_running_reqs",),  # [doc]
    kv_cache_usage=("sglang:token_usage",),  # [doc]; without what the radix cache could give back [src]
    cache_config_info=("sglang:cache_config_info",),  # before 0.5.11
    block_size=("sglang:page_size",),  # [src]
    num_gpu_blocks=("sglang:num_pages",),  # [src]
    prompt_tokens_total=("sglang:prompt_tokens_total",),  # [doc]
    generation_tokens_total=("sglang:generation_tokens_total",),  # [doc]
    requests_finished_total=("sglang:num_requests_total",),  # [src]: "requests processed"
    prefix_cache_hits_total=("sglang:cached_tokens_total",),  # [src]: one series a cache it came from
    labels=SeriesLabels(
        block_size=b"page_size",
        num_gpu_blocks=b"num_pages",
        # --enable-metrics-for-all-schedulers: each rank that works on the same requests tells of them; so does each
        # of a context-parallel group (sgl-project/sglang#31896).  Data-parallel ones differ in dp_rank.
        copies=frozenset((b"tp_rank", b"pp_rank", b"moe_ep_rank")),
        parts=frozenset((b"priority",)),  # [src]: totals are under priority=""
    ),
)

# TensorRT-LLM's trtllm-serve.  Path: https://nvidia.github.io/TensorRT-LLM/latest/examples/prometheus_metrics.html;
# names: its tensorrt_llm/metrics/collector.py of 1.3, in the comment at the top and `log_iteration_stats`.  They need
# `enable_iter_perf_stats: true`, the token counters `return_perf_metrics: true`; a gauge is missing until it was first
# set, when the first request has ended.  (/metrics is JSON of iterations that each reader takes away from the others.)
# Nothing tells of adapters.
TRTLLM = MetricNames(
    waiting=("trtllm_num_requests_waiting",),
    running=("trtllm_num_requests_running",),
    kv_cache_usage=("trtllm_kv_cache_utilization",),
    block_size=("trtllm_kv_cache_tokens_per_block",),
    num_gpu_blocks=("trtllm_kv_cache_max_blocks",),
    prompt_tokens_total=("trtllm_prompt_tokens_total",),
    generation_tokens_total=("trtllm_generation_tokens_total",),
    requests_finished_total=("trtllm_request_success_total",),
    prefix_cache_hits_total=("trtllm_prompt_cached_tokens_total",),
    from_first_request=True,
)

# Triton's TensorRT-LLM backend: "Triton Metrics" in the README of triton-inference-server/tensorrtllm_backend (main,
# 2025).  Triton serves them on a port of their own, 8002.  Nothing tells of tokens, finished requests or adapters.
TRITON = MetricNames(
    waiting=('nv_trt_llm_request_metrics{request_type="waiting"}',),
    running=('nv_trt_llm_request_metrics{request_type="scheduled"}',),
    kv_cache_usage=('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}',),
    block_size=('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per"}',),
    num_gpu_blocks=('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"}',),
    iterations_total=('nv_trt_llm_general_metrics{general_type="iteration_counter"}',),
)

# llama.cpp's llama-server, with --metrics: "GET /metrics" in its tools/server/README.md of 2026.  It told of its
# cache's usage until May 2025 (ggml-org/llama.cpp#13660).  Prompt tokens are those computed, without those found in a
# slot's cache.
LLAMACPP = MetricNames(
    waiting=("llamacpp:requests_deferred",),
    running=("llamacpp:requests_processing",),
    kv_cache_usage=("llamacpp:kv_cache_usage_ratio",),
    prompt_tokens_total=("llamacpp:prompt_tokens_total",),
    generation_tokens_total=("llamacpp:tokens_predicted_total",),
    iterations_total=("llamacpp:n_decode_total",),
)

ENGINES: Mapping[str, Engine] = {
    "vllm": Engine(names=VLLM, selects=True),
    "sglang": Engine(names=SGLANG),
    "trtllm": Engine(names=TRTLLM, path="/prometheus/metrics"),
    "triton": Engine(names=TRITON),
    "llamacpp": Engine(names=LLAMACPP),
}
"""By what `metrics.engine` says.  Only vLLM is known to select: where prometheus_client collects the figures of several
processes, as for SGLang and trtllm-serve, it selects nothing, and of Triton and llama.cpp no document says so."""
