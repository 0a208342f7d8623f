"""Load reports of the simulated server: on the answers that vLLM puts them on."""

from __future__ import annotations

from typing import Any

import pytest
from sim_client import MESSAGES, served, until

from extproc.load_report import parse

HEADER = "endpoint-load-metrics"
ASK = {"endpoint-load-metrics-format": "TEXT"}


@pytest.mark.parametrize(
    ("path", "body", "reports"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, True),
        ("/v1/completions", {"prompt": "Hi"}, True),
        ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}, False),
        ("/v1/messages", {"messages": MESSAGES}, False),
        ("/v1/embeddings", {"input": "Hi"}, False),
    ],
)
async def test_whole_chat_and_text_completions_carry_a_report_where_it_is_asked_for(
    path: str, body: dict[str, Any], reports: bool
) -> None:
    async with served() as (_, client):
        for headers, expected in ((ASK, reports), ({}, False)):
            async with client.post(path, json={**body, "max_tokens": 2}, headers=headers) as response:
                await response.read()
                assert (response.status, HEADER in response.headers) == (200, expected)


async def test_a_report_tells_what_the_page_tells() -> None:
    async with served(speed=20.0) as (sim, client):
        long = {"prompt": "x" * 4000, "max_tokens": 4000, "stream": True}
        async with client.post("/v1/completions", json=long):
            await until(sim, running=1)
            async with client.post(
                "/v1/completions", json={"prompt": "Hi", "max_tokens": 2}, headers=ASK
            ) as response:
                await response.read()
                report = parse(response.headers[HEADER])
    assert report.waiting == 0
    assert report.kv_cache_usage is not None
    assert report.kv_cache_usage > 0
