"""Step times and KV-cache sizes of a few GPU and model pairs."""

from __future__ import annotations

from types import MappingProxyType

from msgspec import Struct


class GpuProfile(Struct, frozen=True):
    """One iteration takes base_s + token_s·max(0, tokens - 128) + context_s·Σcontext + sequence_s·sequences.

    Below about 128 tokens an iteration is bound by memory and its time is flat, above by compute and linear.
    """

    base_s: float
    token_s: float
    """Seconds a token beyond the 128th."""
    context_s: float
    """Seconds a token of context that attention reads: KV bytes a token over memory bandwidth."""
    sequence_s: float
    """Seconds a sequence of the batch (sampling, bookkeeping)."""
    num_blocks: int
    """KV blocks of 16 tokens: memory of the GPUs at 90 %, less weights and activations."""
    max_num_batched_tokens: int = 2048
    """vLLM's default for a server; 8192 on GPUs with at least 70 GiB other than the A100."""

    def step_s(self, tokens: int, context: int, sequences: int) -> float:
        """Duration in seconds of an iteration over `tokens` new tokens of `sequences` sequences."""
        flat = self.base_s + self.context_s * context + self.sequence_s * sequences
        return flat + self.token_s * (tokens - 128) if tokens > 128 else flat


# base_s and token_s: the profiles published with Vidur (arXiv 2405.05465; times without attention, mean of 1
# and 64 tokens, slope from 512 tokens on) plus 2 ms an iteration for the CPU. context_s: KV bytes a token
# (8B 128 KiB, 34B 192 KiB, 70B 320 KiB, Llama-2-7B 512 KiB) over 75 % of the memory bandwidth.
PROFILES = MappingProxyType(
    {
        "a100-llama-3-8b": GpuProfile(0.0126, 66.5e-6, 0.085e-6, 30e-6, 26_000),
        "a100x2-codellama-34b": GpuProfile(0.0253, 151.7e-6, 0.064e-6, 30e-6, 22_900),
        "a100x4-llama-3-70b": GpuProfile(0.0280, 160.7e-6, 0.053e-6, 30e-6, 26_700),
        "a100x8-llama-3-70b": GpuProfile(0.0171, 88.0e-6, 0.027e-6, 30e-6, 80_000),
        "a40-llama-2-7b": GpuProfile(0.0290, 124.8e-6, 0.95e-6, 30e-6, 3_300),
        "h100-llama-2-7b": GpuProfile(0.0078, 20.5e-6, 0.2e-6, 30e-6, 6_700, 8192),
        "h100x4-llama-2-70b": GpuProfile(0.0170, 53.5e-6, 0.032e-6, 30e-6, 26_700, 8192),
        "h100x8-llama-2-70b": GpuProfile(0.0108, 29.0e-6, 0.016e-6, 30e-6, 80_000, 8192),
        # Estimated, not measured: 64 GB of weights over 4 x 600 GB/s without CUDA graphs, 65 GFLOP a token at
        # 45 % of 4 x 125 TFLOP/s, 256 KiB of KV a token. With 12 sequences of 4,300 tokens 57 ms.
        "a10x4-qwq-32b": GpuProfile(0.0440, 290e-6, 0.128e-6, 500e-6, 3_900),
        # Estimated, not measured: 16 GB of weights over 75 % of 864 GB/s (as the A100 reaches) plus 2 ms,
        # 16 GFLOP a token at 65 % of 362 TFLOP/s, 128 KiB of KV a token. The tables of llm-d-inference-sim
        # (docs/latency-profiles.md) say 25 to 35 ms a token for 7-8B models on this GPU.
        "l40s-llama-3-8b": GpuProfile(0.0267, 68e-6, 0.202e-6, 30e-6, 12_200),
    }
)
