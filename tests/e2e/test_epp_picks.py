"""Which endpoint a gateway that speaks the Endpoint Picker Protocol ends up at: lists and retries, subsets, what serves
in the end, and what happens without us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import StartStack
from stack import AI_GATEWAY, ISTIO, TLS, Stack, Way, client_of, eventually, running

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy

pytestmark = pytest.mark.envoy

DESTINATION = "x-gateway-destination-endpoint"
SUBSET = f"{DESTINATION}-subset"
HINT = "envoy.lb.subset_hint"
SELECTION = "test-epp-endpoint-selection"


def with_fallbacks(addresses: list[str]) -> dict[str, Any]:
    return {"pools": [{"name": POOL, "endpoints": addresses, "fallback_endpoints": 2}]}


async def stream(stack: Stack) -> str:
    """Who served a streamed answer."""
    async with stack.client.post("/v1/completions?gated", json={"model": "m"}) as response:
        await response.read()
        assert response.status == 200
        return response.headers["x-served-by"]


async def test_istio_walks_the_list_tells_who_served_and_the_count_moves_there(
    start_stack: StartStack,
) -> None:
    stack = await start_stack(ISTIO, with_fallbacks, flags=TLS)
    failing, *others = [upstream.address for upstream in stack.upstreams]
    stack.upstreams[0].status = 503

    streams = [asyncio.create_task(stream(stack)) for _ in range(3)]  # one chosen each
    counts = await eventually(
        stack.in_flight, lambda counts: sum(counts.values()) == 3 and failing not in counts
    )
    stack.open_gates()
    served = await asyncio.gather(*streams)
    await stack.idle()

    assert counts == {address: served.count(address) for address in others}
    lines = await eventually(stack.envoy.access_log, lambda lines: len(lines) == 3)
    assert [line["pinned_metadata"] for line in lines] == [line["pinned_header"] for line in lines]
    assert [line["served"] for line in lines] == [line["upstream"] for line in lines]
    (moved,) = [line for line in lines if line["attempts"] == 2]
    assert moved["pinned_metadata"].split(",")[:2] == [failing, moved["served"]]


async def test_ai_gateway_takes_no_list(start_stack: StartStack) -> None:
    stack = await start_stack(AI_GATEWAY, with_fallbacks, flags=TLS)

    async with stack.client.post("/v1/completions", json={"model": "m"}) as response:
        assert (response.status, await response.text()) == (503, "no healthy upstream")


@asynccontextmanager
async def behind_another(
    stack: Stack, directory: Path, change: Callable[[dict[str, Any]], None]
) -> AsyncIterator[Stack]:
    """The stack behind an Envoy whose bootstrap was changed."""
    pools = {POOL: [upstream.address for upstream in stack.upstreams]}
    envoy = Envoy(stack.way.bootstrap, directory, pools=pools, ext_proc=stack.service.grpc, name="other")
    bootstrap = yaml.safe_load(envoy.config_file.read_text())
    change(bootstrap)
    envoy.config_file.write_text(yaml.safe_dump(bootstrap))
    async with running(envoy), client_of(envoy) as client:
        yield Stack(client, envoy, stack.service, stack.upstreams, stack.way)


def manager_of(bootstrap: dict[str, Any]) -> dict[str, Any]:
    filters = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    return filters[0]["typed_config"]  # type: ignore[no-any-return]


def with_hint(value: str | list[str]) -> Callable[[dict[str, Any]], None]:
    """A filter before ext_proc that sets the subset hint, which Istio's Envoy then forwards."""

    def change(bootstrap: dict[str, Any]) -> None:
        filters = manager_of(bootstrap)["http_filters"]
        filters[0]["typed_config"]["metadata_options"]["forwarding_namespaces"]["untyped"].append(HINT)
        kind = "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config"
        config = {"@type": kind, "metadata": [{"metadata_namespace": HINT, "value": {SUBSET: value}}]}
        filters.insert(0, {"name": "envoy.filters.http.set_metadata", "typed_config": config})

    return change


