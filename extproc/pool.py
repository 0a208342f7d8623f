"""A pool of endpoints that serve the same thing: membership, selection by labels, in-flight counts, health."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from operator import attrgetter
from statistics import median

import xxhash

from .endpoint import NEVER, Endpoint
from .engine_metrics import EngineMetrics, fell
from .health import Failure
from .others import Others, shared_tokens
from .prefix_index import PrefixIndex
from .request import InferenceRequest
from .work import Work

MAX_SET_ASIDE_ANSWERING_RATIO = 0.5
"""Endpoints that still answer (502, 503, 504) are overloaded more often than broken: setting aside more than half
of a pool for that would crush the rest.  Unreachable ones may all be set aside but one."""

DEFAULT_CAPACITY_TOKENS = 200_000
"""Of a KV cache whose size no scrape told: an 8B model on a card of 48 GB, a 70B model on four of 80 GB, hold more."""

MAX_ADAPTERS = 10_000
"""More names than a fleet has; they take 1 MB.  A server that makes up names starts the memory anew."""

COMPARE_S = 1.0
"""How often the endpoints' speeds are compared: they change slowly, and it takes half a millisecond for a thousand."""
SAME_SPEED = 0.4
"""Endpoints whose measured speeds differ by less are equal: the measurement is no better, and noise would unbalance
what is equal."""
MAX_SPEED_RATIO = 30.0
"""More lies between no two cards that one would mix; a server whose counters are broken must not draw all requests."""

Labels = Mapping[str, str]

_address_of = attrgetter("address")


