"""`extproc sim --stream-interval`: how many tokens an event of a stream brings."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sim_client import MESSAGES, events, served

from extproc.sim.clockwork import Ticket
from extproc.sim.config import SimConfig
from extproc.sim.sequence import FirstToken, Token


async def test_a_stream_brings_its_first_token_alone_then_so_many_at_a_time_and_ends_with_the_rest() -> None:
    options = {"continuous_usage_stats": True}
    body = {"messages": MESSAGES, "stream": True, "max_tokens": 12, "stream_options": options}
    async with served(stream_interval=4, speed=2.0) as (_, client):
        response = await client.post("/v1/chat/completions", json=body)
        chunks = await events(response)

    said = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk != "[DONE]"]
    assert said == [0, 1, 5, 9, 12]


async def test_every_token_is_news_by_default() -> None:
    assert [asked async for asked in _news(interval=1, tokens=4)] == [1, 2, 3, 4]


async def test_news_are_counted_from_those_that_were_heard() -> None:
    """Who hears late has heard of more, and the next news are an interval after that."""
    ticket = Ticket(stream_interval=4)
    for _ in range(6):
        ticket.tell(Token("r", 0.0))
    await ticket.news()
    heard = [number async for number in _more(ticket, 8)]

    assert heard == [10, 14]


async def _news(interval: int, tokens: int) -> AsyncIterator[int]:
    ticket = Ticket(stream_interval=interval)
    ticket.tell(FirstToken("r", 0.0))
    await ticket.news()
    yield ticket.tokens
    async for number in _more(ticket, tokens - 1):
        yield number


async def _more(ticket: Ticket, tokens: int) -> AsyncIterator[int]:
    for _ in range(tokens):
        ticket.tell(Token("r", 0.0))
        if ticket._news.is_set():
            await ticket.news()
            yield ticket.tokens


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_below_a_token_is_refused(interval: int) -> None:
    with pytest.raises(ValueError, match="stream_interval must be at least 1"):
        SimConfig(stream_interval=interval)
