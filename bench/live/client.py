"""An open-loop client: every call is sent at its time, and what came of it is noted as it comes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence

import aiohttp
from msgspec import Struct

PATH = "/v1/chat/completions"
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":(\d+)')
_TAIL_BYTES = 2048
"""Of a stream, what is kept: its last few events, which say how many tokens came and whether it ended."""


class Seen(Struct):
    """One call.  Times in real seconds from the start of the run."""

    call: int
    due_s: float
    late_s: float = 0.0
    """By which it was sent too late, as the client was busy."""
    server: str = ""
    """Who says it answered; empty: nobody yet."""
    first_s: float | None = None
    """When its first token came."""
    last_s: float = 0.0
    """When the last bytes came."""
    error: str = ""
    tail: bytes = b""

    @property
    def tokens(self) -> int:
        """That came so far."""
        counts = _COMPLETION_TOKENS.findall(self.tail)
        return int(counts[-1]) if counts else 0

    @property
    def complete(self) -> bool:
        return self.tail.endswith(b"data: [DONE]\n\n")


async def play(
    url: str, due: Sequence[float], body: Callable[[int], bytes], label: str, within_s: float
) -> list[Seen]:
    """Sends a call at each of the times *due* to *url*; ends when each has had its first token, or *within_s* is over.

    Streams still running then are cut: how they go on is known by then, and waiting for the longest answer of all
    would take as long as the run itself.  Envoy's access log shows *label* and the call's number as the query.
    """
    timeout, connector = aiohttp.ClientTimeout(total=within_s), aiohttp.TCPConnector(limit=0)
    loop = asyncio.get_running_loop()
    seen = [Seen(number, at_s) for number, at_s in enumerate(due)]
    begun = [asyncio.Event() for _ in due]
    async with aiohttp.ClientSession(url, timeout=timeout, connector=connector) as session:
        start = loop.time()
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout_at(start + within_s):
                for entry, event in zip(seen, begun, strict=True):
                    await asyncio.sleep(start + entry.due_s - loop.time())
                    query = f"{PATH}?run={label}&call={entry.call}"
                    sending = _send(session, query, body(entry.call), entry, event, start)
                    tasks.append(asyncio.create_task(sending))
                for event in begun:
                    await event.wait()
        except TimeoutError:
            pass  # those that have no token yet have failed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return seen


async def _send(
    session: aiohttp.ClientSession,
    path: str,
    body: bytes,
    entry: Seen,
    begun: asyncio.Event,
    start: float,
) -> None:
    """Sets *begun* with the first token, or where none will come."""
    loop = asyncio.get_running_loop()
    entry.late_s = loop.time() - start - entry.due_s
    headers = {"content-type": "application/json"}
    try:
        async with session.post(path, data=body, headers=headers) as response:
            if response.status != 200:
                entry.error = f"{response.status}: {(await response.text())[:200]}"
                return
            entry.server = response.headers.get("x-sim-server", "")
            async for piece in response.content.iter_any():
                entry.last_s = loop.time() - start
                if entry.first_s is None:
                    entry.first_s = entry.last_s
                    begun.set()
                entry.tail = (entry.tail + piece)[-_TAIL_BYTES:]
        if not entry.complete:
            entry.error = "the stream ended without [DONE]"
    except (aiohttp.ClientError, TimeoutError) as error:
        entry.error = f"{type(error).__name__}: {error}"
    finally:
        begun.set()
