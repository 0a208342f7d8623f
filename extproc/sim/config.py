"""What one simulated server is."""

from __future__ import annotations

from msgspec import Struct

from extproc.sim.engine import EngineConfig
from extproc.sim.faults import Faults
from extproc.sim.profiles import PROFILES

DEFAULT_GPU = "a100-llama-3-8b"
DEFAULT_MODEL = "sim-model"


class SimConfig(Struct, frozen=True, kw_only=True):
    """The options of `extproc sim`; see there for what they mean."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any free one."""
    name: str = "sim"
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    """Served names, the first is the one in the metrics."""
    loras: tuple[str, ...] = ()
    gpu: str = DEFAULT_GPU
    speed: float = 1.0
    seed: int = 0
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    """None: vLLM's default for the GPU."""
    prefix_caching: bool = True
    chunked_prefill: bool = True
    num_blocks: int | None = None
    """None: what the GPU holds."""
    max_loras: int = 1
    """vLLM's default; counts only where there are adapters."""
    lora_load_s: float = 0.0
    max_model_len: int = 32_768
    enable_prompt_tokens_details: bool = False
    stream_interval: int = 1
    """Tokens of one event of a stream; the first is sent alone, and the last come with the end."""
    faults: Faults = Faults()
    record_bodies: bool = False

    def __post_init__(self) -> None:
        if self.gpu not in PROFILES:
            raise ValueError(f"gpu must be one of {', '.join(PROFILES)}")
        if not self.models or len({*self.models, *self.loras}) < len(self.models) + len(self.loras):
            raise ValueError("models and loras: at least one model, and every name only once")
        if self.stream_interval < 1:
            raise ValueError("stream_interval must be at least 1")
        if self.loras and self.max_loras < 1:
            raise ValueError("max_loras must be at least 1")
        _ = self.engine

    @property
    def engine(self) -> EngineConfig:
        profile = PROFILES[self.gpu]
        return EngineConfig(
            profile=profile,
            speed=self.speed,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            prefix_caching=self.prefix_caching,
            chunked_prefill=self.chunked_prefill,
            lora_load_s=self.lora_load_s,
            num_blocks=profile.num_blocks if self.num_blocks is None else self.num_blocks,
            max_loras=self.max_loras if self.loras else 0,
            max_model_len=self.max_model_len,
        )
