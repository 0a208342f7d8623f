"""Client → Envoy → service → upstreams as one thing that is started and stopped, and ways to ask it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from upstream import EchoUpstream, Received

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy
from extproc.demo.process import ChildProcess
from extproc.demo.service import Service

T = TypeVar("T")
P = TypeVar("P", bound=ChildProcess)

QUICK_STOP = ("--drain-delay", "0", "--drain-timeout", "1")
"""The service does not dawdle when it is told to stop."""
TLS = ("--tls-self-signed", *QUICK_STOP)
"""For gateways that speak TLS to endpoint pickers."""
POLL_S = 0.02


class Way(NamedTuple):
    """How Envoy sends bodies (buffered, duplex) and how it is told the pod (original-dst, override-host)."""

    mode: str
    pinning: str
    gateway: str = ""
    """A gateway whose way this is, and what its bootstrap is called."""

    @property
    def bootstrap(self) -> str:
        return self.gateway or f"{self.mode}-{self.pinning}"


WAYS = [
    Way(mode, pinning) for mode in ("buffered", "duplex") for pinning in ("original-dst", "override-host")
]
BUFFERED, DUPLEX = Way("buffered", "override-host"), Way("duplex", "override-host")
AI_GATEWAY = Way("duplex", "original-dst", "ai-gateway-epp")
ISTIO = Way("duplex", "override-host", "istio-epp")
ENVOY_GATEWAY = Way("buffered", "override-host", "envoy-gateway")


@dataclass
class Stack:
    """Client → Envoy → service → upstream, all running."""

    client: aiohttp.ClientSession
    """Its base URL is Envoy's; `await stack.client.post("/v1/…", json=…)`."""
    envoy: Envoy
    service: Service
    upstreams: list[EchoUpstream]
    way: Way

    async def chat(self, model: str = "m", query: str = "", **arguments: Any) -> dict[str, Any]:
        """A chat completion; what the EchoUpstream answered. Raises for an error status."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
        url = f"/v1/chat/completions{query}"
        async with self.client.post(url, json=body, **arguments) as response:
            response.raise_for_status()
            answer: dict[str, Any] = await response.json()
        return answer

    def received(self) -> list[Received]:
        """What has reached the upstreams since this was asked last."""
        received = [request for upstream in self.upstreams for request in upstream.requests]
        for upstream in self.upstreams:
            upstream.requests.clear()
        return received

    def close_gates(self) -> None:
        """Answers to `?gated` begin, and go on until `open_gates`."""
        for upstream in self.upstreams:
            upstream.gate.clear()

    def open_gates(self) -> None:
        for upstream in self.upstreams:
            upstream.gate.set()

    async def state(self) -> dict[str, Any]:
        """`/debug/state`."""
        return await asyncio.to_thread(self.service.state)

    async def endpoints(self) -> dict[str, dict[str, Any]]:
        """Of `/debug/state`: what it says of each endpoint, by address."""
        pools = (await self.state())["pools"]
        return {endpoint["address"]: endpoint for pool in pools for endpoint in pool["endpoints"]}

    async def in_flight(self) -> dict[str, int]:
        """Counts by address, those of 0 left out."""
        endpoints = await self.endpoints()
        return {address: e["in_flight"] for address, e in endpoints.items() if e["in_flight"]}

    async def metric(self, name: str, **labels: str) -> float:
        """Of the Prometheus page: see `metric_of`."""
        return metric_of(await asyncio.to_thread(self.service.metrics), name, **labels)

    async def idle(self) -> None:
        """Until nothing is in flight and no ext_proc stream is open."""

        async def left() -> tuple[int, dict[str, int]]:
            return (await self.state())["open_streams"], await self.in_flight()

        await eventually(left, lambda left: left == (0, {}))

    async def log_of(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The log line of the request that an EchoUpstream answered so; it is written when that has ended."""
        request_id = request_id_of(answer)
        lines = await eventually(
            lambda: [line for line in self.service.log() if line.get("request_id") == request_id], bool
        )
        assert len(lines) == 1, lines
        return lines[0]


class SlowBody:
    """A chunked body that stops after *first* until it is told to go on."""

    def __init__(self, first: bytes, rest: bytes = b"") -> None:
        self.go_on = asyncio.Event()
        self._first, self._rest = first, rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        await self.go_on.wait()
        yield self._rest

    async def post(self, stack: Stack) -> tuple[int, str]:
        """(status, reason) of a chat with it; the reason is empty where we did not refuse."""
        async with stack.client.post("/v1/chat/completions", data=self) as response:
            await response.read()
            return response.status, response.headers.get("x-extproc-reason", "")


def request_id_of(answer: Mapping[str, Any]) -> str:
    """What Envoy called the request that an EchoUpstream answered so."""
    return {name.lower(): value for name, value in answer["headers"]}["x-request-id"]


