"""Reads an answer that is one JSON text."""

from collections.abc import Sequence

from extproc.body import Piece

from .model_values import Restorer
from .tally import Tally
from .texts import TextReader


class JsonAnswer:
    def __init__(self, tally: Tally, restorer: Restorer | None) -> None:
        self._tally = tally
        self._restorer = restorer
        self._text = TextReader()

    @property
    def held_bytes(self) -> int:
        return self._text.held_bytes + (self._restorer.held_bytes if self._restorer is not None else 0)

    def feed(self, piece: bytes, now: float) -> Sequence[Piece] | None:
        self._text.feed(piece, 0, len(piece))
        if self._restorer is None:
            return None
        self._restorer.look(piece, 0, len(piece))
        return self._restorer.rewrite(piece)

    def finish(self) -> None:
        fields = self._text.finish()
        if fields is None:
            self._tally.unreadable = self._text.failed
        else:
            self._tally.text(fields)
            self._tally.complete = True
