"""Filters narrow the endpoints of a request.  One that would leave nobody leaves all, if its name says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta

from ..endpoint import Endpoint
from ..request import InferenceRequest
from .plugin import Plugin


class FreshFilter(Plugin, frozen=True, tag="fresh"):
    """Keeps endpoints whose figures are no older than the pool's `metrics.max_age_s`; all where none is."""

    def keep(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float
    ) -> Sequence[Endpoint]:
        fresh = [endpoint for endpoint in endpoints if endpoint.fresh_until > now]
        return fresh or endpoints


class LabelsFilter(Plugin, frozen=True, tag="labels"):
    """Keeps endpoints that carry all of `labels`; nobody where none does (the request gets `no_endpoints`)."""

    labels: dict[str, str]

    def keep(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float
    ) -> Sequence[Endpoint]:
        return _carrying(self.labels, endpoints)


class PreferLabelsFilter(Plugin, frozen=True, tag="prefer-labels"):
    """Keeps endpoints that carry all of `labels`; all where none does."""

    labels: dict[str, str]

    def keep(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float
    ) -> Sequence[Endpoint]:
        return _carrying(self.labels, endpoints) or endpoints


def _carrying(labels: Mapping[str, str], endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Those of *endpoints* that carry all of *labels*."""
    wanted = labels.items()
    return [endpoint for endpoint in endpoints if wanted <= endpoint.labels.items()]


class UnsaturatedFilter(Plugin, frozen=True, tag="unsaturated"):
    """Keeps endpoints below both limits; all where none is."""

    waiting: Annotated[float, Meta(gt=0)] = 5
    """Requests in the endpoint's queue."""
    kv_usage: Annotated[float, Meta(gt=0, le=1)] = 0.9
    """Share of its KV cache, 0..1."""

    def keep(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], now: float
    ) -> Sequence[Endpoint]:
        return [e for e in endpoints if not e.is_saturated(now, self.waiting, self.kv_usage)] or endpoints


Filter = FreshFilter | LabelsFilter | PreferLabelsFilter | UnsaturatedFilter
