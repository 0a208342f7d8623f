"""One request in flight: counted once, at the endpoint that serves it; and what its answer says of that endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from prompts import chain

from extproc.endpoint import Endpoint
from extproc.engine_metrics import EngineMetrics
from extproc.flight import EARLY_CLOSE_S, LINGER_S, Answered, Flight, Watcher
from extproc.health import FAILURES, Failure
from extproc.pool import Pool
from extproc.work import Work

A, B, C = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"
ELSEWHERE = "10.9.9.9:8000"


class Field:
    """A pool of three, and what was told of it."""

    def __init__(self) -> None:
        self.pool = Pool("pool", [Endpoint(A), Endpoint(B), Endpoint(C)])
        self.told: list[tuple[Any, ...]] = []
        self.watcher = Watcher(
            missed=lambda pool, address: self.told.append(("missed", pool.name, address)),
            set_aside=lambda pool, endpoint, failure, pause_s: self.told.append(
                ("set_aside", pool.name, endpoint.address, failure, pause_s)
            ),
        )

    def fly(self, address: str = A, work: Work | None = None) -> Flight:
        return Flight(self.pool, self.pool.by_address[address], self.watcher, work)

    @property
    def counts(self) -> dict[str, int]:
        return {endpoint.address: endpoint.in_flight for endpoint in self.pool.endpoints}

    @property
    def failures(self) -> dict[str, int]:
        """Of endpoints that have any."""
        return {e.address: e.health.failures for e in self.pool.endpoints if e.health.failures}


@pytest.fixture
def field() -> Field:
    return Field()


NOBODY = {A: 0, B: 0, C: 0}


# -- counting -----------------------------------------------------------------------------------------------


def test_a_request_counts_from_its_decision_to_its_end(field: Field) -> None:
    flight = field.fly()
    assert field.counts == {A: 1, B: 0, C: 0}
    flight.answered(Answered(200, served=A), 1.0)
    assert field.counts == {A: 1, B: 0, C: 0}
    assert flight.end(2.0) is False
    assert field.counts == NOBODY


ENDINGS: list[list[Answered]] = [
    [],  # the client left
    [Answered(200)],
    [Answered(200, served=A)],
    [Answered(200, served=B)],
    [Answered(200, served=ELSEWHERE)],
    [Answered(200, served="")],
    [Answered(503, served=A)],
    [Answered(503, served=B, details="via_upstream")],
    [Answered(500)],
    [Answered(0)],
    [Answered(200, streamed=True)],
    [Answered(200, served=B, streamed=True)],
    [Answered(200, served=ELSEWHERE, streamed=True)],
]


@pytest.mark.parametrize("answers", ENDINGS)
def test_whatever_the_ending_it_is_counted_down_exactly_once(field: Field, answers: list[Answered]) -> None:
    flight = field.fly()
    for answer in answers:
        flight.answered(answer, 1.0)
    flight.end(10.0)
    assert field.counts == NOBODY
    flight.end(10.0)
    assert field.counts == NOBODY
    for endpoint in field.pool.endpoints:
        endpoint.expire(1e9)
    assert field.counts == NOBODY


def test_the_count_moves_to_the_endpoint_that_serves(field: Field) -> None:
    flight = field.fly(A)
    flight.answered(Answered(200, served=B), 1.0)
    assert field.counts == {A: 0, B: 1, C: 0}
    assert field.told == []
    flight.end(2.0)
    assert field.counts == NOBODY


def test_an_endpoint_that_is_not_ours_is_a_pin_miss_and_counts_nowhere(field: Field) -> None:
    flight = field.fly(A)
    flight.answered(Answered(200, served=ELSEWHERE), 1.0)
    assert field.counts == NOBODY
    assert field.told == [("missed", "pool", ELSEWHERE)]
    assert field.failures == {}
    assert flight.end(2.0) is False


def test_a_request_to_an_endpoint_that_a_reload_took_away_is_counted_down_there(field: Field) -> None:
    gone = field.pool.by_address[A]
    flight = field.fly(A)
    field.pool.replace([field.pool.by_address[B]])
    assert gone.in_flight == 1
    flight.end(1.0)
    assert gone.in_flight == 0


# -- what it weighs -----------------------------------------------------------------------------------------


def work() -> Work:
    return Work(prompt_tokens=512, new_tokens=512, output_tokens=100.0, adapter="a", prefix=TEXT)


def weights(field: Field, now: float) -> dict[str, tuple[float, float, dict[str, int]]]:
    return {
        e.address: (e.tokens_in_flight, e.backlog.left(now), e.loras_in_flight) for e in field.pool.endpoints
    }


TEXT = chain("abcdefgh")
NO_WEIGHT = dict.fromkeys((A, B, C), (0.0, 0.0, {}))


def test_its_work_is_where_it_is_counted_and_leaves_with_it(field: Field) -> None:
    flight = field.fly(A, work())
    assert weights(field, 1.0) == NO_WEIGHT | {A: (612.0, 512.0, {"a": 1})}
    flight.answered(Answered(200, served=A), 1.0)
    assert weights(field, 1.0) == NO_WEIGHT | {A: (612.0, 512.0, {"a": 1})}
    flight.end(2.0)
    assert weights(field, 2.0) == NO_WEIGHT


@pytest.mark.parametrize("answers", ENDINGS)
def test_whatever_the_ending_nothing_of_its_work_stays(field: Field, answers: list[Answered]) -> None:
    flight = field.fly(A, work())
    for answer in answers:
        flight.answered(answer, 1.0)
    flight.end(1.0)
    for endpoint in field.pool.endpoints:
        endpoint.expire(1e9)
    assert (field.counts, weights(field, 1e9)) == (NOBODY, NO_WEIGHT)


def test_where_another_endpoint_serves_it_its_whole_prompt_is_to_be_computed_there(field: Field) -> None:
    known = replace(work(), new_tokens=12)  # A had the rest in its cache
    flight = field.fly(A, known)
    flight.answered(Answered(200, served=B), 1.0)
    assert weights(field, 1.0) == NO_WEIGHT | {B: (612.0, 512.0, {"a": 1})}


def test_or_as_much_of_it_as_is_not_in_that_ones_cache(field: Field) -> None:
    field.fly(B, work()).end(0.5)
    flight = field.fly(A, work())
    flight.answered(Answered(200, served=B), 1.0)
    assert weights(field, 1.0) == NO_WEIGHT | {B: (612.0, 0.0, {"a": 1})}


def test_whoever_gets_a_prompt_has_it_in_its_cache_from_then_on(field: Field) -> None:
    flight = field.fly(A, work())
    assert field.pool.index.match(TEXT) == {field.pool.by_address[A]: 512}
    flight.answered(Answered(200, served=B), 1.0)
    assert field.pool.index.match(TEXT) == {field.pool.by_address[each]: 512 for each in (A, B)}


def test_its_hashes_are_let_go_of_once_it_is_known_who_serves_it(field: Field) -> None:
    kept = work()
    flight = field.fly(A, kept)
    assert kept.prefix == TEXT
    flight.answered(Answered(200, served=A, streamed=True), 1.0)
    assert kept.prefix == ()


# -- streams that Envoy closes at the response headers ------------------------------------------------------


def test_a_streamed_answer_whose_stream_closes_at_its_headers_lingers(field: Field) -> None:
    flight = field.fly()
    flight.answered(Answered(200, streamed=True), 100.0)
    assert flight.end(100.0 + EARLY_CLOSE_S / 2) is True
    assert field.counts == {A: 1, B: 0, C: 0}
    endpoint = field.pool.by_address[A]
    endpoint.expire(100.0 + LINGER_S)
    assert field.counts == {A: 1, B: 0, C: 0}
    endpoint.expire(100.0 + LINGER_S + EARLY_CLOSE_S)
    assert field.counts == NOBODY


def test_it_lingers_where_it_is_served(field: Field) -> None:
    flight = field.fly(A)
    flight.answered(Answered(200, served=B, streamed=True), 100.0)
    assert flight.end(100.0) is True
    assert field.counts == {A: 0, B: 1, C: 0}


def test_the_next_scrape_takes_over_what_lingers(field: Field) -> None:
    flight = field.fly()
    flight.answered(Answered(200, streamed=True), 100.0)
    flight.end(100.0)
    endpoint = field.pool.by_address[A]
    endpoint.observe(EngineMetrics(waiting=0, running=1), 100.1)
    assert (endpoint.in_flight, endpoint.load) == (0, 1.0)
    endpoint.expire(1e9)
    assert endpoint.in_flight == 0


@pytest.mark.parametrize(
    ("answer", "lasted_s"),
    [
        (Answered(200, streamed=True), EARLY_CLOSE_S * 1.01),  # a stream that went on
        (Answered(200, streamed=False), 0.0),  # a plain answer is whole at once
        (Answered(200, streamed=True, ended=True), 0.0),  # nothing follows its headers
        (Answered(200, streamed=True, served=ELSEWHERE), 0.0),  # out of our sight
    ],
)
def test_other_answers_do_not_linger(field: Field, answer: Answered, lasted_s: float) -> None:
    flight = field.fly()
    flight.answered(answer, 100.0)
    assert flight.end(100.0 + lasted_s) is False
    assert field.counts == NOBODY


def test_an_answer_whose_end_was_seen_does_not_linger(field: Field) -> None:
    flight = field.fly()
    flight.answered(Answered(200, streamed=True), 100.0)
    flight.body_seen()
    assert flight.end(100.0) is False
    assert field.counts == NOBODY


# -- blame --------------------------------------------------------------------------------------------------

RESET = "upstream_reset_before_response_started"


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize(
    ("details", "failure"),
    [
        (None, Failure.ANSWERED),  # Envoy was not asked to say
        ("", Failure.ANSWERED),
        ("via_upstream", Failure.ANSWERED),
        ("upstream_response_timeout", Failure.ANSWERED),
        ("upstream_per_try_timeout", Failure.ANSWERED),
        (f"{RESET}{{remote_connection_failure|delayed_connect_error:_111}}", Failure.UNREACHABLE),
        (f"{RESET}{{connection_termination}}", Failure.UNREACHABLE),
        (f"{RESET}{{connection_timeout}}", Failure.UNREACHABLE),
        (f"{RESET}{{remote_reset}}", Failure.UNREACHABLE),
        (f"{RESET}{{protocol_error}}", Failure.UNREACHABLE),
        ("upstream_reset_after_response_started{connection_termination}", Failure.UNREACHABLE),
        (f"{RESET}{{overflow}}", None),
        (f"{RESET}{{local_reset}}", None),
        ("no_healthy_upstream", None),
        ("cluster_not_found", None),
        ("route_not_found", None),
        ("direct_response", None),
        ("maintenance_mode", None),
        ("overload", None),
        ("fault_filter_abort", None),
        ("stream_idle_timeout", None),
        ("ext_authz_error", None),
    ],
)
def test_who_is_blamed_for_a_bad_gateway(
    field: Field, status: int, details: str | None, failure: Failure | None
) -> None:
    for _ in range(FAILURES):
        flight = field.fly(A)
        flight.answered(Answered(status, served=A, details=details), 1.0)
        flight.end(2.0)
    if failure is None:
        assert (field.failures, field.told) == ({}, [])
    else:
        assert field.failures == {A: FAILURES}
        assert field.told == [("set_aside", "pool", A, failure, 5.0)]


def answers(field: Field, *answers: Answered) -> None:
    for answer in answers:
        flight = field.fly(A)
        flight.answered(answer, 1.0)
        flight.end(2.0)


@pytest.mark.parametrize("status", [0, 500])
def test_an_answer_of_500_or_of_no_known_status_is_neither_blame_nor_praise(
    field: Field, status: int
) -> None:
    """One client whose prompt crashes requests would set every endpoint aside."""
    answers(field, Answered(503), *[Answered(status)] * 10)
    assert field.failures == {A: 1}


@pytest.mark.parametrize("status", [101, 200, 204, 301, 400, 404, 429, 501, 505])
def test_any_other_answer_is_praise(field: Field, status: int) -> None:
    answers(field, Answered(503), Answered(503), Answered(status, details="via_upstream"))
    assert field.failures == {}
    answers(field, Answered(503), Answered(status))
    assert field.failures == {}


def test_an_answer_of_envoys_own_is_no_praise(field: Field) -> None:
    """Else a rate limit behind us would keep a dead endpoint in service."""
    answers(field, Answered(503), Answered(429, details="request_rate_limited"))
    assert field.failures == {A: 1}


def test_where_another_endpoint_serves_the_chosen_one_failed_first(field: Field) -> None:
    answers(field, Answered(503), Answered(503))
    field.pool.failed(field.pool.by_address[B], Failure.ANSWERED, 0.5)
    flight = field.fly(A)
    flight.answered(Answered(200, served=B), 1.0)
    assert field.failures == {A: 3}
    assert field.told == [("set_aside", "pool", A, Failure.ANSWERED, 5.0)]


def test_where_another_endpoint_fails_too_both_are_blamed(field: Field) -> None:
    field.fly(A).answered(Answered(503, served=B), 1.0)
    assert field.failures == {A: 1, B: 1}


def test_nobody_is_blamed_for_what_an_endpoint_that_is_not_ours_answers(field: Field) -> None:
    field.fly(A).answered(Answered(503, served=ELSEWHERE), 1.0)
    assert field.failures == {}


def test_nobody_is_blamed_for_a_client_that_left(field: Field) -> None:
    field.fly(A).end(1.0)
    assert field.failures == {}
