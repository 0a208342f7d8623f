"""A burst of requests while the event loop is busy: every stream is taken up."""

from __future__ import annotations

import asyncio
import time

from envoy_peer import EnvoyStream
from ext_proc_service import CHAT, serving

STREAMS = 2_500
"""gRPC begins to cancel streams that wait to be taken up at 1,000, at random, and cancels all from 3,000 on."""
BUSY_S = 0.5


async def test_streams_that_come_while_the_event_loop_is_busy_are_all_served() -> None:
    async with serving() as (service, envoy):
        streams = [envoy.stream() for _ in range(STREAMS)]
        await asyncio.sleep(0.01)  # the calls leave for the server's I/O threads
        time.sleep(BUSY_S)  # noqa: ASYNC251 - the loop that would take them up stands still
        await asyncio.gather(*[_is_answered(stream) for stream in streams])
        assert service.begun == STREAMS


async def _is_answered(stream: EnvoyStream) -> None:
    await stream.request_headers(CHAT)
    assert (await stream.reply()).WhichOneof("response") == "request_headers"