def ext_proc_of(bootstrap: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the ext_proc filter's config, all HTTP filters) of a bootstrap, to be changed in place."""
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    filters: list[dict[str, Any]] = manager["http_filters"]
    return next(f["typed_config"] for f in filters if f["name"] == "envoy.filters.http.ext_proc"), filters


def metric_of(page: str, name: str, **labels: str) -> float:
    """The sum of the samples with these labels, among others; 0 where there is none."""
    samples = [
        sample
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == f"extproc_{name}" and labels.items() <= sample.labels.items()
    ]
    return sum(sample.value for sample in samples)


@overload
async def eventually(
    ask: Callable[[], Awaitable[T]], until: Callable[[T], object], within_s: float = ...
) -> T: ...
@overload
async def eventually(ask: Callable[[], T], until: Callable[[T], object], within_s: float = ...) -> T: ...
async def eventually(ask: Callable[[], Any], until: Callable[[Any], object], within_s: float = 15.0) -> Any:
    """Asks until the answer is good, which it then returns; the bound is for a loaded machine."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        asked = ask()
        answer = await asked if inspect.isawaitable(asked) else asked
        if until(answer):
            return answer
        assert loop.time() < deadline, f"still {answer!r} after {within_s:g} s"
        await asyncio.sleep(POLL_S)


def one_pool(addresses: list[str]) -> dict[str, Any]:
    """The smallest config: every model goes to one pool, as it is named."""
    return {"pools": [{"name": POOL, "endpoints": addresses}]}


def endpoints_by_pool(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """What Envoy must know of a config's pools."""
    return {
        pool["name"]: [entry if isinstance(entry, str) else entry["address"] for entry in pool["endpoints"]]
        for pool in config["pools"]
    }


@asynccontextmanager
async def running(process: P) -> AsyncIterator[P]:
    """A child process, started without blocking the event loop."""
    try:
        await asyncio.to_thread(process.start)
        yield process
    finally:
        await asyncio.to_thread(process.stop)


@asynccontextmanager
async def running_service(
    config: Mapping[str, Any], directory: Path, *flags: str, name: str = "extproc"
) -> AsyncIterator[Service]:
    """The service, ready."""
    async with running(Service(config, directory, *(flags or QUICK_STOP), name=name)) as service:
        await asyncio.to_thread(service.wait_ready)
        yield service


@asynccontextmanager
async def client_of(envoy: Envoy) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client whose base URL is Envoy's; no request of it waits for a connection."""
    timeout, connector = aiohttp.ClientTimeout(total=60), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(envoy.listen, timeout=timeout, connector=connector) as client:
        yield client


@asynccontextmanager
async def running_stack(
    directory: Path,
    way: Way = BUFFERED,
    config: Callable[[list[str]], Mapping[str, Any]] = one_pool,
    *,
    upstreams: int = 3,
    flags: Sequence[str] = QUICK_STOP,
    strip_client_pins: bool = False,
    concurrency: int = 1,
) -> AsyncIterator[Stack]:
    """Upstreams, the service and Envoy.

    `config` is called with the upstreams' addresses. Envoy's own removal of client pins is out unless
    `strip_client_pins`, so that what a client can do to us is seen. Pools other than the config's need
    `buffered-override-host`.
    """
    async with AsyncExitStack() as exits:
        servers = [await exits.enter_async_context(EchoUpstream()) for _ in range(upstreams)]
        settings = config([server.address for server in servers])
        service = await exits.enter_async_context(running_service(settings, directory, *flags))
        envoy = Envoy(
            way.bootstrap,
            directory,
            pools=endpoints_by_pool(settings),
            ext_proc=service.grpc,
            strip_client_pins=strip_client_pins,
            concurrency=concurrency,
        )
        await exits.enter_async_context(running(envoy))
        client = await exits.enter_async_context(client_of(envoy))
        yield Stack(client, envoy, service, servers, way)


def stack_fixture(
    config: Callable[[list[str]], Mapping[str, Any]] = one_pool,
    ways: Sequence[Way] = WAYS,
    **options: Any,
) -> Any:
    """The fixture `shared_stack` of a module, one stack a way; its tests ask for `stack`.

    At its end nothing is in flight, and the service has logged no fault.
    """

    @pytest_asyncio.fixture(scope="module", loop_scope="module", params=ways, ids=lambda way: way.bootstrap)
    async def shared_stack(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> AsyncIterator[Stack]:
        directory = tmp_path_factory.mktemp(request.param.bootstrap)
        async with running_stack(directory, request.param, config, **options) as stack:
            yield stack
            await stack.idle()
            assert [line for line in stack.service.log() if line["level"] == "error"] == []

    return shared_stack


SHARED = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]
"""`pytestmark` of modules with such a fixture."""
