"""Mirroring by Envoy: a copy of a model's requests goes to others, and nobody notices, whatever becomes of it."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from mirrored import BAD, FAILING, MIRROR, SHADOW, SILENT, SLOW, Mirrored, running_mirrored
from stack import BUFFERED, DUPLEX, SHARED, Stack, Way, eventually, request_id_of
from upstream import Received

pytestmark = SHARED

CHAT = "/v1/chat/completions"
MIB = 1024 * 1024


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[BUFFERED, DUPLEX], ids=lambda way: way.bootstrap
)
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mirrored]:
    directory = tmp_path_factory.mktemp(request.param.bootstrap)
    async with running_mirrored(directory, request.param) as mirrored:
        yield mirrored
        await mirrored.stack.idle()
        assert [line for line in mirrored.stack.service.log() if line["level"] == "error"] == []


@pytest.fixture
def mirrored(shared: Mirrored) -> Mirrored:
    """What was received begins with this test."""
    shared.stack.received()
    for mirror in shared.mirrors.values():
        mirror.requests.clear()
    return shared


def ids(requests: list[Received]) -> list[str]:
    return sorted(request.values("x-request-id")[0] for request in requests)


async def ask(stack: Stack, model: str, count: int, **headers: str) -> list[dict[str, Any]]:
    slots = asyncio.Semaphore(20)

    async def one() -> dict[str, Any]:
        async with slots:
            return await stack.chat(model, headers=headers)

    return await asyncio.gather(*(one() for _ in range(count)))


def body_of(model: str, size: int) -> bytes:
    """JSON as no serialiser writes it, of about *size* bytes."""
    return b'{"x" : 1.0e+2,\n "model":"%s", "x": "\\u00e9%s" }' % (model.encode(), b"y" * size)


# -- who is mirrored ----------------------------------------------------------------------------------------


async def test_the_share_of_the_requests_that_the_config_says_is_mirrored(mirrored: Mirrored) -> None:
    stack = mirrored.stack
    before = await stack.metric("mirrored_requests_total", model="share", mirror=SHADOW)

    await ask(stack, "share", 400)

    received = stack.received()
    marked = [request for request in received if request.values(MIRROR)]
    # 100 of 400 expected, standard deviation 8.7: five of them to each side are left by one run in a million.
    assert len(received) == 400
    assert 57 <= len(marked) <= 143
    assert ids(await mirrored.copies(len(marked))) == ids(marked)
    assert {tuple(request.values(MIRROR)) for request in marked} == {(SHADOW,)}
    await eventually(
        lambda: stack.metric("mirrored_requests_total", model="share", mirror=SHADOW),
        lambda counted: counted - before == len(marked),
    )


async def test_a_conversation_is_mirrored_as_a_whole_or_not_at_all(mirrored: Mirrored) -> None:
    sessions = [f"session-{number}" for number in range(40)]
    for _ in range(3):
        await asyncio.gather(
            *(mirrored.stack.chat("sticky", headers={"x-session-id": session}) for session in sessions)
        )

    marked = [request for request in mirrored.stack.received() if request.values(MIRROR)]
    copies = Counter(request.values("x-session-id")[0] for request in await mirrored.copies(len(marked)))
    assert set(copies.values()) == {3}
    # 20 of 40 expected; the sessions are always the same, so are those that are mirrored
    assert 10 <= len(copies) <= 30


async def test_without_the_key_each_request_is_drawn(mirrored: Mirrored) -> None:
    await ask(mirrored.stack, "sticky", 60)

    marked = [request for request in mirrored.stack.received() if request.values(MIRROR)]
    assert 0 < len(marked) < 60


# -- what a mirror gets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, MIB], ids=["small", "1 MiB"])
async def test_the_mirror_gets_the_rewritten_request_byte_for_byte_and_a_mark(
    mirrored: Mirrored, size: int
) -> None:
    stack, body = mirrored.stack, body_of("all", size)
    sent = {"content-type": "application/json", "authorization": "Bearer k", "x-a": "b", MIRROR: "failing"}
    async with stack.client.post(f"{CHAT}?q=1", data=io.BytesIO(body), headers=sent) as response:
        answer = await response.json()

    (request,) = stack.received()
    (mirror,) = await mirrored.copies(1)
    assert (response.status, answer["served_by"]) == (
        200,
        request.values("x-gateway-destination-endpoint")[0],
    )
    assert request.body == body.replace(b"all", b"what-serves-it")
    assert (mirror.method, mirror.path, mirror.body) == (request.method, request.path, request.body)
    of_the_mirror = {name.lower(): value for name, value in mirror.headers}
    expected = {name.lower(): value for name, value in request.headers}
    length = of_the_mirror.get("content-length")
    # Envoy's own marks: no trusted client's, and one hop more (it adds its own address).
    assert of_the_mirror.pop("x-envoy-internal") == "true"
    assert of_the_mirror.pop("x-forwarded-for").startswith(expected.pop("x-forwarded-for") + ",")
    assert of_the_mirror == expected
    assert length == (str(len(request.body)) if stack.way is BUFFERED else None)
    assert of_the_mirror[MIRROR] == SHADOW
    assert mirrored.mirrors[FAILING].requests == []


async def test_our_log_line_and_envoys_name_the_mirror(mirrored: Mirrored) -> None:
    stack = mirrored.stack
    answers = [*await ask(stack, "all", 1), *await ask(stack, "none", 1)]

    ours = [(await stack.log_of(answer)).get("mirror") for answer in answers]
    names = [request_id_of(answer) for answer in answers]
    theirs = await eventually(
        lambda: {line["request_id"]: line["mirror"] for line in stack.envoy.access_log()},
        lambda lines: lines.keys() >= set(names),
    )
    assert ours == [theirs[name] for name in names] == [SHADOW, None]


# -- what a mirror does -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_mirror_harms_nobody(mirrored: Mirrored, name: str) -> None:
    """It fails, answers late or never, refuses connections, or does not even read what it is sent."""
    stack = mirrored.stack
    before = await health(stack)
    bodies = [body_of(name, size) for size in (10, 10, 100_000, MIB, 10, MIB)]
    async with aiohttp.ClientSession(stack.envoy.listen, connector=aiohttp.TCPConnector(limit=1)) as client:
        for body in bodies:  # one after the other on one connection, which a mirror could hold up
            await check_answer(client, body)
    await asyncio.gather(*(check_answer(stack.client, body) for body in bodies * 3))

    await stack.idle()  # while the mirrors' answers are still due
    assert await health(stack) == before
    assert len(stack.received()) == 4 * len(bodies)
    assert await mirrored.sent(name) == 4 * len(bodies)
    if name == SLOW:
        assert await mirrored.unanswered(SLOW) == 4 * len(bodies)
        mirrored.mirrors[SLOW].release()
        await eventually(lambda: mirrored.unanswered(SLOW), lambda count: count == 0)
        assert await health(stack) == before


async def check_answer(client: aiohttp.ClientSession, body: bytes) -> None:
    """It is whole, and a pool's endpoint's."""
    model = body.split(b'"')[5]
    served = hashlib.sha256(body.replace(b'"%s"' % model, b'"what-serves-it"')).hexdigest()
    headers = {"content-type": "application/json"}
    async with asyncio.timeout(20), client.post(CHAT, data=io.BytesIO(body), headers=headers) as response:
        answer = await response.json()
    assert (response.status, answer["body_sha256"]) == (200, served)
    assert answer["served_by"] == dict(answer["headers"])["x-gateway-destination-endpoint"]


async def health(stack: Stack) -> Mapping[str, Any]:
    """What is held against the endpoints."""
    endpoints = await stack.endpoints()
    told: dict[str, Any] = {address: e["health"] for address, e in endpoints.items()}
    for outcome in ("upstream_error", "aborted"):
        told[outcome] = await stack.metric("requests_total", outcome=outcome)
    return told | {"pin_misses": await stack.metric("pin_misses_total")}


@pytest.mark.parametrize("way", [BUFFERED, DUPLEX], ids=lambda way: way.bootstrap)
async def test_a_retry_is_not_copied_again_and_a_copy_outlives_its_client(tmp_path: Path, way: Way) -> None:
    async with running_mirrored(tmp_path, way) as mirrored:
        stack = mirrored.stack
        client = asyncio.create_task(stack.chat(SILENT, "?hold_s=60"))
        await eventually(lambda: stack.upstreams[0].requests or stack.upstreams[1].requests, bool)
        client.cancel()
        await eventually(lambda: sum(upstream.aborted for upstream in stack.upstreams), bool)
        await stack.idle()
        assert await mirrored.sent(SILENT) == await mirrored.unanswered(SILENT) == 1

        stack.received()
        stack.upstreams[0].status = 503
        await eventually(lambda: stack.chat("all"), lambda _: len(stack.upstreams[0].requests) > 0)
        asked = len(stack.upstreams[1].requests)  # each ends there, retried or not
        copies = await mirrored.copies(asked)
        assert ids(copies) == ids(stack.upstreams[1].requests)


# -- what clients cannot do ---------------------------------------------------------------------------------


async def test_no_client_has_a_request_mirrored(mirrored: Mirrored) -> None:
    stack, headers = mirrored.stack, {MIRROR: SHADOW}
    for model in ("none", "not-listed"):
        await stack.chat(model, headers=headers)
    for method, path, body in (
        ("GET", "/version", None),
        ("POST", "/sleep", b""),
        ("POST", "/v1/files", b"no JSON"),
    ):
        async with stack.client.request(method, path, data=body, headers=headers) as response:
            assert response.status == 200
    async with stack.client.ws_connect("/v1/realtime", headers=headers) as websocket:
        await websocket.send_str("ping")
        assert await websocket.receive_str() == "ping"
    async with stack.client.post(CHAT, data=b"{", headers=headers) as response:
        assert response.status == 400
    (answer,) = await ask(stack, "all", 1)  # and nothing reached the mirror before

    received = stack.received()
    (mirror,) = await mirrored.copies(1)
    assert mirror.values("x-request-id") == [request_id_of(answer)]
    assert len(received) == 7
    assert ids([request for request in received if request.values(MIRROR)]) == [request_id_of(answer)]
