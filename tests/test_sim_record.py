"""What a simulated server shows of itself: metrics and requests; several of them in one process."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from sim_client import served, values

from extproc.sim.config import SimConfig
from extproc.sim.server import SimServer


async def test_the_page_counts_what_was_served() -> None:
    async with served(models=("m",)) as (_, client):
        for _ in range(2):
            await (await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 3})).read()
        response = await client.get("/metrics")
        page = await response.text()
        assert response.headers["content-type"].startswith("text/plain; version=")
        assert values(page, "vllm:generation_tokens_total") == [6.0]
        assert values(page, "vllm:request_success_total") == [0.0, 2.0, 0.0, 0.0, 0.0]
        assert values(page, "http_requests_total") == [2.0]
        assert 'handler="/v1/completions"' in page


async def test_names_restrict_the_page_only_where_a_real_server_looks_at_them() -> None:
    async with served() as (_, client):
        names = {"name[]": "vllm:num_requests_running"}
        restricted = await (await client.get("/metrics/", params=names)).text()
        assert (
            restricted.splitlines()[2] == 'vllm:num_requests_running{engine="0",model_name="sim-model"} 0.0'
        )
        assert len(restricted.splitlines()) == 3
        assert len((await (await client.get("/metrics", params=names)).text()).splitlines()) > 500


@pytest.mark.parametrize("bodies", [False, True])
async def test_requests_are_recorded_until_they_are_cleared(bodies: bool) -> None:
    async with served(record_bodies=bodies) as (_, client):
        body = b'{"prompt":"x","max_tokens":1}'
        await client.post("/v1/completions?a=1", data=body, headers=[("X-Two", "1"), ("X-Two", "2")])
        await client.get("/metrics")
        (recorded,) = await (await client.get("/sim/requests")).json()
        assert [pair for pair in recorded.pop("headers") if pair[0] == "X-Two"] == [
            ["X-Two", "1"],
            ["X-Two", "2"],
        ]
        assert recorded == {
            "method": "POST",
            "path": "/v1/completions?a=1",
            "body_bytes": len(body),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "body": base64.b64encode(body).decode() if bodies else None,
        }
        assert (await client.delete("/sim/requests")).status == 204
        assert await (await client.get("/sim/requests")).json() == []


async def test_bodies_over_64_kib_are_recorded_by_their_hash_alone() -> None:
    async with served(record_bodies=True) as (sim, client):
        for size in (65_536, 65_537):
            await client.post("/tokenize", data=b"x" * size)
        assert [request.body is not None for request in sim.record.requests] == [True, False]


async def test_several_servers_live_in_one_process() -> None:
    async with served(name="a") as (one, first), served(name="b") as (two, second):
        assert one.address != two.address
        for client, name in ((first, "a"), (second, "b")):
            assert (await client.get("/health")).headers["x-sim-server"] == name


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with served() as (sim, _):
        with pytest.raises(OSError):
            await SimServer(SimConfig(port=int(sim.address.rpartition(":")[2]))).__aenter__()


async def test_an_ipv6_address_is_in_brackets() -> None:
    async with served(host="::1") as (sim, client):
        assert re.fullmatch(r"\[::1\]:\d+", sim.address)
        assert (await client.get("/health")).status == 200
