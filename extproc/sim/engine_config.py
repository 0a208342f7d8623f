"""Limits and ways of one simulated engine."""

from __future__ import annotations

from msgspec import Struct

from extproc.sim.profiles import GpuProfile


class EngineConfig(Struct, frozen=True, kw_only=True):
    """Limits of one engine; the names are those of vLLM's options."""

    profile: GpuProfile
    speed: float = 1.0
    """Iterations take 1/speed of their time."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    """Tokens of one iteration; None: the profile's."""
    block_size: int = 16
    num_blocks: int
    prefix_caching: bool = True
    chunked_prefill: bool = True
    """False: as vLLM's V0 did by default. Prompts are computed whole, in iterations of their own that go before
    all decoding and take up to `max_num_batched_tokens`, or `max_model_len` where that is more."""
    max_loras: int = 0
    """Different adapters in one batch; 0: adapters are not counted."""
    lora_load_s: float = 0.0
    """Seconds that an iteration takes longer for each adapter that it has to bring into one of the `max_loras`
    slots: vLLM loads within the step, and the whole batch waits.

    For benchmarks 0.05 is sensible where adapters are in host memory (`max_cpu_loras` is large enough): 160 MB, a
    usual size for 7B models (predibase/lorax#670), take 10 ms over PCIe in one piece, and vLLM copies them layer by
    layer. How it does that made a difference of 40 % in TTFT (vllm#31317); without pinned memory LoRAX took 0.5 to
    1 s (predibase/lorax#433). From disk it is seconds (vllm-project/aibrix#1886 expects up to 5)."""
    max_model_len: int = 32_768

    def __post_init__(self) -> None:
        if (
            self.speed <= 0
            or min(self.max_num_seqs, self.block_size, self.num_blocks, self.token_budget) < 1
            or self.max_model_len < 1
            or min(self.max_loras, self.lora_load_s) < 0
        ):
            raise ValueError(
                "speed, max_num_seqs, max_num_batched_tokens, block_size, num_blocks and max_model_len must be "
                "positive, "
                "max_loras and lora_load_s not negative"
            )
        if self.max_num_seqs > self.token_budget:
            raise ValueError(f"max_num_seqs must be at most {self.token_budget}: one token each")

    @property
    def token_budget(self) -> int:
        """Tokens that one iteration may compute; without chunked prefill this limits what decodes only."""
        if self.max_num_batched_tokens is None:
            return self.profile.max_num_batched_tokens
        return self.max_num_batched_tokens

    @property
    def max_tokens(self) -> int:
        """Longest prompt plus output that one request can have."""
        return min(self.max_model_len, self.num_blocks * self.block_size)
