"""Which of a model's requests are mirrored, and where: drawn by percent, or the same for the same key.

Each mirror looks at a request by itself, in the order of the config, and the first that takes it has it: one header
can name only one.  So each mirror may have a key of its own, or none, and a change of one percent leaves the keys of
those before it alone; on one line divided among all mirrors it would shift the keys of all that follow.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import xxhash
from msgspec import Struct

ALL = 100.0
"""Percent."""


class Mirror(Struct, frozen=True):
    """Others that get a share of a model's requests, too, and whose answers are thrown away."""

    name: str
    percent: float
    """Of all requests for the model, > 0."""
    sticky_header: str | None = None
    """In lower case.  Requests with the same value are mirrored all or not at all; those without are drawn."""


def choose(
    mirrors: Sequence[Mirror], model: str, headers: Mapping[str, str], rng: random.Random
) -> str | None:
    """The mirror (percents sum up to at most 100) that gets a copy of a request for *model* with *headers*.

    None: nobody, and always so for an upgrade, of which Envoy sends no copy.
    """
    if "upgrade" in headers or headers.get(":method") == "CONNECT":
        return None
    left = ALL
    for mirror in mirrors:
        if _position(mirror, model, headers, rng) * left < mirror.percent:
            return mirror.name
        left -= mirror.percent  # who comes later sees only these, and still gets its percent of all
    return None


def _position(mirror: Mirror, model: str, headers: Mapping[str, str], rng: random.Random) -> float:
    """In [0, 1): of the key, and then the same in every replica; or drawn.

    No two mirrors, models or canaries (whose text goes on with `[`) hash the same text: they are independent.
    """
    key = headers.get(mirror.sticky_header) if mirror.sticky_header else None
    if not key:
        return rng.random()
    digest = xxhash.xxh3_64_intdigest(f"{model}\0{mirror.name}\0{key}".encode("utf-8", "surrogatepass"))
    return (digest >> 11) / (1 << 53)  # 53 bits: exact in a float
