"""Bodies cut up for FULL_DUPLEX_STREAMED."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .messages import BodyReply, Phase, Piece

MAX_CHUNK_BYTES = 62_000
"""A streamed piece of a body; Envoys exist that refuse more than 64 KiB, framing included."""


def streamed(phase: Phase, pieces: Sequence[Piece], *, end: bool) -> Iterator[BodyReply]:
    """*pieces* in chunks of at most MAX_CHUNK_BYTES; the last one ends the body if *end*."""
    last = len(pieces) - 1
    for index, piece in enumerate(pieces):
        for start in range(0, max(len(piece), 1), MAX_CHUNK_BYTES):
            stop = start + MAX_CHUNK_BYTES
            ends = end and index == last and stop >= len(piece)
            yield BodyReply(phase, streamed=piece[start:stop], end_of_stream=ends)
