"""Metrics, log lines and the state after known traffic."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import aiohttp
import pytest
from conftest import StartStack
from prometheus_client.parser import text_string_to_metric_families
from stack import BUFFERED, DUPLEX, Stack, Way, eventually

from extproc import __version__
from extproc.demo.bootstrap import POOL

pytestmark = pytest.mark.envoy

BOTH = pytest.mark.parametrize("way", [BUFFERED, DUPLEX], ids=lambda way: way.bootstrap)
CHAT = "/v1/chat/completions"
METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
"""


def config(addresses: list[str]) -> dict[str, Any]:
    models = [{"name": "alias", "pool": POOL, "targets": [{"model": "real"}]}]
    return {"pools": [{"name": POOL, "endpoints": addresses}], "models": models}


async def known_traffic(stack: Stack) -> None:
    for _ in range(3):
        await stack.chat("alias")
    await stack.chat("not-listed")
    async with stack.client.post(CHAT + "?status=500", json={"model": "alias"}) as response:
        assert response.status == 500
    async with stack.client.post(CHAT, json={"messages": []}) as response:
        assert response.status == 400
    async with stack.client.get("/version") as response:
        assert response.status == 200
    async with stack.client.get("/v1/models") as response:
        assert response.status == 200
    with pytest.raises(TimeoutError):
        await stack.client.post(
            CHAT + "?hold_s=9", json={"model": "alias"}, timeout=aiohttp.ClientTimeout(0.5)
        )
    await stack.idle()


