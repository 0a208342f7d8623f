"""Streams that Envoy resets, as it does with most, cost the process nothing for good.

grpc.aio loses a hundred bytes with each in whose read or status it is cancelled (grpc/grpc#43360).  They are lost in
C, where tracemalloc does not look: the service runs as a process, with the probe of `make soak`.  And what bodies
leave is kept for the next ones.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from envoy_peer import BOUND_S, EnvoyPeer, EnvoyStream
from ext_proc_service import CHAT

from soak.probed import heap_bytes
from soak.program import PROBE, Program

CONFIG = {
    "pools": [{"name": "pool", "endpoints": ["127.0.0.1:9"], "metrics": {"engine": "none"}}],
    "models": [{"name": "qwq", "pool": "pool", "targets": [{"model": "qwq-32b"}]}],
    "default_pool": None,
}
STREAMS = 1500
AT_ONCE = 20
BODY = json.dumps({"model": "qwq", "messages": [{"role": "user", "content": "word " * 44_000}]}).encode()
BODIES = 300
MOST_LOST_BYTES = 70.0
"""A stream: an op is 96; what tables and caches still take up is some tens at most."""

pytestmark = [
    pytest.mark.skipif(heap_bytes() == 0, reason="only glibc >= 2.33 tells what its heap holds"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def program(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    flags = ("--drain-delay", "0", "--drain-timeout", "1")
    made = Program(PROBE, CONFIG, tmp_path_factory.mktemp("program"), flags, trace=False)
    try:
        await asyncio.to_thread(made.start)
        yield made
    finally:
        await asyncio.to_thread(made.stop)


async def reset_while_we_read(stream: EnvoyStream) -> None:
    """Routed, and waiting for the answer's headers."""
    await stream.request_headers(CHAT)
    await stream.reply()
    await stream.request_body(b'{"model":"qwq"}')
    await stream.reply()
    stream.cancel()


async def reset_before_the_body(stream: EnvoyStream) -> None:
    await stream.request_headers(CHAT)
    await stream.reply()
    stream.cancel()


async def reset_once_we_answered(stream: EnvoyStream) -> None:
    """For the request, which is refused."""
    await stream.request_headers(CHAT)
    await stream.reply()
    await stream.request_body(b'{"model":"unlisted"}')
    await stream.reply()
    stream.cancel()


async def reset_with_its_end(stream: EnvoyStream) -> None:
    """Half-closed and reset, as Envoy ends a stream that is no longer of use."""
    await stream.request_headers(CHAT)
    await stream.reply()
    await stream.request_body(b'{"model":"qwq"}')
    await stream.reply()
    await stream.half_close()
    stream.cancel()


async def play(program: Program, ending: Callable[[EnvoyStream], Awaitable[None]], streams: int) -> int:
    """The bytes that the process holds when all are over, and the connection as well."""
    at_once = asyncio.Semaphore(AT_ONCE)

    async def one(envoy: EnvoyPeer) -> None:
        async with at_once:
            await ending(envoy.stream())

    async with EnvoyPeer(int(program.grpc.rpartition(":")[2])) as envoy:
        await asyncio.gather(*(one(envoy) for _ in range(streams)))
    async with asyncio.timeout(BOUND_S):
        while (await asyncio.to_thread(program.state))["open_streams"]:  # noqa: ASYNC110 - ends know of no event
            await asyncio.sleep(0.05)
    return int((await asyncio.to_thread(program.memory))["heap_bytes"])


@pytest.mark.parametrize(
    "ending",
    [reset_while_we_read, reset_before_the_body, reset_once_we_answered, reset_with_its_end],
    ids=lambda ending: ending.__name__,
)
async def test_a_stream_that_is_reset_leaves_nothing(
    program: Program, ending: Callable[[EnvoyStream], Awaitable[None]]
) -> None:
    before = await play(program, ending, STREAMS // 3)
    after = await play(program, ending, STREAMS)
    assert (after - before) / STREAMS < MOST_LOST_BYTES


async def routed(stream: EnvoyStream) -> None:
    """With a body as agents send them, another model's name in it."""
    await stream.request_headers(CHAT)
    await stream.reply()
    await stream.request_body(BODY)
    await stream.reply()
    stream.cancel()


def page_faults(program: Program) -> int:
    """Pages that the kernel had to find for the process since it began: the 10th field of proc_pid_stat(5)."""
    return int(Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[7])


async def test_what_a_body_leaves_is_used_for_the_next_one(program: Program) -> None:
    await play(program, routed, BODIES)
    await play(program, routed, BODIES)
    before = page_faults(program)
    await play(program, routed, BODIES)
    assert (page_faults(program) - before) / BODIES < len(BODY) / resource.getpagesize()
