"""Requests that are held, and whose clients leave, whose Envoy answers itself, or whose config changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from envoy_peer import EnvoyPeer, EnvoyStream
from ext_proc_service import CHAT, RESPONSE_HEADERS_GO, A, B, refused, routed_body, serving
from queue_talk import MODELS, config, held, hold, results, scrape
from stream_stages import BUFFERED, DUPLEX

from extproc.config import parse_config
from extproc.protocol.messages import BodyMode

# -- gone ---------------------------------------------------------------------------------------------------


async def ends(stream: EnvoyStream, envoy: EnvoyPeer) -> None:
    await stream.end()


async def resets(stream: EnvoyStream, envoy: EnvoyPeer) -> None:
    stream.cancel()


async def vanishes(stream: EnvoyStream, envoy: EnvoyPeer) -> None:
    await envoy.vanish()


@pytest.mark.parametrize("leave", [ends, resets, vanishes])
@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
async def test_a_client_that_leaves_while_it_is_held_leaves_nothing_behind(
    mode: BodyMode, leave: Callable[[EnvoyStream, EnvoyPeer], Awaitable[None]]
) -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        stream = await hold(service, envoy, mode=mode)
        await leave(stream, envoy)
        await service.idle()
        assert (held(service), service.held_bytes, service.in_flight) == (0, 0, {})
        assert service.sample("extproc_queue_bytes", pool="pool") == 0
        assert results(service) == {"gone": 1}
        assert service.requests == {"m none none aborted": 1}
        scrape(service, 0)
        (line,) = await service.log_lines()
        assert line["queued_ms"] > 0


async def test_clients_that_leave_as_they_are_called_are_counted_down() -> None:
    async with serving(config()) as (service, envoy):
        for turns in range(20):
            scrape(service, 1)
            stream = await hold(service, envoy)
            scrape(service, 0)
            for _ in range(turns % 5):
                await asyncio.sleep(0)
            stream.cancel()
            await service.idle()
            assert (held(service), service.in_flight) == (0, {})
        assert service.sample("extproc_internal_errors_total") == 0
        assert sum(results(service).values()) == 20


async def test_a_request_that_envoy_answers_itself_while_it_is_held_is_not_sent_anywhere() -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        stream = await hold(service, envoy)
        await stream.response_headers(504)
        assert await stream.reply() == RESPONSE_HEADERS_GO
        assert held(service) == 0
        scrape(service, 0)
        await stream.end()
        await service.idle()
        assert (results(service), service.endpoint(A).requests) == ({"gone": 1}, 0)


async def test_an_envoy_that_talks_nonsense_while_a_request_is_held_fails_that_request_alone() -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        stream, other = await hold(service, envoy), await hold(service, envoy)
        await stream.raw(b"\xff\xff")
        assert (await stream.failure())[0].name == "INVALID_ARGUMENT"
        scrape(service, 0)
        assert await other.reply() == routed_body("m", "m")
        await other.end()


# -- reload -------------------------------------------------------------------------------------------------


async def test_a_reload_judges_anew_who_waits() -> None:
    async with serving(config()) as (service, envoy):
        scrape(service, 1)
        moved, gone = await hold(service, envoy), await hold(service, envoy, "critical")
        text = f"pools: [{{name: new, endpoints: ['{B}']}}]\nmodels: [{{name: m, pool: new}}]\ndefault_pool: null"
        service.processor.dispatcher.reload(service.fleet.apply(parse_config(text.encode())))
        assert await moved.reply() == routed_body("m", "m", address=B, pool="new")
        assert await gone.reply() == refused(
            "model_not_found",
            404,
            "invalid_request_error",
            "The model `critical` does not exist.",
            param="model",
        )
        await moved.end()
        await gone.closed()
        await service.idle()
        assert results(service) == {"dispatched": 1, "model_not_found": 1}


async def test_who_is_held_through_a_reload_goes_on_by_the_new_config_in_all_respects() -> None:
    """Its header was a sticky key, which is kept, and is none any more."""
    sticky = "models: [{name: m, pool: pool, sticky: {header: x-extproc-user}}]\n"
    text = config().replace(MODELS, sticky)
    async with serving(text) as (service, envoy):
        scrape(service, 1)
        stream = envoy.stream()
        await stream.request_headers({**CHAT, "x-extproc-user": "anna"})
        await stream.reply()
        await stream.request_body(b'{"model":"m"}')
        await service.until(lambda: held(service) == 1)
        text = text.replace(", sticky: {header: x-extproc-user}", "")
        service.processor.dispatcher.reload(service.fleet.apply(parse_config(text.encode())))
        scrape(service, 0)
        assert await stream.reply() == routed_body("m", "m", removed=("x-extproc-user",))
        await stream.end()
