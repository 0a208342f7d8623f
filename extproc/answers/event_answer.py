"""Reads an answer that is a stream of server-sent events."""

from collections.abc import Sequence
from typing import Final

from extproc.body import Piece

from .events import EVENT, EventSplitter, Part
from .fields import Fields
from .model_values import Restorer
from .tally import Tally
from .texts import TextReader, read

_DONE: Final = b"[DONE]"
_DONE_MAX_BYTES: Final = 16
"""With some white space around it."""


class EventAnswer:
    def __init__(self, tally: Tally, restorer: Restorer | None) -> None:
        self._tally = tally
        self._restorer = restorer
        self._splitter = EventSplitter()
        self._text = TextReader()

    @property
    def held_bytes(self) -> int:
        return self._text.held_bytes + (self._restorer.held_bytes if self._restorer is not None else 0)

    def feed(self, piece: bytes, now: float) -> Sequence[Piece] | None:
        pos = self._whole_events(piece, now) if self._splitter.between_events else 0
        if pos < len(piece):
            self._parts(piece, pos, now)
        return None if self._restorer is None else self._restorer.rewrite(piece)

    def finish(self) -> None:
        """An event that is not complete counts for nothing, as the standard says."""

    def _whole_events(self, piece: bytes, now: float) -> int:
        """Takes the events at the start of the piece that are there as a whole; returns where they end."""
        end = 0
        while (match := EVENT.match(piece, end)) is not None:
            start, stop = match.span(1)
            end = match.end()
            text = piece[start:stop] + b"\n"
            if len(text) <= _DONE_MAX_BYTES and self._take_word(text):
                continue
            fields = read(text)
            self._take(fields, now)
            if self._restorer is not None:
                self._restorer.look_at_whole(piece, start, stop, fields)
        if end:
            self._splitter.passed()
        return end

    def _parts(self, piece: bytes, pos: int, now: float) -> None:
        """Takes everything else."""
        for part, start, end in self._splitter.split(piece, pos):
            if part is Part.DATA:
                self._text.feed(piece, start, end)
                if self._restorer is not None:
                    self._restorer.look(piece, start, end)
            elif part is Part.LINE_END:
                self._text.feed(b"\n", 0, 1)
                if self._restorer is not None:
                    self._restorer.line_ends()
            else:
                self._end_event(now)

    def _end_event(self, now: float) -> None:
        text, self._text = self._text, TextReader()
        if self._restorer is not None:
            self._restorer.text_ends()
        if text.held_bytes > _DONE_MAX_BYTES or not self._take_word(bytes(text.held)):
            self._take(text.finish(), now)

    def _take_word(self, text: bytes) -> bool:
        """The text is the last event of OpenAI's streams, or nothing, and has been taken."""
        word = text.strip()
        if word == _DONE:
            self._tally.last_event()
        return word in (b"", _DONE)

    def _take(self, fields: Fields | None, now: float) -> None:
        if fields is None:
            self._tally.unreadable = True
        else:
            self._tally.event(fields, now)
