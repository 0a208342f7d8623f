"""Server-sent events, taken apart as they come: https://html.spec.whatwg.org/multipage/server-sent-events.html

Only `data` counts here: what an event's name says, its data says, too.
"""

import enum
import re
from collections.abc import Iterator
from typing import Final

from extproc.jsongrammar import many

_BOM: Final = b"\xef\xbb\xbf"
_DATA: Final = b"data:"
_CR, _LF = b"\r\n"
_END_OF_LINE: Final = rb"(?:\r\n?+|\n)"
_REST_OF_LINE: Final = re.compile(rb"[^\r\n]*+")
_OTHER_LINES: Final = re.compile(many(rb"(?!data:)[^\r\n]++" + _END_OF_LINE))
"""Lines with other fields, or comments."""
_LINES_BETWEEN: Final = re.compile(many(rb"(?!data:)[^\r\n]*+" + _END_OF_LINE))
"""These and empty lines."""
EVENT: Final = re.compile(
    rb"(?:event:[^\r\n]*+(?:\r\n|\n)|)" + _DATA + rb"([^\r\n]*+)(?:\n\n|\r\n\r\n)",
)
"""A whole event of the form that servers send; group 1 is its data, with the space before it."""


class Part(enum.Enum):
    DATA = enum.auto()
    """Some of the value of a `data` line."""
    LINE_END = enum.auto()
    """Such a line ends."""
    EVENT_END = enum.auto()
    """An event with data ends."""


class EventSplitter:
    """Takes a stream that is fed in pieces of any size. The space after a colon is left with the value: it means
    nothing in JSON."""

    def __init__(self) -> None:
        self._line_start: bytes | None = b""
        """What has come of a line while it may be a `data` line; None: it is known."""
        self._in_data = False
        """The line in hand is one, if its start is known."""
        self._has_data = False
        """The event in hand has such a line."""
        self._after_cr = False
        """A line feed that comes next belongs to the end of the line before."""
        self._begun = False
        """What comes is not the very start, where a byte order mark may stand."""

    @property
    def between_events(self) -> bool:
        return self._line_start == b"" and not self._has_data and not self._after_cr

    def passed(self) -> None:
        """Between events, whole ones have been taken by `EVENT`."""
        self._begun = True

    def split(self, piece: bytes, pos: int) -> Iterator[tuple[Part, int, int]]:
        """Takes `piece` from `pos`: parts with their place in the piece. To be run to its end."""
        end = len(piece)
        if pos == end:
            return
        if not self._begun:
            pos = self._skip_bom(piece, pos)
        if self._after_cr:
            self._after_cr = False
            pos += piece[pos] == _LF
        while pos < end:
            if self._line_start is not None:
                pos, ended = self._start_line(piece, pos, end)
                if ended:
                    yield Part.EVENT_END, pos, pos
                continue
            stop = _skip(_REST_OF_LINE, piece, pos)
            if self._in_data and stop > pos:
                yield Part.DATA, pos, stop
            pos = stop
            if stop < end:
                pos = self._end_line(piece, stop, end)
                if self._in_data:
                    yield Part.LINE_END, stop, stop

    def _skip_bom(self, piece: bytes, pos: int) -> int:
        had = self._line_start or b""
        start = had + piece[pos : pos + len(_BOM) - len(had)]
        if not _BOM.startswith(start):
            self._begun = True
            return pos
        self._begun = start == _BOM
        self._line_start = b"" if self._begun else start
        return pos + len(start) - len(had)

    def _start_line(self, piece: bytes, pos: int, end: int) -> tuple[int, bool]:
        """The position after what is known of the line now, and whether the line ends an event."""
        had = self._line_start or b""
        if not had:
            pos = _skip(_OTHER_LINES if self._has_data else _LINES_BETWEEN, piece, pos)
            if pos == end:
                self._after_cr = piece[end - 1] == _CR
                return pos, False
            if piece[pos] in (_CR, _LF):
                self._has_data = False
                return self._end_line(piece, pos, end), True
        start = had + piece[pos : pos + len(_DATA) - len(had)]
        if start != _DATA and _DATA.startswith(start):
            self._line_start = start
            return end, False
        self._line_start = None
        self._in_data = start == _DATA
        if not self._in_data:
            return pos, False
        self._has_data = True
        return pos + len(_DATA) - len(had), False

    def _end_line(self, piece: bytes, pos: int, end: int) -> int:
        self._line_start = b""
        if piece[pos] == _CR:
            pos += 1
            if pos == end:
                self._after_cr = True
                return pos
            if piece[pos] != _LF:
                return pos
        return pos + 1


def _skip(pattern: re.Pattern[bytes], piece: bytes, pos: int) -> int:
    match = pattern.match(piece, pos)
    assert match is not None  # they match the empty string
    return match.end()