async def picks(stack: Stack, selection: str | None = None) -> set[str]:
    """Who served, or why nobody did, over some requests with and without a body."""
    headers = {SELECTION: selection} if selection is not None else {}
    found = set()
    for _ in range(10):
        for method, path, body in (("POST", "/v1/completions", b'{"model": "m"}'), ("GET", "/version", None)):
            async with stack.client.request(method, path, data=body, headers=headers) as response:
                name = "x-served-by" if response.status == 200 else "x-extproc-reason"
                found.add(response.headers[name])
    return found


async def test_subset_hints_are_obeyed_in_full_duplex(start_stack: StartStack, tmp_path: Path) -> None:
    stack = await start_stack(ISTIO, flags=TLS)
    first, second, third = [upstream.address for upstream in stack.upstreams]
    found = []
    for hint in ([second], f"10.0.0.1:8000, {first},{third}", "10.0.0.1:8000", []):
        async with behind_another(stack, tmp_path, with_hint(hint)) as hinted:
            found.append(await picks(hinted))

    assert found == [{second}, {first, third}, {"no_endpoints"}, {"no_endpoints"}]


async def test_the_header_that_conformance_tests_steer_by_counts_only_where_it_is_trusted(
    start_stack: StartStack, tmp_path: Path
) -> None:
    def trusting(addresses: list[str]) -> dict[str, Any]:
        return {"pools": [{"name": POOL, "endpoints": addresses}], "trusted_headers": [SELECTION]}

    trusted = await start_stack(ISTIO, trusting, flags=TLS)
    first, second, third = [upstream.address for upstream in trusted.upstreams]

    assert await picks(trusted, second) == {second}
    assert await picks(trusted, f"{first}, {third}") == {first, third}
    assert await picks(trusted, "127.0.0.1") == {first, second, third}
    assert await picks(trusted, "256.256.256.256") == {"no_endpoints"}
    assert await picks(trusted) == {first, second, third}
    assert {value for request in trusted.received() for value in request.values(SELECTION)} == set()
    async with behind_another(trusted, tmp_path, with_hint([first, second])) as hinted:
        assert await picks(hinted, f"{second},{third}") == {second}


async def test_it_is_a_control_header_like_others_where_it_is_not(start_stack: StartStack) -> None:
    stack = await start_stack(ISTIO, flags=TLS)
    everyone = {upstream.address for upstream in stack.upstreams}

    assert await picks(stack, min(everyone)) == everyone
    assert {value for request in stack.received() for value in request.values(SELECTION)} == set()


@pytest.mark.parametrize("way", [AI_GATEWAY, ISTIO], ids=lambda way: way.bootstrap)
async def test_what_a_client_sends_as_pin_never_steers(start_stack: StartStack, way: Way) -> None:
    stack = await start_stack(way, flags=TLS)  # without the removal of client pins in Envoy
    forged = {DESTINATION: "127.0.0.1:1", SUBSET: "127.0.0.1:1", f"{DESTINATION}-served": "127.0.0.1:1"}

    for method, body in (("POST", b'{"model": "m"}'), ("GET", None)):
        async with stack.client.request(method, "/v1/x", data=body, headers=forged) as response:
            served = response.headers["x-served-by"]
        (request,) = stack.received()
        assert [request.values(name) for name in forged] == [[served], [], []]


def fail_open(bootstrap: dict[str, Any]) -> None:
    (route,) = manager_of(bootstrap)["route_config"]["virtual_hosts"][0]["routes"]
    (per_route,) = route["typed_per_filter_config"].values()
    per_route["overrides"]["failure_mode_allow"] = True


async def test_without_us_istio_refuses_or_goes_on_unpinned_as_the_failure_mode_says(
    start_stack: StartStack, tmp_path: Path
) -> None:
    stack = await start_stack(ISTIO, flags=TLS)
    async with behind_another(stack, tmp_path, fail_open) as open_:
        await asyncio.to_thread(stack.service.stop)
        statuses = []
        for client in (stack.client, open_.client):
            async with client.get(
                "/version"
            ) as response:  # a body that was sent to us already fails in either mode
                statuses.append(response.status)

    assert statuses == [500, 200]
    assert [request.values(DESTINATION) for request in stack.received()] == [[]]
