"""Laws of lengths and times, given by their published percentiles."""

from __future__ import annotations

import math
from bisect import bisect_right
from random import Random


class Quantiles:
    """An inverse distribution function: points of (share, value), straight lines in log(value) between them.

    Published traces are far from any one law (Kolmogorov-Smirnov distances of 0.07 to 0.21 to the best lognormal),
    some have two humps; their percentiles keep both.
    """

    def __init__(self, *points: tuple[float, float]) -> None:
        self._shares = [share for share, _ in points]
        self._logs = [math.log(value) for _, value in points]
        if self._shares[0] != 0 or self._shares[-1] != 1 or self._shares != sorted(set(self._shares)):
            raise ValueError("shares must rise from 0 to 1")
        if self._logs != sorted(self._logs):
            raise ValueError("values must not fall")

    def value(self, share: float) -> float:
        """What *share* (0..1) of the values are at most."""
        right = min(bisect_right(self._shares, share), len(self._shares) - 1)
        left = right - 1
        part = (share - self._shares[left]) / (self._shares[right] - self._shares[left])
        return math.exp(self._logs[left] + part * (self._logs[right] - self._logs[left]))

    def draw(self, rng: Random) -> float:
        return self.value(rng.random())

    def tokens(self, rng: Random, most: int | None = None) -> int:
        """A length; with *most*, of those that are at most so long."""
        while True:
            length = max(1, round(self.value(rng.random())))
            if most is None or length <= most:
                return length


# Azure LLM inference trace 2023, conversation (19,366 requests; github.com/Azure/AzurePublicDataset).  The two
# lengths hardly depend on each other (Spearman 0.07), so they are drawn apart; answers have humps at 100 and 400.
AZURE_CONV_INPUT = Quantiles(
    (0, 20), (0.1, 207), (0.25, 396), (0.5, 1020), (0.75, 1189), (0.9, 2734), (0.95, 4083), (0.99, 4142), (1, 14050)
)  # fmt: skip
AZURE_CONV_OUTPUT = Quantiles(
    (0, 20), (0.1, 60), (0.25, 85), (0.5, 129), (0.75, 395), (0.9, 424), (0.95, 451), (0.99, 601), (1, 1000)
)  # fmt: skip

# The same trace, code (8,819 requests; Spearman -0.02).
AZURE_CODE_INPUT = Quantiles(
    (0, 14), (0.1, 147), (0.25, 578), (0.5, 1469), (0.75, 2744), (0.9, 5188), (0.95, 7303), (0.99, 7436), (1, 7437)
)  # fmt: skip
AZURE_CODE_OUTPUT = Quantiles(
    (0, 6), (0.1, 6), (0.25, 9), (0.5, 13), (0.75, 22), (0.9, 55), (0.95, 90), (0.99, 251), (0.9995, 500), (1, 1899)
)  # fmt: skip

# Mooncake's conversation trace (12,031 requests; FAST'25, github.com/kvcache-ai/Mooncake); quartiles that are not
# published are set so that the means are (12,035 and 343).
MOONCAKE_INPUT = Quantiles(
    (0, 890), (0.06, 1000), (0.1, 1340), (0.25, 2777), (0.5, 6909), (0.75, 13600), (0.9, 27367), (0.95, 39550),
    (0.99, 85400), (1, 126195),
)  # fmt: skip
MOONCAKE_OUTPUT = Quantiles(
    (0, 1), (0.05, 10), (0.25, 120), (0.5, 350), (0.75, 490), (0.9, 597), (0.95, 698), (0.99, 1119), (1, 2000)
)  # fmt: skip
# Seconds from a prompt to the one that extends it.
MOONCAKE_GAP_S = Quantiles((0, 12), (0.1, 42), (0.5, 126), (0.75, 266), (0.9, 486), (0.99, 1482), (1, 3000))
