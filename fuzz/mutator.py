"""Our own mutations, seeded: for tests, and where there is no atheris.  Nothing guides them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from .target import Target

MOST_EDITS = 6
"""More of them leave nothing of the seed that a reader would recognise."""
EDGES = (0, 1, 0x1F, 0x20, 0x22, 0x5C, 0x7F, 0x80, 0xC3, 0xFF)


class Mutator:
    """Endless inputs for a target: its seeds, then what becomes of them."""

    def __init__(self, target: Target, seed: int) -> None:
        self._rng = random.Random(seed)
        self._seeds: Sequence[bytes] = [each[: target.max_bytes] for each in target.seeds()] or [b""]
        self._tokens = target.tokens
        self._max_bytes = target.max_bytes

    def __iter__(self) -> Iterator[bytes]:
        yield from self._seeds
        while True:
            data = bytearray(self._rng.choice(self._seeds))
            for _ in range(self._rng.randint(1, MOST_EDITS)):
                self._rng.choice(_EDITS)(self, data)
            yield bytes(data[: self._max_bytes])

    def _range(self, data: bytearray) -> slice:
        start = self._rng.randint(0, len(data))
        return slice(start, start + min(self._rng.choice((0, 1, 2, 4, 16, 64)), len(data) - start))

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._rng.randrange(len(data))] = self._rng.choice((self._rng.randrange(256), *EDGES))

    def _remove(self, data: bytearray) -> None:
        del data[self._range(data)]

    def _repeat(self, data: bytearray) -> None:
        taken = self._range(data)
        data[taken.start : taken.start] = data[taken] * self._rng.choice((1, 2, 30))

    def _token(self, data: bytearray) -> None:
        if self._tokens:
            data[self._range(data)] = self._rng.choice(self._tokens)

    def _noise(self, data: bytearray) -> None:
        data[self._range(data)] = self._rng.randbytes(self._rng.randint(1, 8))

    def _cut(self, data: bytearray) -> None:
        del data[self._rng.randint(0, len(data)) :]

    def _cross(self, data: bytearray) -> None:
        other = self._rng.choice(self._seeds)
        data[self._rng.randint(0, len(data)) :] = other[self._rng.randint(0, len(other)) :]


_EDITS: tuple[Callable[[Mutator, bytearray], None], ...] = (
    Mutator._set,
    Mutator._set,
    Mutator._remove,
    Mutator._repeat,
    Mutator._token,
    Mutator._token,
    Mutator._noise,
    Mutator._cut,
    Mutator._cross,
)
