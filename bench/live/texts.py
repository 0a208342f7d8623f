"""Request bodies for the calls of a workload: equal blocks give equal text, for the router and for the servers.

A block of 16 tokens is 64 characters, made from its integer.  A simulated server counts the first 16 characters of the
prompt for the message's role, so that the first block has 48 of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, count, islice

import msgspec

from extproc.benchmark.workload import BLOCK_TOKENS, Call
from extproc.sim.calls import TOKEN_CHARS
from extproc.sim.config import DEFAULT_MODEL

ROLE_TOKENS = 4
"""A message's role and marks; no prompt is shorter."""
MARK_CHARS = 16
"""Of a digest in hexadecimal."""
_MARKS_A_BLOCK = BLOCK_TOKENS * TOKEN_CHARS // MARK_CHARS
_KEPT_CACHED = 1 << 17
"""Chunks of 64 characters: 15 MB."""


class Script:
    """The bodies of a workload's calls, made once."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._parts = [_parts(call, number) for number, call in enumerate(calls)]

    def body(self, number: int, salt: str) -> bytes:
        """Of call *number*.  Nothing is shared between bodies of different salts: their first blocks differ."""
        before, text, size = self._parts[number]
        return b'%b%b"}]}' % (before, (mark(salt).encode() + text)[:size])


def _parts(call: Call, number: int) -> tuple[bytes, bytes, int]:
    """(JSON before the salt, content after it, length of the content with the salt)."""
    head = {
        "model": DEFAULT_MODEL,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": call.output_tokens,
        "messages": [{"role": "user", "content": ""}],
    }
    size = TOKEN_CHARS * (call.prompt_tokens - ROLE_TOKENS)
    blocks = -(-call.prompt_tokens // BLOCK_TOKENS)
    text = "".join(islice(_chunks(call, number), blocks))
    after_role_and_salt = ROLE_TOKENS * TOKEN_CHARS + MARK_CHARS
    return msgspec.json.encode(head).removesuffix(b'"}]}'), text[after_role_and_salt:].encode(), size


def _chunks(call: Call, number: int) -> Iterator[str]:
    """The text of each block; without end, as what the workload does not name is like nothing else, the last block too
    where it is not full."""
    full = call.prompt_tokens // BLOCK_TOKENS
    named = (chunk(f"block {block}") for block in islice(chain.from_iterable(call.blocks), full))
    return chain(named, (chunk(f"call {number} part {part}") for part in count()))


@lru_cache(_KEPT_CACHED)
def chunk(name: str) -> str:
    """The text of a block; two differ from their first characters on, so that even a part of one tells it."""
    return mark(name) * _MARKS_A_BLOCK


def mark(name: str) -> str:
    return blake2b(name.encode(), digest_size=MARK_CHARS // 2).hexdigest()
