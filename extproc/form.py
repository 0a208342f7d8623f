"""Reads the model of a multipart/form-data body, as `body` reads that of a JSON body."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

from .body import Piece
from .formgrammar import FormType
from .formscan import FormScanner
from .jsonscan import ModelFound

SLICE_BYTES: Final = 64 * 1024
"""What is scanned in one go: at most 0.1 ms where it is data, 3 ms where it is nothing but small parts."""
STEP_COST_BYTES: Final = 16 * 1024
"""A step takes as long as a search in this many bytes of data."""
WORK_BYTES: Final = 1024 * 1024
"""Work between two turns: about 1 ms."""


class FormReader:
    """Collects a body's chunks and reads its model; the interface of `body.Reader`."""

    json = None

    def __init__(self, form: FormType) -> None:
        self.chunks: list[Piece] = []
        self.size = 0
        self._scanner = FormScanner(form)
        self._work = 0

    def feed(self, chunk: Piece) -> Iterator[None]:
        """Takes the next chunk; raises InvalidForm."""
        self.chunks.append(chunk)
        self.size += len(chunk)
        view = memoryview(chunk)
        for start in range(0, len(chunk), SLICE_BYTES):
            piece = view[start : start + SLICE_BYTES]
            self._work += len(piece) + STEP_COST_BYTES * self._scanner.feed(piece)
            if self._work >= WORK_BYTES:
                self._work = 0
                yield

    def finish(self) -> Generator[None, None, ModelFound]:
        """The body is complete; raises InvalidForm."""
        yield from ()
        return self._scanner.finish()

    def encode(self, name: str) -> bytes:
        return name.encode()
