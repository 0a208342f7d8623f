"""Requests of every shape: without a body, chunked, waiting for 100, upgraded, huge, and with trailers."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack import SHARED, WAYS, Stack, Way, running, running_service, stack_fixture
from upstream import TrailerUpstream, exchange

from extproc.demo.bootstrap import POOL
from extproc.demo.envoy import Envoy

pytestmark = SHARED

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
MIB = 1024 * 1024


def config(addresses: list[str]) -> dict[str, Any]:
    return {
        "pools": [{"name": POOL, "endpoints": addresses}],
        "models": [
            {"name": "alias", "pool": POOL, "targets": [{"model": "a-longer-name"}]},
            {"name": "other-alias", "pool": POOL, "targets": [{"model": "x"}]},
        ],
    }


shared_stack = stack_fixture(config, upstreams=2)


def pin_of(request: Any) -> list[str]:
    pins: list[str] = request.values("x-gateway-destination-endpoint")
    return pins


def body_of(size: int, model: bytes = b'"alias"', head: bytes = b'{"model": ') -> bytes:
    """A JSON body of exactly *size* bytes."""
    rest = size - len(head) - len(model) - len(b', "x": ""}')
    return head + model + b', "x": "' + b"y" * rest + b'"}'


def at_once(body: bytes) -> io.BytesIO:
    """With a content-length; aiohttp warns where so many bytes are given as they are."""
    return io.BytesIO(body)


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(0)


# -- without a body -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
async def test_a_request_without_a_body_is_pinned_at_its_headers(stack: Stack, method: str) -> None:
    async with stack.client.request(method, "/version?x=1") as response:
        served_by = response.headers["x-served-by"]
        body = await response.read()

    (request,) = stack.received()
    assert (response.status, request.method, request.path, request.body) == (200, method, "/version?x=1", b"")
    assert pin_of(request) == [served_by]
    assert request.values("x-extproc-pool") == [POOL]
    assert (body == b"") is (method == "HEAD")


async def test_the_models_that_clients_can_use_are_listed_by_us(stack: Stack) -> None:
    async with stack.client.get("/v1/models?limit=3") as response:
        listing = await response.json()
    async with stack.client.get("/v1/models/alias") as response:
        one = await response.json()

    names = ["alias", "other-alias", "m"]  # the last is what the endpoints of the default pool list
    entries = [
        {"id": name, "object": "model", "created": one["created"], "owned_by": "extproc"} for name in names
    ]
    assert listing == {"object": "list", "data": entries}
    assert one == entries[0]
    assert stack.received() == []


async def test_an_empty_body_where_one_is_needed_is_refused(stack: Stack) -> None:
    async with stack.client.post(CHAT, data=b"", headers=JSON) as response:
        error = await response.json()

    assert (response.status, error["error"]["code"]) == (400, "invalid_json")
    assert stack.received() == []


async def test_an_empty_body_elsewhere_passes(stack: Stack) -> None:
    async with stack.client.post("/reset_prefix_cache", data=b"") as response:
        answer = await response.json()

    (request,) = stack.received()
    assert (response.status, answer["body_bytes"], pin_of(request)) == (200, 0, [answer["served_by"]])


async def test_a_chunked_body_that_turns_out_to_be_empty_passes(stack: Stack) -> None:
    head = b"POST /sleep HTTP/1.1\r\nhost: e2e\r\ntransfer-encoding: chunked\r\n\r\n"

    _, body, _ = await exchange(stack.envoy.listen, head + b"0\r\n\r\n")

    answer = json.loads(body)
    (request,) = stack.received()
    assert (answer["body_bytes"], pin_of(request)) == (0, [answer["served_by"]])


# -- chunked, slow, waiting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 62_000, 65_536])
async def test_a_chunked_upload_is_put_together_whatever_its_pieces(stack: Stack, size: int) -> None:
    sent = body_of(3 * size + 100)

    async with stack.client.post(CHAT, data=in_pieces(sent, size), headers=JSON) as response:
        assert response.status == 200

    (request,) = stack.received()
    assert request.body == sent.replace(b'"alias"', b'"a-longer-name"')


async def test_expect_100_continue_is_answered_and_the_body_then_routed(stack: Stack) -> None:
    body = b'{"model": "alias"}'
    head = f"POST {CHAT} HTTP/1.1\r\nhost: e2e\r\ncontent-length: {len(body)}\r\nexpect: 100-continue\r\n\r\n"
    host, _, port = stack.envoy.listen.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(20):
        writer.write(head.encode())
        interim = await reader.readuntil(b"\r\n\r\n")
        writer.write(body)
        final = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()

    (request,) = stack.received()
    assert interim.startswith(b"HTTP/1.1 100 Continue\r\n")
    assert final.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (request.body, request.values("expect")) == (b'{"model": "a-longer-name"}', [])


# -- upgrades -----------------------------------------------------------------------------------------------


async def test_a_websocket_is_echoed_both_ways_by_the_pod_we_chose_whatever_the_client_pins(
    stack: Stack,
) -> None:
    forged = {"x-gateway-destination-endpoint": "127.0.0.1:1", "x-extproc-pool": "forged"}

    async with stack.client.ws_connect("/v1/realtime?model=alias", headers=forged) as socket:
        for number in range(3):
            await socket.send_str(f"to the model server {number}")
            assert await socket.receive_str(timeout=10) == f"to the model server {number}"
        await socket.send_bytes(b"\x00\xff" * 100_000)
        assert await socket.receive_bytes(timeout=10) == b"\x00\xff" * 100_000
        response = socket._response
        served_by = response.headers["x-served-by"]

    (request,) = stack.received()
    assert pin_of(request) == [served_by]
    assert request.values("x-extproc-pool") == [POOL]
    await stack.idle()


# -- large --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("mib", [5, 20, 32])
async def test_a_large_body_arrives_whole_up_to_the_limit(stack: Stack, mib: int, chunked: bool) -> None:
    sent = body_of(mib * MIB)
    data: Any = in_pieces(sent, MIB) if chunked else at_once(sent)

    async with stack.client.post(CHAT, data=data, headers=JSON) as response:
        answer = await response.json()

    stack.received()
    expected = sent.replace(b'"alias"', b'"a-longer-name"', 1)
    assert (response.status, answer["body_bytes"]) == (200, len(expected))
    assert answer["body_sha256"] == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
async def test_one_byte_over_the_limit_is_refused(stack: Stack, chunked: bool) -> None:
    sent = body_of(32 * MIB + 1)
    data: Any = in_pieces(sent, MIB) if chunked else at_once(sent)

    async with stack.client.post(CHAT, data=data, headers=JSON) as response:
        error = await response.json()

    assert (response.status, response.headers["x-extproc-reason"]) == (413, "body_too_large")
    assert error["error"]["code"] == "body_too_large"
    assert stack.received() == []


async def test_many_large_bodies_at_once_are_kept_apart(stack: Stack) -> None:
    bodies = [body_of(2 * MIB + number, head=b'{"n": %d, "model": ' % number) for number in range(8)]

    async def send(body: bytes) -> str:
        async with stack.client.post(CHAT, data=at_once(body), headers=JSON) as response:
            digest: str = (await response.json())["body_sha256"]
        return digest

    digests = await asyncio.gather(*map(send, bodies))

    stack.received()
    expected = [body.replace(b'"alias"', b'"a-longer-name"', 1) for body in bodies]
    assert digests == [hashlib.sha256(body).hexdigest() for body in expected]


# -- trailers -----------------------------------------------------------------------------------------------

BUFFERED_WAYS = [way for way in WAYS if way.mode == "buffered"]
DUPLEX_WAYS = [way for way in WAYS if way.mode == "duplex"]


@asynccontextmanager
async def before_trailer_upstream(directory: Path, way: Way) -> AsyncIterator[tuple[Envoy, TrailerUpstream]]:
    """Envoy, the service and an upstream that knows trailers."""
    async with AsyncExitStack() as exits:
        upstream = await exits.enter_async_context(TrailerUpstream())
        settings = config([upstream.address]) | {
            "list_models": "forward"
        }  # so that we do not ask it for its own
        settings["pools"][0]["metrics"] = {"engine": "none"}
        service = await exits.enter_async_context(running_service(settings, directory))
        pools = {POOL: [upstream.address]}
        envoy = Envoy(way.bootstrap, directory, pools=pools, ext_proc=service.grpc, strip_client_pins=False)
        if way.mode == "duplex":
            without_retries(envoy)
        yield await exits.enter_async_context(running(envoy)), upstream


def without_retries(envoy: Envoy) -> None:
    """Envoy 1.40 doubles a full-duplex body that trailers follow where the route has a retry policy."""
    bootstrap = yaml.safe_load(envoy.config_file.read_text())
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        route["route"].pop("retry_policy", None)
    envoy.config_file.write_text(yaml.safe_dump(bootstrap))


def with_trailers(path: str, body: bytes, *headers: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "host: e2e", "te: trailers", "transfer-encoding: chunked", *headers)
    head = "".join(line + "\r\n" for line in lines).encode()
    chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
    return head + b"\r\n" + chunk + b"0\r\nx-sum: 7\r\n\r\n"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.bootstrap)
async def test_trailers_pass_in_both_directions(tmp_path: Path, way: Way) -> None:
    async with before_trailer_upstream(tmp_path, way) as (envoy, upstream):
        head, body, trailers = await exchange(envoy.listen, with_trailers(CHAT, b'{"model": "alias"}'))

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (body, trailers) == (b"ok", b"x-answer-trailer: there\r\n")
    assert [request[1:] for request in upstream.requests] == [
        (b'{"model": "a-longer-name"}', b"x-sum: 7\r\n")
    ]


@pytest.mark.parametrize("way", DUPLEX_WAYS, ids=lambda way: way.bootstrap)
async def test_trailers_may_be_all_that_ends_an_empty_body(tmp_path: Path, way: Way) -> None:
    async with before_trailer_upstream(tmp_path, way) as (envoy, upstream):
        head, *_ = await exchange(envoy.listen, with_trailers("/sleep", b""))

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert [request[1:] for request in upstream.requests] == [(b"", b"x-sum: 7\r\n")]


@pytest.mark.parametrize("way", BUFFERED_WAYS, ids=lambda way: way.bootstrap)
async def test_an_empty_body_with_trailers_of_which_envoy_tells_nothing_goes_nowhere(
    tmp_path: Path, way: Way
) -> None:
    async with before_trailer_upstream(tmp_path, way) as (envoy, upstream):
        forged = (f"x-gateway-destination-endpoint: {upstream.address}", f"x-extproc-pool: {POOL}")
        head, *_ = await exchange(envoy.listen, with_trailers("/sleep", b"", *forged))

    assert head.split(b" ")[1] in (b"404", b"503")
    assert upstream.requests == []