def samples(page: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by metric name and label values (in the order of the label names)."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name.removeprefix("extproc_"), {})[labels] = sample.value
    return found


@BOTH
async def test_the_metrics_of_the_contract_tell_what_happened(start_stack: StartStack, way: Way) -> None:
    stack = await start_stack(way, config, upstreams=2)
    for upstream in stack.upstreams:
        upstream.metrics = METRICS

    await known_traffic(stack)
    await eventually(stack.endpoints, lambda e: all(x["metrics"]["waiting"] == 3 for x in e.values()))

    page = samples(await asyncio.to_thread(stack.service.metrics))
    # (model, outcome, pool, target_model), the label names sorted
    assert page["requests_total"] == {
        ("alias", "completed", POOL, "real"): 3,
        ("alias", "upstream_error", POOL, "real"): 1,
        ("alias", "aborted", POOL, "real"): 1,
        ("other", "completed", POOL, "other"): 1,
        ("none", "completed", POOL, "none"): 1,
        ("none", "missing_model", "none", "none"): 1,
        ("none", "completed", "none", "none"): 1,
    }
    # (model, pool, target_model)
    assert page["request_duration_seconds_count"] == {
        ("alias", POOL, "real"): 5,
        ("other", POOL, "other"): 1,
        ("none", POOL, "none"): 1,
        ("none", "none", "none"): 2,
    }
    headers = page["time_to_response_headers_seconds_count"]
    assert (headers["alias", POOL, "real"], headers["other", POOL, "other"]) == (4, 1)
    assert page["decision_duration_seconds_count"] == {(): 7}
    assert page["streams_in_flight"] == {(): 0}
    endpoints = sorted((upstream.address, POOL) for upstream in stack.upstreams)
    for name, value in {
        "endpoint_in_flight": 0,
        "endpoint_waiting_requests": 3,
        "endpoint_running_requests": 2,
        "endpoint_kv_cache_usage_ratio": 0.25,
        "endpoint_ready": 1,
    }.items():
        assert page[name] == dict.fromkeys(endpoints, value), name
    assert sorted(page["endpoint_metrics_age_seconds"]) == endpoints
    assert all(0 <= age < 60 for age in page["endpoint_metrics_age_seconds"].values())
    assert set(page["scrapes_total"]) >= {(POOL, "ok")}
    assert page["scrapes_total"][POOL, "ok"] >= 2
    assert page["scrape_duration_seconds_count"][()] >= 2
    assert page["config_last_reload_successful"] == {(): 1}
    assert page["config_last_reload_success_timestamp_seconds"][()] > 1.7e9
    assert page["event_loop_lag_seconds_count"][()] > 0
    assert page["build_info"] == {(__version__,): 1}
    assert page.get("pin_misses_total", {}) == {}
    assert page["internal_errors_total"] == {(): 0}


async def test_openmetrics_is_spoken_where_it_is_asked_for(start_stack: StartStack) -> None:
    stack = await start_stack(BUFFERED)
    accept = {"accept": "application/openmetrics-text;version=1.0.0"}

    async with stack.client.get(stack.service.http + "/metrics", headers=accept) as response:
        openmetrics = await response.text()
        kind = response.headers["content-type"]
    async with stack.client.get(stack.service.http + "/metrics") as response:
        plain = response.headers["content-type"]

    assert kind.startswith("application/openmetrics-text")
    assert openmetrics.endswith("# EOF\n")
    assert plain.startswith("text/plain")


@BOTH
async def test_each_request_has_one_log_line_with_the_decision(start_stack: StartStack, way: Way) -> None:
    stack = await start_stack(way, config, upstreams=2)

    await known_traffic(stack)

    lines = await eventually(
        lambda: [line for line in stack.service.log() if line["event"] == "request"],
        lambda lines: len(lines) >= 9,
    )
    told = [(x["method"], x["path"], x.get("status"), x["outcome"], x.get("target_model")) for x in lines]
    assert told == [
        *[("POST", CHAT, 200, "completed", "real")] * 3,
        ("POST", CHAT, 200, "completed", "not-listed"),
        ("POST", CHAT, 500, "upstream_error", "real"),
        ("POST", CHAT, 400, "missing_model", None),
        ("GET", "/version", 200, "completed", None),
        ("GET", "/v1/models", 200, "completed", None),
        ("POST", CHAT, None, "aborted", "real"),
    ]
    first = lines[0]
    assert (first["level"], first["model"], first["pool"], first["candidates"]) == ("info", "alias", POOL, 2)
    assert first["endpoint"] == first["served"]
    assert set(first["scores"]) == {"outstanding-work"}
    assert first["duration_ms"] >= first["headers_ms"] > 0
    assert first["decision_us"] > 0
    assert len(first["request_id"]) == 36


@BOTH
async def test_a_request_is_explained_afterwards_and_another_before_it_is_sent(
    start_stack: StartStack, way: Way
) -> None:
    stack = await start_stack(way, config, upstreams=3)
    for upstream in stack.upstreams:
        upstream.metrics = METRICS
    await eventually(stack.endpoints, lambda e: all(x["metrics"]["waiting"] == 3 for x in e.values()))
    answer = await stack.chat("alias")
    await stack.chat("alias")
    line = await stack.log_of(answer)
    await stack.idle()

    url, request_id = stack.service.http + "/debug/explain", line["request_id"]
    async with stack.client.get(url, params={"request_id": request_id}) as response:
        (told,) = (await response.json())["decisions"]
    argv = [sys.executable, "-m", "extproc", "explain", "--state", stack.service.http + "/debug/state"]
    argv += ["--model", "alias", "--prompt-tokens", "1000"]
    text = await asyncio.to_thread(subprocess.check_output, argv, text=True, timeout=30)
    before = json.loads(await asyncio.to_thread(subprocess.check_output, [*argv, "--json"], timeout=30))

    addresses = {upstream.address for upstream in stack.upstreams}
    assert (told["request_id"], told["endpoint"]) == (request_id, line["endpoint"])
    assert {row["address"] for row in told["endpoints"]} == addresses
    assert (before["outcome"], before["target_model"]) == ("routed", "real")
    assert {row["address"]: row["external"] for row in before["endpoints"]} == dict.fromkeys(addresses, 5)
    assert set(before["as_good"]) <= addresses
    assert f"{before['endpoint']} gets it" in text


async def test_nothing_secret_is_logged(start_stack: StartStack) -> None:
    stack = await start_stack(BUFFERED, config, flags=("--log-level", "debug", "--drain-delay", "0"))
    secrets = {
        "authorization": "Bearer SECRET-token",
        "x-api-key": "SECRET-key",
        "cookie": "session=SECRET-cookie",
        "x-user-id": "SECRET-user",
    }
    for body in (
        {"model": "alias", "messages": [{"role": "user", "content": "SECRET prompt"}]},
        {"messages": [{"role": "user", "content": "SECRET prompt"}]},
    ):
        for path in (CHAT + "?key=SECRET-query", CHAT + "?status=503&key=SECRET-query"):
            async with stack.client.post(path, json=body, headers=secrets) as response:
                await response.read()
    async with stack.client.post(CHAT, data=b'{"SECRET": "SECRET', headers=secrets) as response:
        assert "SECRET" not in await response.text()
    async with stack.client.get("/v1/models?key=SECRET-query", headers=secrets) as response:
        assert response.status == 200
    await stack.idle()
    for page in ("/debug/state", "/debug/explain"):
        async with stack.client.get(stack.service.http + page) as response:
            assert "SECRET" not in await response.text()
    stack.service.terminate()
    await asyncio.to_thread(stack.service.wait, 10)

    log = stack.service.err.read_text() + stack.service.out.read_text()
    assert log.count('"event":"request"') == 6
    assert "SECRET" not in log
