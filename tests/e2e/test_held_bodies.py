"""Bodies that we hold while they come in (full duplex): one may not be too large, nor all of them together."""

from __future__ import annotations

import asyncio
from typing import Any

from stack import SHARED, WAYS, SlowBody, Stack, eventually, one_pool, stack_fixture

pytestmark = SHARED

LIMIT = 1024 * 1024


def config(addresses: list[str]) -> dict[str, Any]:
    return one_pool(addresses) | {"limits": {"max_body_bytes": LIMIT, "max_buffered_bytes": LIMIT}}


shared_stack = stack_fixture(config, [way for way in WAYS if way.mode == "duplex"])


async def test_uploads_that_together_are_too_much_to_hold_are_refused_and_the_first_goes_on(
    stack: Stack,
) -> None:
    size = LIMIT * 3 // 4
    slow = SlowBody(b'{"model": "m", "x": "' + b"y" * size, b'"}')
    first = asyncio.create_task(slow.post(stack))
    await eventually(lambda: stack.metric("buffered_bytes"), lambda bytes_held: bytes_held >= size)

    body = b'{"model": "m", "x": "' + b"z" * size + b'"}'
    async with stack.client.post("/v1/chat/completions", data=body) as response:
        error = (await response.json())["error"]
    slow.go_on.set()

    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert (response.headers["x-extproc-reason"], error["code"]) == ("overloaded", "overloaded")
    assert error["type"] == "service_unavailable_error"
    assert await first == (200, "")
    assert await stack.metric("buffered_bytes") == 0


async def test_an_upload_that_is_too_large_is_refused_before_it_has_ended(stack: Stack) -> None:
    slow = SlowBody(b'{"model": "m", "x": "' + b"y" * LIMIT)

    assert await slow.post(stack) == (413, "body_too_large")
    slow.go_on.set()
