"""Books of an engine's LoRA adapters: which have requests, and which are on the GPU."""

from __future__ import annotations

from collections import OrderedDict

MAX_LORA_COMBINATIONS = 1000
"""vLLM never forgets one; here a day with many adapters must not eat the memory."""


class Adapters:
    """Which LoRA adapters have requests, which of them are in the batch, and which are in one of the slots.

    An adapter stays in its slot when its requests are over, until another needs the slot: the one whose last
    use is the longest ago goes (vllm/lora/model_manager.py: LRUCacheLoRAModelManager).
    """

    def __init__(self, max_loras: int) -> None:
        self._max_loras = max_loras
        self._running: dict[str, int] = {}
        self._slots: OrderedDict[str, None] = OrderedDict()
        """In the order in which those without running requests were last used."""
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

    def admitted(self, lora: str) -> bool:
        """A request joined the batch; True: its adapter has to be loaded."""
        self._running[lora] = self._running.get(lora, 0) + 1
        if self._max_loras == 0 or lora in self._slots:
            return False
        if len(self._slots) == self._max_loras:
            del self._slots[next(name for name in self._slots if name not in self._running)]
        self._slots[lora] = None
        return True

    def left(self, lora: str) -> bool:
        """A request left the batch; True: and so can another adapter's join."""
        self._running[lora] -= 1
        if self._running[lora]:
            return False
        del self._running[lora]
        if self._max_loras:
            self._slots.move_to_end(lora)
        return True

    def record(self, at: float) -> None:
        if not self._max_loras:
            return
        if self._label is None:
            self._label = ",".join(self._active)
        self.combinations[self._label] = at
        if len(self.combinations) > MAX_LORA_COMBINATIONS:
            del self.combinations[next(iter(self.combinations))]