class Pool:
    """Endpoints in a fixed order, replaced as a whole when membership changes."""

    def __init__(self, name: str, endpoints: Iterable[Endpoint] = (), before: Pool | None = None) -> None:
        """*before*: the pool that this one takes over from, with what that learnt."""
        self.name = name
        self.index: PrefixIndex[Endpoint] = before.index if before else PrefixIndex()
        """What the endpoints have cached of prompts."""
        self.adapters: set[str] = before.adapters if before else set()
        """LoRA adapters that an endpoint ever told of."""
        self.others: Others = before.others if before else Others()
        """What is expected of requests that are not ours."""
        self.endpoints: tuple[Endpoint, ...] = ()
        self.by_address: dict[str, Endpoint] = {}
        self.mean_output: float = before.mean_output if before else 0.0
        """Tokens of an answer, on average, as the endpoints' counters tell; 0: unknown."""
        self.restricted = False
        """Whether an endpoint may be cordoned or have a maximum; where none is, none is asked."""
        self.load_reports = False
        """Whether answers are asked to tell of their endpoints' load."""
        self._compared_at = NEVER
        self._selections: dict[frozenset[tuple[str, str]], tuple[Endpoint, ...]] = {}
        self.replace(endpoints)

    def replace(self, endpoints: Iterable[Endpoint]) -> None:
        """Set the membership; what vanished gets no new request, what it still serves is counted down as usual."""
        before = frozenset(self.endpoints)
        self.endpoints = tuple(endpoints)
        self.by_address = dict(zip(map(_address_of, self.endpoints), self.endpoints, strict=True))
        self._selections = {}
        self.restricted = any(e.cordoned or e.max_in_flight < math.inf for e in self.endpoints)
        self.index.keep(self.endpoints)
        if not before.issuperset(self.endpoints):
            compare(self.endpoints)  # or a new one would count as fast as one of which nothing is known

    def forget_scrapes(self) -> None:
        """Other pages than before are read, or none: nothing would correct what they told."""
        self.adapters, self.mean_output, self.others.share = set(), 0.0, 1.0

    def retain(self, endpoints: Set[Endpoint]) -> None:
        """Drop all members but *endpoints*, from what was selected by labels too.

        For a pool that was taken over from: streams that began with it must not go to a pod that went since, whose
        address may be another's by now.
        """
        self.endpoints = tuple(e for e in self.endpoints if e in endpoints)
        self.by_address = {endpoint.address: endpoint for endpoint in self.endpoints}
        self._selections = {
            labels: tuple(e for e in selection if e in endpoints)
            for labels, selection in self._selections.items()
        }

    def select(self, labels: Labels) -> tuple[Endpoint, ...]:
        """The members that carry all of *labels*."""
        if not labels:
            return self.endpoints
        key = frozenset(labels.items())
        selection = self._selections.get(key)
        if selection is None:
            selection = tuple(e for e in self.endpoints if key <= e.labels.items())
            self._selections[key] = selection
        return selection

    def candidates(
        self,
        labels: Labels,
        subset: frozenset[str] | None,
        now: float,
        excluded: Collection[Endpoint] = (),
    ) -> tuple[list[Endpoint], bool]:
        """(endpoints, healthy): those with *labels* that a subset hint allows, without *excluded*.

        Those set aside are left out (healthy is True), unless nobody else is left: a poor chance beats none.  Those
        cordoned are left out whoever is left.
        """
        selection: Iterable[Endpoint] = self.select(labels)
        if self.restricted:
            selection = [e for e in selection if e.cordoned is None]
        if subset is not None:
            selection = [e for e in selection if e.address in subset or e.ip in subset]
        if excluded:
            selection = [e for e in selection if e not in excluded]
        healthy = [e for e in selection if e.health.set_aside_until <= now]
        return (healthy, True) if healthy else (list(selection), False)

    def below_max(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Those of *endpoints* that have fewer requests of ours than their maximum."""
        if not self.restricted:
            return endpoints
        return [e for e in endpoints if e.in_flight < e.max_in_flight]

    def failed(self, endpoint: Endpoint, failure: Failure, now: float) -> float | None:
        """Note a failure; the pause in seconds where *endpoint* is set aside for it, else None."""
        if not endpoint.health.failed(now, failure):
            return None
        serving = [e for e in self.endpoints if e.cordoned is None]
        aside = sum(e.health.is_set_aside(now) for e in serving)
        total = len(serving)
        most = int(total * MAX_SET_ASIDE_ANSWERING_RATIO) if failure is Failure.ANSWERED else total - 1
        return endpoint.health.set_aside(now, failure) if aside < most else None

    def match(self, request: InferenceRequest) -> None:
        """Note in *request*, whose target is known, what was learnt that matters to it."""
        request.is_adapter = request.target_model in self.adapters
        prefix = request.prompt.prefix
        request.cached = self.index.match(prefix, _salt(request.target_model)) if prefix else {}
        request.expected = self.others.expect(request.cached, request.prompt, self.endpoints)

    def work(self, request: InferenceRequest, endpoint: Endpoint) -> Work:
        """What *request* would mean to *endpoint*."""
        prompt = request.prompt
        output = self.mean_output
        if prompt.max_output_tokens is not None:
            output = min(output, prompt.max_output_tokens)
        shared = shared_tokens(request.cached.values(), len(self.endpoints))
        return Work(
            prompt_tokens=prompt.tokens,
            new_tokens=max(0, prompt.tokens - request.cached.get(endpoint, 0)),
            found_tokens=max(request.cached.values(), default=shared) - shared,
            findable_tokens=max(0, prompt.tokens - shared) if prompt.prefix else 0,
            output_tokens=output,
            adapter=request.target_model if request.is_adapter else None,
            prefix=prompt.prefix,
            salt=_salt(request.target_model) if prompt.prefix else 0,
        )

    def moved(self, work: Work, endpoint: Endpoint) -> None:
        """*endpoint* serves *work* instead of the one that it was meant for, and has other things in its cache."""
        cached = self.index.match(work.prefix, work.salt).get(endpoint, 0) if work.prefix else 0
        work.new_tokens = max(0, work.prompt_tokens - cached)

    def sent(self, work: Work, endpoint: Endpoint, now: float) -> None:
        """*work* was sent to *endpoint*."""
        self.others.sent(work)
        self.computes(work, endpoint, now)

    def computes(self, work: Work, endpoint: Endpoint, now: float) -> None:
        """*endpoint* has *work*, whoever sent it: what it computes will be in its cache."""
        if _written(endpoint.metrics) is None:  # else its counters tell, and know of others' requests too
            tokens = work.new_tokens + round(work.output_tokens)
            self.index.wrote(endpoint, tokens, _capacity_tokens(endpoint))
        if work.prefix:
            self.index.insert(work.prefix, endpoint, now, work.salt)

    def observed(self, endpoint: Endpoint, before: EngineMetrics | None) -> None:
        """*endpoint* was scraped, and *before* was what the scrape before it told."""
        after = endpoint.metrics
        self._learn_adapters(endpoint)
        if before is None or after is None:
            return
        if endpoint.scraped_at - self._compared_at >= COMPARE_S:
            self._compared_at = endpoint.scraped_at
            compare(self.endpoints)
            self.others.observe(self.endpoints)
            self.mean_output = _mean_output(self.endpoints)
        if _began_anew(before, after):
            self.index.forget(endpoint)
            return
        written_before, written = _written(before), _written(after)
        if written_before is not None and written is not None:
            # may be less than 0: what the cache gives is counted at a prefill's beginning, the prompt at its end
            self.index.wrote(endpoint, round(written - written_before), _capacity_tokens(endpoint))

    def _learn_adapters(self, endpoint: Endpoint) -> None:
        for loras in (endpoint.running_loras, endpoint.waiting_loras):
            if not loras <= self.adapters:
                if len(self.adapters) > MAX_ADAPTERS:
                    self.adapters.clear()
                self.adapters |= loras


def compare(endpoints: Sequence[Endpoint]) -> None:
    """Set each endpoint's `token_s` and `slowness` by its measured speed; the unmeasured count as the median.

    Compared is how long each would take for an iteration of the pool's usual mix: where iterations hardly differ, a
    fit can't tell what the tokens cost from what the iteration does, but their sum it knows.
    """
    measured = [e.step_time for e in endpoints if e.step_time.prefill_rate]
    if not measured:
        return
    tokens = median(each.tokens_per_step for each in measured)
    usual_s = median(each.step_s + tokens * each.token_s for each in measured)
    token_s = median(1.0 / each.prefill_rate for each in measured)
    for endpoint in endpoints:
        each = endpoint.step_time
        ratio = _unless_same((each.step_s + tokens * each.token_s) / usual_s) if each.prefill_rate else 1.0
        endpoint.token_s, endpoint.slowness = token_s * ratio, ratio


def _mean_output(endpoints: Sequence[Endpoint]) -> float:
    known = [e.step_time.mean_output for e in endpoints if e.step_time.mean_output]
    return sum(known) / len(known) if known else 0.0


def _unless_same(ratio: float) -> float:
    if 1.0 / (1.0 + SAME_SPEED) < ratio < 1.0 + SAME_SPEED:
        return 1.0
    return min(max(ratio, 1.0 / MAX_SPEED_RATIO), MAX_SPEED_RATIO)


def _salt(model: str) -> int:
    """What keeps prompts to different models apart: the same text has another KV cache under another adapter."""
    return xxhash.xxh3_64_intdigest(model.encode("utf-8", "surrogatepass"))


def _written(metrics: EngineMetrics | None) -> float | None:
    """Tokens that the engine wrote to its KV cache since its start; None: unknown."""
    if metrics is None or metrics.prompt_tokens_total is None or metrics.generation_tokens_total is None:
        return None
    cached = metrics.prefix_cache_hits_total or 0.0
    return metrics.prompt_tokens_total - cached + metrics.generation_tokens_total


def _began_anew(before: EngineMetrics, after: EngineMetrics) -> bool:
    """Whether a counter fell: the server was restarted, and its cache is empty."""
    return fell(before.prompt_tokens_total, after.prompt_tokens_total) or fell(
        before.requests_finished_total, after.requests_finished_total
    )


def _capacity_tokens(endpoint: Endpoint) -> int:
    metrics = endpoint.metrics
    known = metrics.block_size * metrics.num_gpu_blocks if metrics is not None else 0
    return known or DEFAULT_CAPACITY_TOKENS
