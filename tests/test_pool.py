"""A pool: selection by labels, and who may be set aside so that never all are."""

from __future__ import annotations

import pytest
from fleets import NOW

from extproc.endpoint import Endpoint
from extproc.health import FAILURES, Failure
from extproc.pool import Pool


def pool(count: int) -> Pool:
    return Pool(
        "p", [Endpoint(f"10.0.0.{number}:80", {"odd": str(number % 2)}) for number in range(1, count + 1)]
    )


def fail(of: Pool, number: int, cause: Failure, now: float = NOW) -> float | None:
    """Endpoint *number* fails often enough; the pause where it is set aside."""
    endpoint = of.by_address[f"10.0.0.{number}:80"]
    pauses = [of.failed(endpoint, cause, now) for _ in range(FAILURES)]
    return next((pause_s for pause_s in pauses if pause_s is not None), None)


def candidates(of: Pool, now: float = NOW) -> tuple[list[str], bool]:
    endpoints, healthy = of.candidates({}, None, now)
    return [endpoint.address.removesuffix(":80") for endpoint in endpoints], healthy


@pytest.mark.parametrize(
    ("labels", "selected"),
    [({}, [1, 2, 3]), ({"odd": "1"}, [1, 3]), ({"odd": "2"}, []), ({"odd": "1", "x": ""}, [])],
)
def test_endpoints_are_selected_by_all_labels(labels: dict[str, str], selected: list[int]) -> None:
    of = pool(3)
    for _ in range(2):  # looked up, then remembered
        assert of.select(labels) == tuple(of.by_address[f"10.0.0.{number}:80"] for number in selected)


def test_a_new_membership_is_in_force_at_once_adding_and_removing() -> None:
    of = pool(3)
    assert len(of.select({"odd": "1"})) == 2
    added = Endpoint("10.0.0.9:80", {"odd": "1"})
    of.replace([of.endpoints[0], added])
    assert of.select({"odd": "1"}) == of.endpoints == (of.by_address["10.0.0.1:80"], added)
    assert sorted(of.by_address) == ["10.0.0.1:80", "10.0.0.9:80"]


def test_who_is_set_aside_is_no_candidate_until_the_pause_is_over() -> None:
    of = pool(3)
    assert fail(of, 2, Failure.UNREACHABLE) == 5.0
    assert candidates(of) == (["10.0.0.1", "10.0.0.3"], True)
    assert candidates(of, NOW + 4.99) == (["10.0.0.1", "10.0.0.3"], True)
    assert candidates(of, NOW + 5.0) == (["10.0.0.1", "10.0.0.2", "10.0.0.3"], True)


@pytest.mark.parametrize(
    ("size", "cause", "most"),
    [
        (1, Failure.ANSWERED, 0),
        (1, Failure.UNREACHABLE, 0),
        (1, Failure.SCRAPE_REFUSED, 0),
        (2, Failure.ANSWERED, 1),
        (3, Failure.ANSWERED, 1),
        (10, Failure.ANSWERED, 5),
        (2, Failure.UNREACHABLE, 1),
        (10, Failure.UNREACHABLE, 9),
        (10, Failure.SCRAPE_REFUSED, 9),
    ],
)
def test_never_all_are_set_aside_and_of_those_that_answer_at_most_half(
    size: int, cause: Failure, most: int
) -> None:
    of = pool(size)
    pauses = [fail(of, number, cause) for number in range(1, size + 1)]
    assert pauses == [5.0] * most + [None] * (size - most)
    assert len(candidates(of)[0]) == size - most


def test_unreachable_ones_count_against_the_half_of_those_that_answer() -> None:
    of = pool(4)
    assert [fail(of, number, Failure.UNREACHABLE) for number in (1, 2)] == [5.0, 5.0]
    assert fail(of, 3, Failure.ANSWERED) is None
    assert fail(of, 3, Failure.UNREACHABLE) == 5.0
    assert fail(of, 4, Failure.UNREACHABLE) is None


def test_there_is_room_again_when_a_pause_is_over() -> None:
    of = pool(2)
    assert fail(of, 1, Failure.UNREACHABLE) == 5.0
    assert fail(of, 2, Failure.UNREACHABLE) is None
    assert fail(of, 2, Failure.UNREACHABLE, NOW + 5.0) == 5.0


def test_where_a_new_membership_leaves_only_those_set_aside_they_are_tried_all_the_same() -> None:
    of = pool(3)
    fail(of, 1, Failure.UNREACHABLE)
    fail(of, 2, Failure.UNREACHABLE)
    of.replace(of.endpoints[:2])
    assert candidates(of) == (["10.0.0.1", "10.0.0.2"], False)


def test_candidates_can_be_none() -> None:
    assert pool(0).candidates({}, None, NOW) == ([], False)
    assert pool(2).candidates({}, frozenset(), NOW) == ([], False)
    assert pool(2).candidates({"odd": "9"}, None, NOW) == ([], False)
