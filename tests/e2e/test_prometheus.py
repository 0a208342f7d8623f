"""A real Prometheus reads us: every panel's and every rule's expression is answered, with data where there is some."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from prometheus_program import needs_prometheus, promtool
from stack import SHARED, eventually
from watched import JOB, Watched, watched

from monitoring.dashboard import ROWS

pytestmark = [*SHARED, needs_prometheus, pytest.mark.timeout(240)]

CHAT = "/v1/chat/completions"
AT_ONCE = 8
"""Of a pool that takes two: the others wait."""
QUIET = {
    "Copies to mirrors": {"{{model}} → {{mirror}}"},
    "Moved from their target": {"{{model}}"},
    "Set aside, by cause": {"{{pool}} {{cause}}"},
    "Scrapes that failed": {"{{pool}} {{result}}"},
    "Pin misses": {"{{pool}}"},
    "Denied and unknown": {"{{pool}} unknown profile"},
    "Faults": {"{{instance}} protocol errors"},
    "Sent over OTLP": {"{{signal}} {{result}}", "{{signal}} dropped"},
    "Followed": {"{{instance}} {{resource}}"},
    "Since the API last said something": {"{{resource}}"},
    "Objects": {"{{resource}}"},
    "Events": {"{{resource}} {{type}}"},
    "Errors": {"{{resource}} {{reason}}", "{{resource}} unreadable"},
}
"""Queries without data here, by panel: nothing goes wrong, nothing is mirrored, there is no cluster."""
ALSO_QUIET = {"Scrapes that failed"}
"""Of these, what a machine that stutters may bring about all the same."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    async with watched(tmp_path_factory.mktemp("watched")) as world:
        await eventually(lambda: traffic(world), bool, within_s=90)
        yield world


async def traffic(world: Watched) -> bool:
    """Streamed and plain, of both versions, of a pool that is too small, and some that are refused.

    Whether Prometheus has seen each kind grow: a counter that appears has no rate before.
    """
    asks = [ask(world, "qwq", stream=bool(number % 2)) for number in range(12)]
    asks += [ask(world, "deep", stream=False) for _ in range(AT_ONCE)]
    assert set(await asyncio.gather(*asks)) == {200}
    async with world.client.post(CHAT, data=b"no JSON") as response:
        assert response.status == 400
    grown = "count(rate(extproc_requests_total[30s]) > 0) >= 4"
    return bool(await asyncio.to_thread(world.prometheus.values, grown))


async def ask(world: Watched, model: str, *, stream: bool) -> int:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Say it again, and once more. " * 20}],
        "max_tokens": 16,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    async with world.client.post(CHAT, json=body) as response:
        await response.read()
        return response.status


def put(expression: str) -> str:
    """The dashboard's variables at what they choose at first."""
    for name, value in (("job", JOB), ("instance", ".*"), ("pool", ".*"), ("model", ".*")):
        expression = expression.replace(f"${name}", value)
    return expression.replace("$__rate_interval", "30s")


async def test_every_panel_is_answered_with_data_where_there_is_some(world: Watched) -> None:
    quiet: dict[str, set[str]] = {}
    for panel in (panel for row in ROWS for panel in row.panels):
        for query in panel.queries:
            found = await asyncio.to_thread(world.prometheus.values, put(query.expression))
            if not found:
                quiet.setdefault(panel.title, set()).add(query.legend)
    for title in ALSO_QUIET - quiet.keys():
        quiet[title] = QUIET[title]
    assert quiet == QUIET


async def test_every_rule_is_evaluated_and_none_fires(world: Watched) -> None:
    def health() -> set[tuple[str, str]]:
        groups = world.prometheus.ask("rules")["groups"]
        return {(rule["health"], rule.get("state", "")) for group in groups for rule in group["rules"]}

    known = await eventually(
        lambda: asyncio.to_thread(health), lambda found: "unknown" not in {each for each, _ in found}
    )
    assert {each for each, _ in known} == {"ok"}
    assert "firing" not in {state for _, state in known}


async def test_the_recorded_ratios_have_values(world: Watched) -> None:
    names = (
        "extproc:error_budget:ratio",
        "extproc:request_errors:ratio_rate5m",
        "extproc:target_errors:rate15m",
    )
    for name in names:
        found = await eventually(
            lambda name=name: asyncio.to_thread(world.prometheus.values, name), bool, within_s=60
        )
        assert {float(each["value"][1]) for each in found} == {0.005 if "budget" in name else 0}


async def test_the_variables_find_what_there_is(world: Watched) -> None:
    found = {
        label: world.prometheus.ask(f"label/{label}/values", **{"match[]": series})
        for label, series in (
            ("job", "extproc_build_info"),
            ("pool", f'extproc_pool_endpoints{{job="{JOB}"}}'),
            ("model", f'extproc_requests_total{{job="{JOB}"}}'),
        )
    }
    assert found == {"job": [JOB], "pool": ["reasoning-pool", "tiered"], "model": ["deep", "none", "qwq"]}


async def test_promtool_finds_no_fault_in_the_page(world: Watched) -> None:
    page = await asyncio.to_thread(world.service.metrics)
    checked = await asyncio.to_thread(promtool, "check", "metrics", stdin=page)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


async def test_the_access_log_says_what_was_decided_and_what_it_cost(world: Watched) -> None:
    lines = await eventually(world.envoy.access_log, lambda lines: len(lines) >= 12 + AT_ONCE + 1)
    refused = [line for line in lines if line["reason"] is not None]
    assert {(line["status"], line["reason"], line["endpoint"]) for line in refused} == {
        (400, "invalid_json", None)
    }
    served = [line for line in lines if line["model"] == "qwq"]
    assert {line["target_model"] for line in served} == {"qwq-32b", "qwq-32b-v2"}
    assert {(line["pool"], line["mirror"], line["completion_tokens"]) for line in served} == {
        ("reasoning-pool", None, 16)
    }
    assert {line["finish_reason"] for line in served} == {"length"}
    assert all(line["ext_proc"] for line in served)
    assert all(line["prompt_tokens"] > 0 and line["endpoint"] == line["upstream"] for line in served)
    assert {line["ttft_ms"] is None for line in served} == {True, False}  # of those that are not streamed
