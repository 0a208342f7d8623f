"""A request's body while it comes: read, and counted against what one and all may make us hold."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

from . import intake
from .body import Reader
from .budget import BodyBudget
from .config.schema import Limits
from .intake import Reading
from .jsonscan import ModelFound
from .prompt import read_prompt
from .protocol.messages import Headers, Piece
from .request import NO_PROMPT, Prompt

PIECE_COST_BYTES: Final = 64
"""What a piece takes beside its bytes (68 measured): an object, and its places in two lists.  It tells where a body
comes in pieces of a few bytes."""


class HeldBody:
    """What yields does so between slices of work on a big body, so that the caller can let others run."""

    __slots__ = ("_budget", "_held_bytes", "_limits", "_size", "kind", "reader")

    def __init__(self, budget: BodyBudget, limits: Limits) -> None:
        self.kind = Reading.OPAQUE
        """How it is read."""
        self.reader: Reader | None = None
        """What reads it; None: nobody."""
        self._budget = budget
        self._limits = limits
        self._size = 0
        self._held_bytes = 0

    def read(self, kind: Reading, headers: Headers) -> None:
        """Read it as *kind*, once the *headers* before it are here; raises Rejected."""
        self.kind = kind
        with intake.body_faults:
            self.reader = intake.reader(kind, headers, self._hold)

    def take(self, data: Piece) -> Iterator[None]:
        """A piece of it; raises Rejected."""
        self._size += len(data)
        self._hold(len(data), self._size)
        if self.reader is not None:
            with intake.body_faults:
                yield from self.reader.feed(data)

    def _hold(self, more: int, size: int) -> None:
        """Count *more* bytes of a body that has *size* with them; raises Rejected where that is too much."""
        if size > self._limits.max_body_bytes:
            raise intake.too_large(self._limits)
        if self._held_bytes and more > 0:  # what a body in one piece costs is in the price of a stream
            more += PIECE_COST_BYTES
        self._budget.take(more, self._limits.max_buffered_bytes)
        self._held_bytes += more

    def found(self) -> Generator[None, None, ModelFound | None]:
        """What it says of the model, once it is whole; raises Rejected."""
        if self.reader is None:
            return None
        with intake.body_faults:
            return (yield from self.reader.finish())

    def prompt(self) -> Generator[None, None, Prompt]:
        """What the model is to read; needs `found`."""
        json = self.reader.json if self.reader is not None else None
        return NO_PROMPT if json is None else (yield from read_prompt(json))

    @property
    def size(self) -> int:
        """Bytes that came, decoded."""
        return self._size if self.reader is None else self.reader.size

    def let_go(self) -> None:
        """It was sent on: the answer to it may take an hour."""
        self.reader = None
        self._budget.give_back(self._held_bytes)
        self._held_bytes = 0
