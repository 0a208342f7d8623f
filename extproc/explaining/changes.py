"""What would change a decision, found by deciding again with one thing changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from ..endpoint import Endpoint
from ..scheduling.pickers import MaxScorePicker
from .explanation import EndpointRow, Explanation
from .levers import Lever, counted, levers, pool_of
from .question import Question

MAX_ENDPOINTS = 10
"""Those nearest to being chosen: more would bury the answer, and each takes some dozens of decisions."""
MAX_MORE = 1 << 20
"""How much more the chosen one is tried with; a thing that does not matter stops mattering here."""


class Change(Struct, frozen=True):
    """One thing that alone would change the decision."""

    endpoint: str
    what: str
    """`requests`, `tokens_ahead`, `waiting`, `kv_usage`, `cached_tokens`, `fresh`, `cordoned`, `set_aside`, `lora`,
    `speed`, `tier` or `idle`: for the endpoint to be chosen; `more_requests`, `more_tokens_ahead`: for it to be so no
    longer."""
    amount: int
    """The least that does: requests, tokens, or points (hundredths) of the KV cache; 1 for what is or is not."""
    tie: bool
    """It would then be one of several as good, of whom one is drawn."""
    text: str


def what_would_change(question: Question, explained: Explanation) -> list[Change]:
    """For those nearest to being chosen, each thing that alone would have them chosen, and what would take the
    choice from the chosen one.  Nothing where the profile's picker draws: there every score may win.

    The router of *question* must be nobody else's: its endpoints are changed, and set right again.
    """
    if explained.picker not in (None, MaxScorePicker.type_name()):
        return []
    pool = question.router.pools[explained.pool]
    found: list[Change] = []
    if len(explained.as_good) == 1:
        found += _losing(question, pool.by_address[explained.as_good[0]])
    others = [row for row in explained.endpoints if row.address not in explained.as_good]
    for row in sorted(others, key=_nearness)[:MAX_ENDPOINTS]:
        found += _winning(question, pool.by_address[row.address])
    return found


def _nearness(row: EndpointRow) -> float:
    return math.inf if row.total is None else -row.total


def _winning(question: Question, endpoint: Endpoint) -> Iterator[Change]:
    """What would have *endpoint* chosen: single things, or else everything at once."""
    changed = False
    for lever in levers(question, endpoint):
        change = _least(question, endpoint, lever, wins=True)
        if change is not None and not (changed and lever.what == "idle"):
            changed = True
            yield change


def _losing(question: Question, endpoint: Endpoint) -> Iterator[Change]:
    """What would take the choice from *endpoint*."""

    def requests(count: int) -> None:
        endpoint.in_flight += count

    def tokens(count: int) -> None:
        endpoint.backlog.tokens, endpoint.backlog.at = (
            endpoint.backlog.left(question.now) + count,
            question.now,
        )

    for lever in (
        Lever("more_requests", MAX_MORE, requests, lambda n: counted(n, "more request")),
        Lever("more_tokens_ahead", MAX_MORE, tokens, lambda n: f"{counted(n, 'more prompt token')} ahead"),
    ):
        change = _least(question, endpoint, lever, wins=False)
        if change is not None:
            yield change


def _least(question: Question, endpoint: Endpoint, lever: Lever, *, wins: bool) -> Change | None:
    """The least of *lever* that does, by bisection; None where even the most does not."""

    def tried(amount: int) -> list[Endpoint]:
        with _set_right(question, endpoint):
            lever.apply(amount)
            return question.best()

    def does(best: list[Endpoint]) -> bool:
        return endpoint in best if wins else best != [endpoint]

    if lever.most < lever.least or not does(tried(lever.most)):
        return None
    low, high = lever.least - 1, lever.most  # low does not, high does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if does(tried(middle)) else (middle, high)
    best = tried(high)
    tie = endpoint in best and len(best) > 1
    return Change(endpoint.address, lever.what, high, tie, lever.text(high))


@contextmanager
def _set_right(question: Question, endpoint: Endpoint) -> Iterator[None]:
    """Whatever a lever changes is afterwards as it was."""
    pool, request = pool_of(question, endpoint), question.request
    full = [(each, each.full_until) for each in pool.endpoints]
    index, cached = pool.index, request.cached
    names = (
        *("in_flight", "external", "waiting", "running", "kv_usage", "running_loras", "fresh_until"),
        *("queue_fresh_until", "kv_fresh_until", "token_s", "slowness", "in_flight_at_scrape"),
        *("tokens_in_flight", "cordoned"),
    )
    kept = {name: getattr(endpoint, name) for name in names}
    backlog, health = endpoint.backlog, endpoint.health
    kept_backlog, set_aside_until = (backlog.tokens, backlog.at), health.set_aside_until
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(endpoint, name, value)
        (backlog.tokens, backlog.at), health.set_aside_until = kept_backlog, set_aside_until
        for each, until in full:
            each.filled(until)
        pool.index, request.cached = index, cached
