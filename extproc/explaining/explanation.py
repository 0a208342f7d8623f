"""Why a request goes where it goes: every endpoint of its pool with what speaks for and against it."""

from __future__ import annotations

import random
from collections.abc import Container, Mapping, Sequence

from msgspec import Struct

from ..canary import Target
from ..endpoint import NEVER, Endpoint
from ..errors import Reason, Rejected
from ..holding import with_room
from ..pool import Pool
from ..router import Decision, Draw
from ..routes import drawable, target_name
from ..scheduling.outstanding_work import Cost, OutstandingWorkScorer
from ..scheduling.profile import Table
from ..waiting_room import Ticket
from .question import Outcome, Question, table_of


class TargetRow(Struct, frozen=True):
    """One of the model's targets."""

    model: str
    share: int
    labels: Mapping[str, str]
    endpoints: int
    """That are ready for it."""
    drawn: bool


class EndpointRow(Struct, kw_only=True):
    """One endpoint of the pool, with what speaks for and against it."""

    address: str
    verdict: str
    """`chosen`, `tied` (as good as the chosen), `fallback`, `rated`, or `out`."""
    out: str | None = None
    """Why it was not rated."""
    tier: str | None
    in_flight: int
    external: int
    queue: int
    kv_usage: float | None
    """None: its engine does not tell."""
    metrics_age_s: float | None
    fresh: bool
    set_aside_for_s: float
    cached_tokens: int
    scores: dict[str, float] = {}
    """Scorer type to its score, 0..1, before its weight."""
    total: float | None = None
    """None: nobody rated it, as it was out, or the only one left."""
    cost: Cost | None = None
    """Of the scorer `outstanding-work`."""


class Refusal(Struct, frozen=True):
    reason: str
    status: int
    message: str


class Explanation(Struct, kw_only=True):
    """A decision with its reasons."""

    outcome: str
    """`routed`, `held` (until an endpoint has room), or `refused`."""
    model: str | None
    target_model: str | None
    targets: list[TargetRow]
    sticky: str | None
    """The header by whose value the target is chosen, where the request has it."""
    priority: int
    prompt_tokens: int
    pool: str
    profile: str | None
    picker: str | None
    weights: dict[str, float]
    unknown_profile: bool
    target_fallback: bool
    tier: str | None
    endpoint: str | None
    """Where it goes; where it is held, where it would go if it were sent on now."""
    fallbacks: list[str]
    as_good: list[str]
    """Those who tie for the best, of whom one is drawn; one where nobody ties."""
    endpoints: list[EndpointRow]
    """The best first."""
    refusal: Refusal | None = None


def explain(question: Question) -> Explanation:
    """What comes of the request, and why.  Raises Rejected where its model leads to no pool."""
    draw, answer = _draw(question), question.answer()
    pool = draw.pool if isinstance(draw, Draw) else _pool(question)
    would = _sent_on(question, draw) if isinstance(answer, Ticket) and isinstance(draw, Draw) else answer
    decision = would if isinstance(would, Decision) else None
    table = table_of(decision) if decision else None
    profile = table.profile if table else None
    route = question.router.routes.of(question.request.model)
    return Explanation(
        outcome=_outcome(answer),
        model=question.request.model,
        target_model=target_name(question.request.model, draw.target) or None
        if isinstance(draw, Draw)
        else None,
        targets=_targets(question, draw),
        sticky=_sticky(question),
        priority=question.router.priority(question.request, route, pool),
        prompt_tokens=question.request.prompt.tokens,
        pool=pool.name,
        profile=decision.profile if decision else None,
        picker=profile.picker.type_name() if profile else None,
        weights={scorer.type_name(): scorer.weight for scorer in profile.scorers} if profile else {},
        unknown_profile=decision.unknown_profile if decision else False,
        target_fallback=draw.fell_back if isinstance(draw, Draw) else False,
        tier=decision.tier if decision else None,
        endpoint=decision.endpoint.address if decision else None,
        fallbacks=[endpoint.address for endpoint in decision.fallbacks] if decision else [],
        as_good=[endpoint.address for endpoint in table.best()] if table else [],
        endpoints=_rows(question, draw, pool, decision, table),
        refusal=_refusal(answer),
    )


def _draw(question: Question) -> Draw | Rejected:
    try:
        return question.draw()
    except Rejected as rejection:
        if rejection.reason is not Reason.NO_ENDPOINTS:
            raise
        return rejection


def _sent_on(question: Question, draw: Draw) -> Outcome:
    try:
        return question.router.place(question.request, draw, question.now, random.Random(question.seed))
    except Rejected as rejection:
        return rejection


def _outcome(answer: Outcome) -> str:
    if isinstance(answer, Rejected):
        return "refused"
    return "held" if isinstance(answer, Ticket) else "routed"


def _refusal(answer: Outcome) -> Refusal | None:
    if not isinstance(answer, Rejected):
        return None
    return Refusal(answer.reason.code, answer.reason.status, answer.message)


def _pool(question: Question) -> Pool:
    router = question.router
    route = router.routes.of(question.request.model)
    name = route.model.pool if route else router.config.default_pool_name
    assert name is not None  # else it was refused
    return router.pools[name]


def _sticky(question: Question) -> str | None:
    route = question.router.routes.of(question.request.model)
    header = route.sticky_header if route else None
    return header if header and question.request.headers.get(header) else None


def _targets(question: Question, draw: Draw | Rejected) -> list[TargetRow]:
    route = question.router.routes.of(question.request.model)
    if route is None:
        return []
    request, pool = question.request, question.router.pools[route.model.pool]
    excluded = _excluded(question, pool)
    rows = []
    for target in route.all_targets_for(request.model):
        endpoints, healthy = pool.candidates(target.labels, request.subset, question.now, excluded)
        drawn = isinstance(draw, Draw) and draw.target == target
        rows.append(
            TargetRow(target.model, target.share, target.labels, len(endpoints) if healthy else 0, drawn)
        )
    return rows


