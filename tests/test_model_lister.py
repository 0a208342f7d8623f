"""Asking model servers what they serve: whatever they answer, clients are told what is known."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web

from extproc import model_lister
from extproc.endpoint import Endpoint
from extproc.model_lister import ModelLister

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BOUND_S = 20.0


def listing(*names: object) -> bytes:
    return json.dumps(
        {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
    ).encode()


def always(body: bytes, status: int = 200, **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return answer


async def slow(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(BOUND_S * 2)
    return web.Response(body=listing("late"))


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    with suppress(ConnectionError):
        while True:
            await answer.write(b" " * 65536)
    return answer


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Endpoint]:
    """The endpoint of a server that answers GET /v1/models with *handler*."""
    application = web.Application()
    application.router.add_get("/v1/models", handler)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield Endpoint(f"{host}:{port}")
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_lister, "FIRST_INTERVAL_S", 0.01)
    monkeypatch.setattr(model_lister, "INTERVAL_S", 0.01)


async def list_until(endpoints: list[Endpoint], known: Callable[[], object]) -> None:
    """Ask *endpoints* until *known*."""
    lister = asyncio.create_task(ModelLister(lambda: endpoints).run())
    try:
        async with asyncio.timeout(BOUND_S):
            while not known():
                assert not lister.done(), lister.exception()
                await asyncio.sleep(0.005)
    finally:
        lister.cancel()
        with suppress(asyncio.CancelledError):
            await lister


async def test_names_are_taken_over_as_listed() -> None:
    async with serving(always(listing("Qwen/QwQ-32B", "lora-1"))) as endpoint:
        await list_until([endpoint], lambda: endpoint.models)
    assert endpoint.models == ("Qwen/QwQ-32B", "lora-1")


async def test_names_that_no_client_could_use_are_left_out() -> None:
    async with serving(always(listing("", "a\nb", "x" * 257, "ok"))) as endpoint:
        await list_until([endpoint], lambda: endpoint.models)
    assert endpoint.models == ("ok",)


async def test_a_changed_list_replaces_the_old_one() -> None:
    answers = iter([listing("base", "old"), listing("base", "new")])

    async def next_answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=next(answers, listing("base", "new")))

    async with serving(next_answer) as endpoint:
        await list_until([endpoint], lambda: "new" in endpoint.models)
    assert endpoint.models == ("base", "new")


BROKEN: dict[str, Handler] = {
    "no JSON": always(b"<html>"),
    "nothing": always(b""),
    "another shape": always(b'{"data": {"id": "x"}}'),
    "a list": always(b"[]"),
    "ids that are no strings": always(listing("x", 5)),
    "invalid UTF-8": always(b'{"data": [{"id": "\xff"}]}'),
    "absurd nesting": always(b'{"x": ' + b"[" * 100_000),
    "404": always(listing("x"), 404),
    "500": always(b"oops", 500),
    "a redirect": always(b"", 302, Location="http://127.0.0.1:1/"),
    "too long": always(listing(*["x" * 200] * 8000)),
    "endless": endless,
    "compressed unasked": always(gzip.compress(listing("x")), **{"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("name", list(BROKEN))
async def test_a_broken_answer_changes_nothing_and_ends_nothing(name: str) -> None:
    answers = [BROKEN[name]] * 2

    async def broken_then_sound(request: web.Request) -> web.StreamResponse:
        return await (answers.pop() if answers else always(listing("after")))(request)

    async with serving(broken_then_sound) as endpoint:
        endpoint.models = ("before",)
        seen = {endpoint.models}
        await list_until([endpoint], lambda: seen.add(endpoint.models) or "after" in endpoint.models)
    assert seen == {("before",), ("after",)}


async def test_a_slow_or_dead_server_does_not_keep_others_from_being_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_lister, "TIMEOUT_S", 0.05)
    async with serving(always(listing("x"))) as closed:
        pass
    answered = 0

    async def counted(_: web.Request) -> web.StreamResponse:
        nonlocal answered
        answered += 1
        return web.Response(body=listing("ok"))

    async with serving(slow) as stuck, serving(counted) as sound:
        await list_until([stuck, closed, sound], lambda: answered >= 3)
    assert (stuck.models, closed.models, sound.models) == ((), (), ("ok",))


async def test_more_endpoints_than_are_asked_at_once_are_all_asked() -> None:
    under_way = most = 0

    async def counting(_: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return web.Response(body=listing("x"))

    async with serving(counting) as one:
        many = [Endpoint(one.address) for _ in range(3 * model_lister.AT_ONCE)]
        await list_until(many, lambda: all(each.models for each in many))
    assert most <= model_lister.AT_ONCE
