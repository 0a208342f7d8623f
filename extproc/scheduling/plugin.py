"""The base of all plugins, and what scorers share.

A plugin is a frozen Struct: its fields are its parameters, its tag is its `type:` in the config.  It holds no
state: state lives in `Endpoint`.  To add a scorer, write one in `scorers` and name it in the union at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, median_low
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from ..endpoint import Endpoint

Weight = Annotated[float, Meta(ge=0.0, le=1000.0)]
Seconds = Annotated[float, Meta(gt=0.0, le=86400.0)]


class Plugin(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A filter, scorer or picker."""

    reads_prompt: ClassVar[bool] = False
    """Whether `InferenceRequest.prompt` matters to it: where it matters to no plugin in use, prompts are not read."""

    @classmethod
    def type_name(cls) -> str:
        """What the config calls it."""
        tag = cls.__struct_config__.tag
        assert isinstance(tag, str)
        return tag


def fill_unknown(values: Sequence[float | None]) -> Sequence[float]:
    """*values* with the median of the known ones for None: the unknown neither attracts nor is shut out."""
    if None not in values:
        return values  # type: ignore[return-value]
    known = [value for value in values if value is not None]
    middle = median(known) if known else 0.0
    return [middle if value is None else value for value in values]


def prefer_low(values: Sequence[float]) -> list[float]:
    """Scores in 0..1: 1 for the lowest of *values*, 0 for the highest, linear between; all equal: 1."""
    low, high = min(values), max(values)
    if high <= low:
        return [1.0] * len(values)
    span = high - low
    return [(high - value) / span for value in values]


def estimated_loads(endpoints: Sequence[Endpoint], now: float) -> Sequence[float]:
    """Requests at each endpoint: ours counted exactly, others' as the last scrape told.

    Where the others' are unknown they count as the median; and an unknown endpoint never counts as less loaded than
    the median of the known: that we sent nothing there does not prove that it is free.
    """
    loads = known_loads(endpoints, now)
    return fill_loads(loads, endpoints, now) if None in loads else loads  # type: ignore[return-value]


def known_loads(endpoints: Sequence[Endpoint], now: float) -> Sequence[int | None]:
    """Requests at each endpoint; None where others' requests there are unknown."""
    return [e.in_flight + e.external if e.fresh_until > now else None for e in endpoints]


def fill_loads(loads: Sequence[int | None], endpoints: Sequence[Endpoint], now: float) -> Sequence[float]:
    """*loads*, as `known_loads` has them, with an estimate for None."""
    known = [load for load in loads if load is not None]
    if not known:
        return [e.in_flight for e in endpoints]
    least = median_low(known)  # the lower: between two, the median would be above the one that is free
    external = median(e.external for e in endpoints if e.fresh_until > now)
    return [
        max(e.in_flight + external, least) if load is None else load
        for e, load in zip(endpoints, loads, strict=True)
    ]