def _excluded(question: Question, pool: Pool) -> frozenset[Endpoint]:
    tiers, route = question.router.tiers.get(pool.name), question.router.routes.of(question.request.model)
    if tiers is None:
        return frozenset()
    never = route.barred_tiers if route else frozenset()
    return tiers.excluded(tiers.barred(never, question.request.headers))


def _rows(
    question: Question, draw: Draw | Rejected, pool: Pool, decision: Decision | None, table: Table | None
) -> list[EndpointRow]:
    out = _out(question, draw, pool, table)
    tiers = question.router.tiers.get(pool.name)
    cached = table.cached if table else {}
    rows = {
        endpoint: EndpointRow(
            address=endpoint.address,
            verdict="out" if endpoint in out else "rated",
            out=out.get(endpoint),
            tier=tiers.name(endpoint) if tiers else None,
            in_flight=endpoint.in_flight,
            external=endpoint.external,
            queue=endpoint.queue,
            kv_usage=None if endpoint.kv_fresh_until == NEVER else endpoint.kv_usage,
            metrics_age_s=question.now - endpoint.scraped_at if endpoint.metrics else None,
            fresh=endpoint.is_fresh(question.now),
            set_aside_for_s=max(0.0, endpoint.health.set_aside_until - question.now),
            cached_tokens=cached.get(endpoint, 0),
        )
        for endpoint in pool.endpoints
    }
    if decision is not None and table is not None:
        _rate(question, rows, decision, table)
    return sorted(rows.values(), key=lambda row: (row.verdict == "out", -(row.total or 0.0)))


def _rate(question: Question, rows: Mapping[Endpoint, EndpointRow], decision: Decision, table: Table) -> None:
    scorers = table.profile.scorers
    for scorer, column in zip(scorers, table.columns, strict=False):
        for endpoint, score in zip(table.rated, column, strict=True):
            rows[endpoint].scores[scorer.type_name()] = score
    if table.columns:
        for endpoint, total in zip(table.rated, table.totals(), strict=True):
            rows[endpoint].total = total
    for scorer in scorers:
        if isinstance(scorer, OutstandingWorkScorer):
            costs = scorer.explain(question.request, table.rated, question.now)
            for endpoint, cost in zip(table.rated, costs, strict=True):
                rows[endpoint].cost = cost
    for endpoint in table.best():
        rows[endpoint].verdict = "tied"
    for endpoint in decision.fallbacks:
        rows[endpoint].verdict = "fallback"
    rows[decision.endpoint].verdict = "chosen"


def _out(question: Question, draw: Draw | Rejected, pool: Pool, table: Table | None) -> dict[Endpoint, str]:
    """Why each that was not rated was not."""
    if isinstance(draw, Rejected):
        model = question.request.model
        excluded, targets = _excluded(question, pool), drawable(question.router.routes.of(model), model)
        return {e: _not_eligible(question, targets, excluded, e) for e in pool.endpoints}
    eligible = set(draw.endpoints)
    out = {
        e: _not_eligible(question, (draw.target,), draw.excluded, e)
        for e in pool.endpoints
        if e not in eligible
    }
    if table is None:
        return out | {e: _at_maximum(e) or "refused before any was rated" for e in draw.endpoints}
    offered = table.passed[0][1]
    taken = set(offered)
    out |= {e: _not_offered(question, draw, e, offered[0]) for e in draw.endpoints if e not in taken}
    return out | {endpoint: f"filter {name}" for endpoint, name in table.dropped().items()}


def _not_eligible(
    question: Question, targets: Sequence[Target], excluded: Container[Endpoint], endpoint: Endpoint
) -> str:
    """Why *endpoint* can serve none of *targets*, in the order in which `Pool.candidates` asks."""
    missing = [target.labels.items() - endpoint.labels.items() for target in targets]
    if all(missing):
        if len(targets) > 1:
            return "has the labels of none of the targets"
        return "has not the target's labels: " + ", ".join(f"{k}={v}" for k, v in sorted(missing[0]))
    if endpoint.cordoned is not None:
        return f"cordoned by {endpoint.cordoned}"
    subset = question.request.subset
    if subset is not None and endpoint.address not in subset and endpoint.ip not in subset:
        return "not in the subset hint"
    if endpoint in excluded:
        return "its tier never serves this request"
    return f"set aside for {endpoint.health.set_aside_until - question.now:.1f} s more"


def _at_maximum(endpoint: Endpoint) -> str:
    if endpoint.in_flight < endpoint.max_in_flight:
        return ""
    return f"at its maximum of {endpoint.max_in_flight:g} in flight"


def _not_offered(question: Question, draw: Draw, endpoint: Endpoint, first: Endpoint) -> str:
    """Why *endpoint*, one of the draw's, was not among those to choose from, of whom *first* is one."""
    if at_maximum := _at_maximum(endpoint):
        return at_maximum
    router, pool = question.router, draw.pool
    queue, tiers = router.queue(pool.name), router.tiers.get(pool.name)
    if queue is not None and endpoint not in with_room(draw.endpoints, queue.waiting, question.now):
        return "no room: requests wait there"
    assert tiers is not None  # nothing else narrows the choice
    if tiers.is_full(endpoint, question.now):
        return "full for its tier"
    order = [tier.name for tier in tiers.tiers]
    if order.index(tiers.name(endpoint)) > order.index(tiers.name(first)):
        return "a tier before has room"
    if endpoint.is_fresh(question.now):
        return "the filters leave nobody of its tier"
    return "its figures are old, and those of its tier with fresh ones are full"
