"""A real Envoy, our service as a process of its own, and upstreams that say what reached them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from stack import WAYS, Stack, Way, running_stack

from extproc.demo.process import ChildProcess


@pytest.fixture(params=WAYS, ids=lambda way: way.bootstrap)
def way(request: pytest.FixtureRequest) -> Way:
    """Each of the four ways that Envoy and we work together."""
    chosen: Way = request.param
    return chosen


class StartStack(Protocol):
    async def __call__(
        self,
        way: Way = ...,
        config: Callable[[list[str]], Mapping[str, Any]] = ...,
        *,
        upstreams: int = ...,
        flags: Sequence[str] = ...,
        strip_client_pins: bool = ...,
        concurrency: int = ...,
    ) -> Stack: ...


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[[ChildProcess], Awaitable[None]]]:
    """Starts a child process without blocking the event loop, and stops it when the test ends."""
    async with AsyncExitStack() as exits:

        async def start(process: ChildProcess) -> None:
            exits.push_async_callback(asyncio.to_thread, process.stop)
            await asyncio.to_thread(process.start)

        yield start


@pytest.fixture
async def start_stack(tmp_path: Path) -> AsyncIterator[StartStack]:
    """Starts what `stack.running_stack` describes; all of it ends with the test."""
    async with AsyncExitStack() as exits:

        async def start_stack(*arguments: Any, **options: Any) -> Stack:
            return await exits.enter_async_context(running_stack(tmp_path, *arguments, **options))

        yield start_stack


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """The stack of a module that says `shared_stack = stack_fixture(…)`; `received` begins with this test."""
    shared_stack.received()
    return shared_stack
