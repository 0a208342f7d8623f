"""What a routed request carries on (CONTRACT section 4), as a mutation."""

from __future__ import annotations

import random

import pytest

from extproc import pin
from extproc.config import parse_config
from extproc.fleet import Fleet
from extproc.protocol.messages import Mutation
from extproc.request import InferenceRequest
from extproc.router import Decision

CONFIG = b"""
pools: [{name: pool, endpoints: ["127.0.0.1:8001"]}, {name: six, endpoints: ["[::1]:8001", "[::1]:8002"],
         fallback_endpoints: 1}]
models: [{name: qwq, pool: pool, targets: [{model: qwq-32b}]}, {name: v6, pool: six}]
default_pool: pool
"""
DESTINATION = "x-gateway-destination-endpoint"
NO_STICKY: frozenset[str] = frozenset()


def decision(model: str | None) -> Decision:
    router = Fleet().apply(parse_config(CONFIG))
    return router.decide(InferenceRequest({}, model), 0.0, random.Random(1))


def test_a_decision_becomes_headers_metadata_and_a_cleared_route_cache() -> None:
    assert pin.mutation(decision("qwq"), {}, NO_STICKY, None) == Mutation(
        set_headers=(
            (DESTINATION, "127.0.0.1:8001"),
            ("x-extproc-pool", "pool"),
            ("x-gateway-model-name", "qwq"),
        ),
        remove_headers=(),
        metadata={
            "envoy.lb": {DESTINATION: "127.0.0.1:8001"},
            "extproc": {
                "pool": "pool",
                "endpoint": "127.0.0.1:8001",
                "model": "qwq",
                "target_model": "qwq-32b",
            },
        },
        clear_route_cache=True,
    )


def test_a_request_that_names_no_model_carries_none() -> None:
    mutation = pin.mutation(decision(None), {}, NO_STICKY, None)
    assert mutation.set_headers == ((DESTINATION, "127.0.0.1:8001"), ("x-extproc-pool", "pool"))
    assert mutation.metadata["extproc"] == {"pool": "pool", "endpoint": "127.0.0.1:8001"}


def test_fallbacks_follow_the_chosen_endpoint_in_header_and_metadata_alike() -> None:
    made = decision("v6")
    mutation = pin.mutation(made, {}, NO_STICKY, None)
    other = {"[::1]:8001": "[::1]:8002", "[::1]:8002": "[::1]:8001"}[made.endpoint.address]
    both = f"{made.endpoint.address},{other}"
    assert mutation.set_headers[0] == (DESTINATION, both)
    assert mutation.metadata["envoy.lb"] == {DESTINATION: both}
    assert mutation.metadata["extproc"]["endpoint"] == made.endpoint.address


@pytest.mark.parametrize(
    ("headers", "length", "content_length"),
    [
        ({"content-length": "10"}, 12, "12"),
        ({"content-length": "10"}, None, None),  # the body goes on as it came
        ({}, 12, None),  # chunked: Envoy keeps it so
    ],
)
def test_content_length_is_corrected_where_the_client_gave_one_and_the_body_changed(
    headers: dict[str, str], length: int | None, content_length: str | None
) -> None:
    mutation = pin.mutation(decision("qwq"), headers, NO_STICKY, length)
    assert dict(mutation.set_headers).get("content-length") == content_length


CONTROL = [
    "x-gateway-destination-endpoint-subset",
    "x-gateway-destination-endpoint-served",
    "x-gateway-model-name-rewrite",
    "x-gateway-inference-objective",
    "x-gateway-inference-fairness-id",
    "x-extproc-reason",
    "x-extproc-anything",
    "x-llm-d-inference-objective",
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-kv-cache-source-host-port",
    "x-slo-ttft-ms",
    "x-slo-tpot-ms",
    "test-epp-endpoint-selection",
    "epp-profile",
]


def test_control_headers_that_a_client_sent_are_removed_and_no_others() -> None:
    harmless = [
        "authorization",
        "x-user-id",
        "x-request-id",
        "x-forwarded-for",
        "x-gateway",
        ":path",
        "x-extproc",
    ]
    headers = dict.fromkeys([*harmless, *CONTROL], "1")
    mutation = pin.mutation(decision("qwq"), headers, NO_STICKY, None)
    assert mutation.remove_headers == tuple(CONTROL)


def test_what_we_set_is_overwritten_and_not_removed() -> None:
    """What becomes of a header in both lists is Envoy's business, and nothing to rely on."""
    headers = {DESTINATION: "10.6.6.6:22", "x-extproc-pool": "mine", "x-gateway-model-name": "mine"}
    mutation = pin.mutation(decision("qwq"), headers, NO_STICKY, None)
    assert mutation.remove_headers == ()
    assert {name for name, _ in mutation.set_headers} == set(headers)


def test_a_model_name_header_is_removed_where_the_request_names_no_model() -> None:
    mutation = pin.mutation(decision(None), {"x-gateway-model-name": "mine"}, NO_STICKY, None)
    assert mutation.remove_headers == ("x-gateway-model-name",)


def test_a_sticky_key_stays_even_under_a_control_name() -> None:
    headers = {"x-llm-d-user": "u", "x-llm-d-other": "o"}
    mutation = pin.mutation(decision("qwq"), headers, frozenset({"x-llm-d-user"}), None)
    assert mutation.remove_headers == ("x-llm-d-other",)


def test_what_only_we_or_a_model_server_for_us_may_say_is_taken_from_answers() -> None:
    headers = [
        "content-type",
        "x-extproc-reason",
        "x-extproc-any",
        "endpoint-load-metrics",
        "x-extproc",
        "x-own",
    ]
    assert pin.not_theirs(headers) == ("x-extproc-reason", "x-extproc-any", "endpoint-load-metrics")


@pytest.mark.parametrize(
    ("headers", "plain_answer", "removed"),
    [
        ({"accept-encoding": "gzip"}, True, ("accept-encoding",)),
        ({"accept-encoding": "gzip"}, False, ()),
        ({}, True, ()),
    ],
)
def test_an_answer_to_be_changed_is_asked_for_plain(
    headers: dict[str, str], plain_answer: bool, removed: tuple[str, ...]
) -> None:
    mutation = pin.mutation(decision("qwq"), headers, NO_STICKY, None, plain_answer=plain_answer)
    assert mutation.remove_headers == removed
