"""The bootstraps in `envoy/`: a real Envoy takes each as it stands, and gets requests through without us."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from upstream import EchoUpstream, TrailerUpstream, exchange

from extproc.demo.bootstrap import render
from extproc.demo.envoy import Envoy, binary
from extproc.demo.process import ChildProcess, StartError

pytestmark = pytest.mark.envoy

BOOTSTRAPS = sorted((Path(__file__).parents[2] / "envoy").glob("*.yaml"))

Start = Callable[[ChildProcess], Awaitable[None]]


def test_there_is_a_bootstrap_for_each_way_and_one_to_compare_with() -> None:
    assert [path.stem for path in BOOTSTRAPS] == [
        "ai-gateway-epp",
        "buffered-original-dst",
        "buffered-override-host",
        "duplex-original-dst",
        "duplex-override-host",
        "envoy-gateway",
        "istio-epp",
        "round-robin",
    ]


@pytest.mark.parametrize("path", BOOTSTRAPS, ids=lambda path: path.stem)
def test_envoy_finds_no_fault_in_it(path: Path) -> None:
    argv = [binary(), "--mode", "validate", "-c", path, "--log-level", "warning"]
    checked = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    assert checked.returncode == 0, checked.stderr
    assert "deprecated" not in checked.stderr


async def test_round_robin_gives_every_upstream_its_turn(tmp_path: Path, start: Start) -> None:
    async with EchoUpstream() as a, EchoUpstream() as b, EchoUpstream() as c:
        upstreams = [a, b, c]
        envoy = Envoy("round-robin", tmp_path, pools={"p": [upstream.address for upstream in upstreams]})
        await start(envoy)
        async with aiohttp.ClientSession(envoy.listen) as client:
            for _ in range(6):
                async with client.post("/v1/completions", data=b'{"model": "m"}') as response:
                    assert (await response.json())["body_bytes"] == 14

        assert [len(upstream.requests) for upstream in upstreams] == [2, 2, 2]
        assert await asyncio.to_thread(envoy.stats, "cluster.p.upstream_rq_2xx") == {
            "cluster.p.upstream_rq_2xx": 6
        }


async def test_events_and_websockets_pass_through_envoy(tmp_path: Path, start: Start) -> None:
    async with EchoUpstream() as upstream:
        envoy = Envoy("round-robin", tmp_path, pools={"p": [upstream.address]})
        await start(envoy)
        async with aiohttp.ClientSession(envoy.listen) as client:
            async with client.get("/v1/x?sse_s=0.15&every_s=0.05") as response:
                events = (await response.read()).split(b"\n\n")
            async with client.ws_connect("/v1/realtime") as socket:
                await socket.send_str("hello")
                echoed = await socket.receive_str(timeout=5)

    assert events[0] == b'data: {"number": 0}'
    assert events[-2:] == [b"data: [DONE]", b""]
    assert echoed == "hello"


async def test_trailers_pass_through_envoy_both_ways(tmp_path: Path, start: Start) -> None:
    async with TrailerUpstream() as upstream:
        envoy = Envoy("round-robin", tmp_path, pools={"p": [upstream.address]})
        await start(envoy)
        head = b"POST /v1/x HTTP/1.1\r\nhost: e2e\r\ntransfer-encoding: chunked\r\nte: trailers\r\n\r\n"
        _, body, trailers = await exchange(envoy.listen, head + b"2\r\nHi\r\n0\r\nx-sum: 7\r\n\r\n")

    assert [request[1:] for request in upstream.requests] == [(b"Hi", b"x-sum: 7\r\n")]
    assert (body, trailers) == (b"ok", b"x-answer-trailer: there\r\n")


async def test_an_envoy_that_cannot_start_says_why(tmp_path: Path, start: Start) -> None:
    envoy = Envoy("round-robin", tmp_path, pools={"p": ["not-an-address:1"]})

    with pytest.raises(StartError, match="malformed IP address: not-an-address"):
        await start(envoy)

    assert not envoy.running


def test_an_unknown_bootstrap_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(FileNotFoundError, match="no Envoy bootstrap 'x'; there are ai-gateway-epp, "):
        render("x", pools={})


def test_several_pools_need_a_bootstrap_that_tells_them_apart() -> None:
    pools = {"a": ["127.0.0.1:1"], "b": ["127.0.0.1:2"]}

    rendered = render("buffered-override-host", pools=pools, ext_proc="127.0.0.1:3")

    manager = rendered["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert [route["name"] for route in routes] == ["a", "b", "entry"]
    assert [cluster["name"] for cluster in rendered["static_resources"]["clusters"]] == ["extproc", "a", "b"]
    with pytest.raises(ValueError, match="takes one pool, not 2"):
        render("duplex-override-host", pools=pools)


def test_a_bootstrap_with_clusters_of_other_names_takes_the_pools_it_has_routes_for() -> None:
    pools = {"reasoning-pool": ["127.0.0.1:1", "127.0.0.1:2"]}

    rendered = render("envoy-gateway", pools=pools, ext_proc=["127.0.0.1:3"], mirrors=["127.0.0.1:4"])

    rule = "httproute/llm/llm/rule"
    assert ports_by_cluster(rendered) == {
        f"{rule}/1": [1, 2],
        f"{rule}/2": [1, 2],
        f"{rule}/3": [],
        f"{rule}/1-mirror-0": [4],
        "envoyextensionpolicy/llm/llm-router/extproc/0": [3],
    }
    with pytest.raises(ValueError, match="has no route for pool b"):
        render("envoy-gateway", pools={"b": []})


def test_a_bootstrap_takes_several_services() -> None:
    services = ["127.0.0.1:3", "127.0.0.1:4"]

    rendered = render("buffered-original-dst", pools={"p": []}, ext_proc=services)

    assert ports_by_cluster(rendered)["extproc"] == [3, 4]


def ports_by_cluster(bootstrap: dict[str, Any]) -> dict[str, list[int]]:
    clusters = [each for each in bootstrap["static_resources"]["clusters"] if "load_assignment" in each]
    return {
        cluster["name"]: [
            entry["endpoint"]["address"]["socket_address"]["port_value"]
            for entry in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        ]
        for cluster in clusters
    }
