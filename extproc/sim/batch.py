"""Books of an engine's batch: the sequences that decode, and the LoRA adapters in use."""

from __future__ import annotations

from collections.abc import Iterator

from extproc.sim.sequence import Sequence

MAX_LORA_COMBINATIONS = 1000
"""vLLM never forgets one; here a day with many adapters must not eat the memory."""


class DecodeSet:
    """Sequences that get one token in every iteration; all sums are kept up, never recomputed."""

    def __init__(self, block_size: int) -> None:
        self.size = 0
        self.context = 0
        """Their tokens in the KV cache, those of the iteration under way included."""
        self.streaming: dict[str, Sequence] = {}
        self._block_size = block_size
        self._block_phase = [0] * block_size
        """How many need a new block in iterations ≡ i mod block_size."""
        self._by_last_step: dict[int, list[Sequence]] = {}

    def add(self, sequence: Sequence, step: int) -> None:
        """`step`: how many iterations have ended."""
        sequence.start_decoding(step)
        self.size += 1
        self.context += sequence.target
        self._block_phase[self._phase(sequence)] += 1
        self._by_last_step.setdefault(sequence.last_step, []).append(sequence)
        if sequence.request.stream:
            self.streaming[sequence.request.id] = sequence

    def remove(self, sequence: Sequence, step: int, scheduled: int) -> int:
        """Take one out after `step` iterations ended and `scheduled` began; its tokens in the KV cache."""
        held = sequence.target + scheduled - sequence.first_step
        self.size -= 1
        self.context -= held
        self._block_phase[self._phase(sequence)] -= 1
        self.streaming.pop(sequence.request.id, None)
        sequence.stop_decoding(step)
        return held

    def new_blocks(self, step: int) -> int:
        """Blocks that its contexts grow into in iteration number `step`."""
        return self._block_phase[step % self._block_size]

    def schedule(self) -> None:
        self.context += self.size

    def finished(self, step: int) -> Iterator[Sequence]:
        """Those that got their last token in the iteration that ended as number `step`."""
        for sequence in self._by_last_step.pop(step, ()):
            if sequence.last_step == step:
                yield sequence

    def _phase(self, sequence: Sequence) -> int:
        return (sequence.first_step - sequence.target) % self._block_size


class Adapters:
    """Which LoRA adapters have requests, and which of them hold one of the batch's slots."""

    def __init__(self, max_loras: int) -> None:
        self._max_loras = max_loras
        self._running: dict[str, int] = {}
        self._active: dict[str, int] = {}
        """Running and waiting requests by adapter."""
        self._label: str | None = ""
        self.combinations: dict[str, float] = {}
        """Active adapters, comma-separated → time when that was last the state."""

    def submitted(self, lora: str) -> None:
        self._active[lora] = self._active.get(lora, 0) + 1
        self._label = None

    def over(self, lora: str) -> None:
        self._active[lora] -= 1
        if self._active[lora] == 0:
            del self._active[lora]
            self._label = None

    def has_slot(self, lora: str) -> bool:
        return self._max_loras == 0 or lora in self._running or len(self._running) < self._max_loras

    def admitted(self, lora: str) -> None:
        self._running[lora] = self._running.get(lora, 0) + 1

    def left(self, lora: str) -> bool:
        """A request left the batch; True: and freed a slot."""
        self._running[lora] -= 1
        if self._running[lora]:
            return False
        del self._running[lora]
        return True

    def record(self, at: float) -> None:
        if not self._max_loras:
            return
        if self._label is None:
            self._label = ",".join(self._active)
        self.combinations[self._label] = at
        if len(self.combinations) > MAX_LORA_COMBINATIONS:
            del self.combinations[next(iter(self.combinations))]
