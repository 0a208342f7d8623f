"""An open-loop client: every request is sent at its time, whatever became of those before it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from extproc.demo import plan
from extproc.demo.figures import Outcome
from extproc.demo.plan import PlannedRequest

LIMIT_S = 120.0
"""For one answer. The longest takes a tenth of that; the rest is for a loaded machine."""


async def play(
    base_url: str, traffic: Sequence[PlannedRequest], done: Callable[[Outcome], None]
) -> list[Outcome]:
    """Sends `traffic` to `base_url`, and tells `done` of each outcome as it comes.

    All outcomes, in the order of the plan.
    """
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=LIMIT_S)
    async with aiohttp.ClientSession(base_url, connector=connector, timeout=timeout) as session:
        start = time.monotonic()

        async def send_at_its_time(request: PlannedRequest) -> Outcome:
            body = json.dumps(request.body()).encode()
            await asyncio.sleep(start + request.at_s - time.monotonic())
            outcome = await _send(session, request, body)
            done(outcome)
            return outcome

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(send_at_its_time(request)) for request in traffic]
        return [task.result() for task in tasks]


@asynccontextmanager
async def batch_job(pod_url: str, workers: int, lead_s: float) -> AsyncIterator[None]:
    """Another team's job on one pod, past every gateway: `workers` requests at a time, for `lead_s` before and then
    for as long as the body runs."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=LIMIT_S)
    async with aiohttp.ClientSession(pod_url, connector=connector, timeout=timeout) as session:

        async def work(worker: int) -> None:
            for request in plan.batch_job(worker):
                outcome = await _send(session, request, json.dumps(request.body()).encode())
                if outcome.error is not None:
                    await asyncio.sleep(lead_s)  # the pod is gone, which others notice and report

        tasks = [asyncio.create_task(work(worker), name=f"batch job {worker}") for worker in range(workers)]
        try:
            await asyncio.sleep(lead_s)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def get_json(base_url: str, path: str) -> Any:
    """A GET through Envoy. Raises aiohttp.ClientError for an error status."""
    timeout = aiohttp.ClientTimeout(total=LIMIT_S)
    async with aiohttp.ClientSession(base_url, timeout=timeout) as session, session.get(path) as response:
        response.raise_for_status()
        return await response.json()


async def _send(session: aiohttp.ClientSession, request: PlannedRequest, body: bytes) -> Outcome:
    headers = {"content-type": "application/json"}
    if request.user is not None:
        headers["x-user-id"] = request.user
    sent = time.monotonic()
    try:
        async with session.post("/v1/chat/completions", data=body, headers=headers) as response:
            if request.stream and response.status == 200:
                ttft_s, model = await _read_events(response, sent)
            else:
                ttft_s, model = None, json.loads(await response.read()).get("model")
            return Outcome(request, response.status, ttft_s, time.monotonic() - sent, model)
    except (aiohttp.ClientError, ValueError, TimeoutError) as error:
        return Outcome(request, 0, error=f"{type(error).__name__}: {error}")


async def _read_events(response: aiohttp.ClientResponse, sent: float) -> tuple[float | None, str | None]:
    """Time to the first token in seconds, and the model named beside it. Raises ValueError for a cut stream.

    Only events up to the first token are parsed: a client that parsed all would take the CPU from the pods.
    """
    ttft_s = model = None
    end = b""
    async for line in response.content:
        if ttft_s is None and line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if event["choices"] and event["choices"][0]["delta"].get("content"):
                ttft_s, model = time.monotonic() - sent, event["model"]
        if line.strip():
            end = line
    if end.strip() != b"data: [DONE]":
        raise ValueError("the stream ended without [DONE]")
    return ttft_s, model
