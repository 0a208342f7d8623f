"""Which of a model's targets serves a request: drawn by weight, or sticky by weighted rendezvous hash.

Rendezvous: Thaler and Ravishankar 1998; weights: Schindelhauer and Schomaker 2005, "Weighted distributed hash
tables": score = -weight / ln(hash in (0, 1)), the highest wins.  Every replica agrees without shared state, and
raising one weight moves keys to that target only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import msgspec
import xxhash
from msgspec import Struct


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """One version of a model: what the model server calls it, its share, and which endpoints have it."""

    model: str
    weight: int | None = None
    labels: dict[str, str] = {}

    @property
    def share(self) -> int:
        """The weight; where no target of a model has one all are equal."""
        return 1 if self.weight is None else self.weight

    @property
    def identity(self) -> str:
        """What makes two targets the same for a sticky key; the weight is no part of it.

        JSON, so that no two targets share one whatever their names and labels hold.
        """
        return msgspec.json.encode([self.model, sorted(self.labels.items())]).decode()


def draw(targets: Sequence[Target], rng: random.Random) -> Target:
    """One of *targets* (weights > 0), each as often as its weight says."""
    if len(targets) == 1:
        return targets[0]
    point = rng.random() * sum(target.share for target in targets)
    for target in targets:
        point -= target.share
        if point < 0:
            return target
    return targets[-1]  # rounding: the sum of the shares was reached exactly


def stick(targets: Sequence[Target], salt: str, key: str) -> Target:
    """The target (weights > 0) of *key*: the same one always, for as long as it is among *targets*.

    *salt* (the client's model name) keeps the assignments of different models independent.
    """
    if len(targets) == 1:
        return targets[0]
    return max(targets, key=lambda target: _score(target, salt, key))


def _score(target: Target, salt: str, key: str) -> float:
    digest = xxhash.xxh3_64_intdigest(f"{salt}\0{target.identity}\0{key}".encode("utf-8", "surrogatepass"))
    uniform = ((digest >> 12) + 0.5) / 2**52  # 52 bits: exact in a float, and never 0 or 1
    return -target.share / math.log(uniform)
