"""Late binding: who never waits, who waits in vain, what a reload changes, and what a request weighs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fleets import NOW, request, router
from halls import busy, text

from extproc.config.schema import QueueConfig, TenantHeader
from extproc.errors import Reason, Rejected
from extproc.holding import expected_tokens, tenant_of
from extproc.request import Prompt
from extproc.router import Decision
from extproc.state import queues

# -- who does not wait --------------------------------------------------------------------------------------


def test_sheddable_work_never_waits() -> None:
    rejection = busy().refused("a", "sheddable")
    assert (rejection.reason, rejection.retry_after_s) == (Reason.SATURATED, 1)
    assert rejection.message == "Pool `p` is saturated and the request is sheddable; try again later."


@pytest.mark.parametrize("queue", [{"max_requests": 2}, {"max_bytes": 2 << 25}])
def test_a_full_queue_refuses_standard_work_and_sends_critical_work_on(queue: dict[str, int]) -> None:
    hall = busy(**queue)
    for name in "ab":
        hall.hold(name, body_bytes=32 << 20)
    rejection = hall.refused("c", body_bytes=1)
    assert (rejection.reason, rejection.retry_after_s) == (Reason.SATURATED, 1)
    assert rejection.message == "Pool `p` is saturated and its queue is full; try again later."
    assert hall.offer("critical", "critical", body_bytes=1) == "10.0.0.1:80"
    assert len(hall.lobby) == 2


def test_who_waits_too_long_is_refused_and_critical_work_sent_on() -> None:
    hall = busy(timeout_s=0.15)
    hall.hold("standard"), hall.hold("critical", "critical")
    hall.now += 0.1
    hall.hold("later")
    assert hall.lobby.next_deadline() == NOW + 0.15
    hall.now = NOW + 0.149
    assert hall.pump() == []
    hall.now = NOW + 0.15
    ((standard, refusal), (critical, decision)) = hall.lobby.pump(hall.now, hall.rng)
    assert (standard.content.holder, critical.content.holder) == ("standard", "critical")
    assert isinstance(refusal, Rejected)
    assert isinstance(decision, Decision)
    assert (refusal.reason, refusal.retry_after_s) == (Reason.QUEUE_TIMEOUT, 1)
    assert refusal.message == "No endpoint of pool `p` had room in time; try again later."
    assert hall.lobby.next_deadline() == NOW + 0.1 + 0.15
    assert len(hall.lobby) == 1


def test_room_at_the_last_moment_is_taken() -> None:
    hall = busy(timeout_s=0.15)
    hall.hold("a")
    hall.now += 0.15
    hall.scrape(0)
    assert hall.pump() == [("a", "10.0.0.1:80")]


def test_whose_client_left_is_never_called_up() -> None:
    hall = busy(timeout_s=0.15)
    gone = hall.hold("gone", body_bytes=7)
    hall.hold("here")
    assert (hall.lobby.cancel(gone), hall.lobby.cancel(gone)) == (True, False)
    assert (len(hall.lobby), hall.lobby.room("p").size_bytes) == (1, 0)
    hall.scrape(0)
    assert hall.pump() == [("here", "10.0.0.1:80")]
    hall.now += 1
    assert hall.pump() == []
    assert hall.lobby.next_deadline() is None


def test_who_waits_is_shown_with_the_state() -> None:
    hall = busy(timeout_s=0.15)
    empty = {"pool": "p", "timeout_s": 0.15, "critical": 0, "standard": 0, "bytes": 0, "longest_wait_s": 0.0}
    assert queues(hall.router, hall.lobby, NOW) == [empty]
    hall.hold("a", body_bytes=7), hall.hold("b", "critical", body_bytes=5), hall.hold("c", now=NOW + 0.02)
    shown = {"critical": 1, "standard": 2, "bytes": 12, "longest_wait_s": 0.125}
    assert queues(hall.router, hall.lobby, NOW + 0.125) == [empty | shown]
    assert queues(router("pools: [{name: p, endpoints: []}]"), hall.lobby, NOW) == []


# -- reload -------------------------------------------------------------------------------------------------


def test_who_waits_goes_on_waiting_under_the_new_config_with_place_and_deadline() -> None:
    hall = busy(timeout_s=0.15)
    hall.hold("a"), hall.hold("b")
    hall.now += 0.1
    assert hall.reload(text(["10.0.0.2:80"], timeout_s=60)) == []  # another endpoint, never scraped
    assert hall.lobby.next_deadline() == NOW + 0.15
    assert hall.pump() == [("a", "10.0.0.2:80"), ("b", "10.0.0.2:80")]


def test_who_waits_is_judged_by_the_new_config() -> None:
    hall = busy()
    for model in ("m", "n", "critical"):
        hall.hold(model, model)
    told = hall.reload(
        text(models="models: [{name: n, pool: p}, {name: critical, pool: q}]\ndefault_pool: null").replace(
            "]\n", ", {name: q, endpoints: ['10.0.0.9:80']}]\n", 1
        )
    )
    assert told == [("m", "model_not_found"), ("critical", "10.0.0.9:80")]
    hall.scrape(1)
    assert hall.pump() == []
    hall.now += 1
    assert hall.pump() == [("n", "queue_timeout")]


def test_who_still_waits_after_a_reload_is_sent_by_the_new_profile() -> None:
    hall = busy()
    hall.hold("a")
    models = "models: [{name: m, pool: p, profile: new, targets: [{model: t}]}]\nprofiles: [{name: new}]"
    assert hall.reload(text(models=models)) == []
    hall.scrape(0)
    ((_, decision),) = hall.lobby.pump(NOW, hall.rng)
    assert isinstance(decision, Decision)
    assert (decision.profile, decision.target_model) == ("new", "t")


def test_a_pool_whose_queue_is_taken_away_sends_everybody_on() -> None:
    hall = busy()
    hall.hold("a"), hall.hold("b")
    assert hall.reload("pools: [{name: p, endpoints: ['10.0.0.1:80']}]") == [
        ("a", "10.0.0.1:80"),
        ("b", "10.0.0.1:80"),
    ]
    assert len(hall.lobby) == 0


def test_at_shutdown_nobody_is_called_up_any_more() -> None:
    hall = busy()
    left = hall.hold("a")
    hall.lobby.clear()
    hall.scrape(0)
    assert hall.pump() == []
    hall.lobby.cancel(left)
    assert len(hall.lobby) == 0


# -- work and tenants ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"body_bytes": 400}, 100 + 2 * 211),  # not read: about 4 bytes a token
        ({"prompt": Prompt(tokens=1000), "body_bytes": 9}, 1000 + 2 * 211),
        ({"prompt": Prompt(tokens=1000, max_output_tokens=10)}, 1000 + 2 * 10),
        ({"prompt": Prompt(tokens=1000, max_output_tokens=100_000)}, 1000 + 2 * 211),
    ],
)
def test_expected_work_is_the_prompt_and_twice_the_answer(fields: dict[str, Any], tokens: float) -> None:
    made = router(text())
    asked = request(**fields)
    assert expected_tokens(asked, made.draw(asked, NOW, random.Random(1))) == tokens


HEADER = QueueConfig(tenant=TenantHeader("X-Tenant"))
API_KEY, NONE = QueueConfig(tenant="api-key"), QueueConfig()


@pytest.mark.parametrize(
    ("queue", "one", "other", "same"),
    [
        (HEADER, {"x-tenant": "a"}, {"x-tenant": "a", "authorization": "x"}, True),
        (HEADER, {"x-tenant": "a"}, {"x-tenant": "b"}, False),
        (HEADER, {"x-tenant": "a"}, {}, False),
        (API_KEY, {"authorization": "Bearer a"}, {"authorization": "Bearer b"}, False),
        (API_KEY, {"authorization": "Bearer a"}, {"authorization": "Bearer a", "x-api-key": "b"}, True),
        (API_KEY, {"x-api-key": "a"}, {"x-api-key": "b"}, False),
        (API_KEY, {"x-tenant": "a"}, {}, True),
        (NONE, {"x-tenant": "a", "authorization": "a"}, {}, True),
    ],
)
def test_a_tenant_is_who_a_header_or_a_credential_tells(
    queue: QueueConfig, one: dict[str, str], other: dict[str, str], same: bool
) -> None:
    assert (tenant_of(one, queue) == tenant_of(other, queue)) is same


def test_no_credential_is_kept() -> None:
    tenant = tenant_of({"authorization": "Bearer sk-secret"}, API_KEY)
    assert "secret" not in tenant
    assert len(tenant) == 32


def test_bytes_that_are_no_text_make_a_tenant_too() -> None:
    assert len(tenant_of({"x-tenant": "\udcff\ud800"}, HEADER)) == 32
