"""Clients of every kind: each is one request, or what some send in place of one.

A client answers how it went, for the report: a status, the reason of a refusal, or what it did.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import aiohttp
from grpc import aio

from . import askers, callers, leavers
from .town import Town

Client = Callable[[Town, random.Random], Awaitable[str]]

CLIENTS: dict[Client, int] = {
    askers.chats: 40,
    askers.streams: 25,
    askers.completes: 6,
    askers.embeds: 6,
    askers.sends_messages: 6,
    askers.sends_a_form: 3,
    askers.is_mirrored: 6,
    askers.is_sheddable: 4,
    askers.names_what_is_not_listed: 4,
    askers.names_anything: 4,
    askers.names_the_newest: 4,
    askers.asks_the_cluster: 6,
    askers.lists_models: 4,
    askers.compresses: 5,
    askers.upgrades: 2,
    askers.waits: 4,
    askers.wait_together: 1,
    askers.fills_the_limit: 2,
    askers.is_one_over: 1,
    askers.is_one_over_in_chunks: 1,
    askers.flood: 1,
    askers.bombs: 1,
    askers.encodes_oddly: 1,
    askers.sends_next_to_nothing: 4,
    askers.sends_no_json: 4,
    askers.controls: 2,
    leavers.leaves_before_the_body: 4,
    leavers.leaves_within_the_body: 4,
    leavers.leaves_at_once: 4,
    leavers.leaves_while_it_waits: 6,
    leavers.leaves_within_the_stream: 6,
    leavers.leaves_while_it_is_held: 2,
    leavers.uploads_slowly: 4,
    callers.scrapes: 4,
    callers.commands: 1,
    callers.scrapes_and_does_not_read: 1,
    callers.talks_nonsense_in_grpc: 2,
    callers.talks_nonsense_to_the_port: 1,
}
"""How many of each come in one cycle."""

EXPECTED = (
    aiohttp.ClientError,
    aio.AioRpcError,
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
    TypeError,  # aiohttp's WebSocket, of an answer that is no text
)
"""What a client meets while pods die and Envoys are killed."""
