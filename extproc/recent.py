"""The last decisions, for `/debug/explain`: kept as they were made, and put into words only when somebody asks."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from .endpoint import Endpoint
from .request import Headers
from .router import Decision
from .scheduling.profile import Table

KEPT = 64
"""Decisions: enough to find the one that was just asked for; at 1,000 endpoints each holds 60 KB of scores."""
MAX_ID = 256
"""Characters of a request id: clients choose it."""


class _Record(Struct, eq=False):
    request_id: str
    at: float
    decision: Decision
    members: tuple[Endpoint, ...]
    """Of the pool, then."""
    table: Table | None


class RecentDecisions:
    """Those of this process, the newest first."""

    def __init__(self, kept: int = KEPT) -> None:
        self._records: collections.deque[_Record] = collections.deque(maxlen=kept)

    def add(self, decision: Decision, headers: Headers, now: float) -> None:
        """*decision* is about to be carried out; its table is kept here and no longer there."""
        request_id, members = headers.get("x-request-id", ""), decision.pool.endpoints
        table = decision.choice.take_table()
        self._records.appendleft(_Record(request_id, now, decision, members, table))

    def describe(self, now: float, limit: int = KEPT, request_id: str | None = None) -> list[dict[str, Any]]:
        """Up to *limit* of them, or of those of one request; no body, no header but the request's id.

        Nothing here changes while others decide, so that it may be done in a thread.
        """
        found = [r for r in list(self._records) if request_id is None or r.request_id[:MAX_ID] == request_id]
        return [_record(record, now) for record in found[:limit]]


def _record(record: _Record, now: float) -> dict[str, Any]:
    decision, table = record.decision, record.table
    return {
        "request_id": record.request_id[:MAX_ID] or None,
        "age_s": round(now - record.at, 3),
        "model": decision.model,
        "target_model": decision.target_model,
        "target_fallback": decision.target_fallback,
        "pool": decision.pool.name,
        "tier": decision.tier,
        "endpoint": decision.endpoint.address,
        "fallbacks": [endpoint.address for endpoint in decision.fallbacks],
        "mirror": decision.mirror,
        "candidates": decision.candidates,
        "prompt_tokens": decision.work.prompt_tokens,
        "new_tokens": decision.work.new_tokens,
        "profile": decision.profile,
        "picker": table and table.profile.picker.type_name(),
        "weights": table and {scorer.type_name(): scorer.weight for scorer in table.profile.scorers},
        "as_good": table and [endpoint.address for endpoint in table.best()],
        "dropped": decision.choice.dropped,
        "endpoints": table and _endpoints(record.members, table),
    }


def _endpoints(members: tuple[Endpoint, ...], table: Table) -> list[dict[str, Any]]:
    """Those that were rated, the best first, then the others: `by` is the filter that dropped it, or null where
    it was not among those to choose from (labels, subset hint, health, tier, queue)."""
    names = [scorer.type_name() for scorer in table.profile.scorers]
    rated, totals = table.rated, table.totals()
    columns: Mapping[str, Any] = dict(zip(names, table.columns, strict=True)) if table.columns else {}
    told = [
        {
            "address": rated[index].address,
            "total": totals[index] if columns else None,
            "scores": {name: column[index] for name, column in columns.items()},
            "cached_tokens": table.cached.get(rated[index], 0),
        }
        for index in sorted(range(len(rated)), key=totals.__getitem__, reverse=True)
    ]
    seen, dropped = set(rated), table.dropped()
    left = [{"address": e.address, "by": dropped.get(e)} for e in members if e not in seen]
    return [*told, *left]
