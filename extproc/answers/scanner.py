"""Finds the values at a few paths of a JSON text that comes in pieces.

One pass, no recursion, and no memory beyond the value that is being found. A text that is no JSON is found out
only where it would lead astray: what else is wrong is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from . import grammar

_QUOTE, _BACKSLASH, _ARRAY, _OBJECT, _END_ARRAY, _END_OBJECT, _COLON, _COMMA = b'"\\[{]}:,'
_CLOSERS: Final = frozenset(b"]}")
_SCALAR_STARTS: Final = frozenset(grammar.SCALAR_STARTS)
KEY_MAX_BYTES: Final = 6 * 32
"""The longest key that may be a wanted one, quotes not counted: \\uXXXX takes six bytes for one."""

# What comes next.
_VALUE, _KEY, _IN_KEY, _COLON_NEXT, _IN_STRING, _IN_SCALAR, _IN_CONTAINER, _IN_CONTAINED_STRING, _AFTER = (
    range(9)
)


class Wanted(Struct, frozen=True):
    """What is wanted of a value."""

    keep: bool = False
    """The value itself, unless it is a container that has wanted values in it."""
    members: Mapping[bytes, Wanted] | None = None
    """If it is an object, of the members with these keys."""
    items: Wanted | None = None
    """If it is an array, of each of its items."""
    others: re.Pattern[bytes] | None = None
    """Members that can be passed over."""


def wanted_object(members: Mapping[str, Wanted], *, keep: bool = False) -> Wanted:
    """For a value of which members are wanted; with `keep` as a whole where it is no object."""
    keys = {name.encode(): wanted for name, wanted in members.items()}
    return Wanted(keep=keep, members=keys, others=grammar.members_but(keys))


class ValueScanner:
    """Scans one text. Subclasses are told what is found."""

    def __init__(self, wanted: Wanted, keep_max_bytes: int) -> None:
        self._keep_max_bytes = keep_max_bytes
        self._expect = _VALUE
        self._wanted: Wanted | None = wanted
        """Of the value that comes next, or in hand."""
        self._frames: list[Wanted] = []
        """The containers around, of which something is wanted; the others are only counted."""
        self._depth = 0
        """Containers around that are not wanted, or kept as a whole."""
        self._name = b""
        """The key of the value that comes next, or in hand, as `Wanted` has it."""
        self._key: bytearray | None = None
        """The start of a key that goes on in the next piece; None if it is too long."""
        self._escaped = False
        """The last byte was a backslash in a string."""
        self._kept: bytearray | None = None
        """Of the value in hand what came in former pieces; None: it is not kept, or too long."""
        self._keeping = False
        self._kept_from = 0
        """Where in the piece in hand the value starts or goes on."""
        self._base = 0
        """Offset in the text of the piece in hand."""
        self._start = 0
        """Offset in the text of the value in hand."""
        self.failed = False
        """It is no JSON: nothing more is read."""
        self.closed = False
        """The text has come to its end; of a number at top level that is not known."""

    # -- for subclasses -------------------------------------------------------------------------------------

    def _found(self, start: int, end: int, raw: bytes | None) -> None:
        """A value to keep, at its offsets in the text; None if it is too long."""

    def _entered(self, bracket: int) -> None:
        """A container begins in which something is wanted; `_frames` are those around it."""

    def _left(self, bracket: int) -> None:
        """It ends."""

    # -------------------------------------------------------------------------------------------------------

    @property
    def fed_bytes(self) -> int:
        """How much of the text has been fed; between two pieces."""
        return self._base

    @property
    def held_bytes(self) -> int:
        """How much of the text is in memory."""
        return len(self._kept or b"") + len(self._key or b"")

    def feed(self, piece: bytes, pos: int, end: int) -> int:
        """Takes `piece[pos:end]`. Never raises. Returns the number of steps: each takes about 1 µs, and what they
        pass over 1 to 5 ns a byte."""
        steps = 0
        self._base -= pos
        self._kept_from = pos
        while pos < end and not self.failed:
            pos = _STEPS[self._expect](self, piece, pos, end)
            steps += 1
        if self._keeping and not self.failed:
            self._keep(piece, end)
        self._base += end
        return steps

    def _keep(self, piece: bytes, end: int) -> None:
        if self._kept is not None:
            if len(self._kept) + end - self._kept_from > self._keep_max_bytes:
                self._kept = None
            else:
                self._kept += piece[self._kept_from : end]

    # A step takes what stands at `pos` and returns the position after it.

    def _value(self, piece: bytes, pos: int, end: int) -> int:
        pos = _skip(grammar.WHITE_SPACE, piece, pos, end)
        if pos == end:
            return pos
        byte = piece[pos]
        if byte in (_ARRAY, _OBJECT):
            return self._open(byte, pos)
        if byte == _QUOTE:
            self._begin(pos)
            self._expect = _IN_STRING
            return pos + 1
        if byte == _END_ARRAY and self._frames and self._frames[-1].items is not None:
            self._expect = _AFTER
            return pos
        if byte not in _SCALAR_STARTS:
            return self._fail(end)
        self._begin(pos)
        self._expect = _IN_SCALAR
        return pos

    def _open(self, byte: int, pos: int) -> int:
        wanted = self._wanted
        if wanted is not None and (wanted.members if byte == _OBJECT else wanted.items) is not None:
            self._entered(byte)
            self._frames.append(wanted)
            self._wanted = wanted.items
            self._expect = _VALUE if byte == _ARRAY else _KEY
            return pos + 1
        self._begin(pos)
        self._depth = 1
        self._expect = _IN_CONTAINER
        return pos + 1

    def _begin(self, pos: int) -> None:
        self._start = self._base + pos
        if self._wanted is not None and self._wanted.keep:
            self._keeping = True
            self._kept = bytearray()
            self._kept_from = pos

    def _done(self, piece: bytes, after: int) -> int:
        self._expect = _AFTER
        if self._keeping:
            self._keep(piece, after)
            raw = None if self._kept is None else bytes(self._kept)
            self._keeping = False
            self._kept = None
            self._found(self._start, self._base + after, raw)
        self.closed = not self._frames
        return after

    def _in_string(self, piece: bytes, pos: int, end: int) -> int:
        stop = self._string_stop(piece, pos, end)
        return self._done(piece, stop + 1) if stop < end else end

    def _in_contained_string(self, piece: bytes, pos: int, end: int) -> int:
        stop = self._string_stop(piece, pos, end)
        if stop == end:
            return end
        self._expect = _IN_CONTAINER
        return stop + 1

    def _string_stop(self, piece: bytes, pos: int, end: int) -> int:
        """Where the closing quote stands; `end` if it does not, or is not to be looked for."""
        if self._escaped:
            self._escaped = False
            if piece[pos] < 0x20:
                return self._fail(end)
            pos += 1
        stop = _skip(grammar.STRING_BODY, piece, pos, end)
        if stop == end or piece[stop] == _QUOTE:
            return stop
        if stop + 1 < end or piece[stop] != _BACKSLASH:
            return self._fail(end)
        self._escaped = True
        return end

    def _in_scalar(self, piece: bytes, pos: int, end: int) -> int:
        after = _skip(grammar.SCALAR, piece, pos, end)
        return self._done(piece, after) if after < end else end

    def _in_container(self, piece: bytes, pos: int, end: int) -> int:
        pos = _skip(grammar.INSIDE, piece, pos, end)
        if pos == end:
            return pos
        byte = piece[pos]
        if byte == _QUOTE:
            self._expect = _IN_CONTAINED_STRING
            return pos + 1
        if byte in _CLOSERS:
            return self._close(piece, pos, end)
        after = _skip(grammar.OPENERS, piece, pos, end)
        opened = grammar.STRING.sub(b"", piece[pos:after])
        self._depth += opened.count(b"[") + opened.count(b"{")
        return after

    def _close(self, piece: bytes, pos: int, end: int) -> int:
        after = _skip(grammar.CLOSERS, piece, pos, end)
        closers = piece.count(b"]", pos, after) + piece.count(b"}", pos, after)
        if closers < self._depth:
            self._depth -= closers
            return after
        while True:
            if piece[pos] in _CLOSERS:
                self._depth -= 1
            pos += 1
            if self._depth == 0:
                return self._done(piece, pos)

    def _members(self, piece: bytes, pos: int, end: int) -> int:
        others = self._frames[-1].others
        assert others is not None  # this is an object of which something is wanted
        pos = _skip(others, piece, _skip(grammar.WHITE_SPACE, piece, pos, end), end)
        if pos == end:
            return pos
        byte = piece[pos]
        if byte == _END_OBJECT:
            self._expect = _AFTER
            return pos
        if byte != _QUOTE:
            return self._fail(end)
        match = grammar.KEY.match(piece, pos, end)
        if match is not None:
            self._next_member(match[1])
            self._expect = _VALUE
            return match.end()
        self._key = bytearray()
        self._expect = _IN_KEY
        return pos + 1

    def _in_key(self, piece: bytes, pos: int, end: int) -> int:
        stop = self._string_stop(piece, pos, end)
        if self._key is not None:
            if len(self._key) + stop - pos > KEY_MAX_BYTES:
                self._key = None
            else:
                self._key += piece[pos:stop]
        if stop == end:
            return end
        self._next_member(None if self._key is None else bytes(self._key))
        self._key = None
        self._expect = _COLON_NEXT
        return stop + 1

    def _next_member(self, raw: bytes | None) -> None:
        if raw is not None and _BACKSLASH in raw:
            raw = _unescaped(raw)
        members = self._frames[-1].members
        assert members is not None  # this is an object of which something is wanted
        self._wanted = None if raw is None else members.get(raw)
        if self._wanted is not None and raw is not None:
            self._name = raw

    def _colon(self, piece: bytes, pos: int, end: int) -> int:
        pos = _skip(grammar.WHITE_SPACE, piece, pos, end)
        if pos == end:
            return pos
        if piece[pos] != _COLON:
            return self._fail(end)
        self._expect = _VALUE
        return pos + 1

    def _after(self, piece: bytes, pos: int, end: int) -> int:
        pos = _skip(grammar.WHITE_SPACE, piece, pos, end)
        if pos == end:
            return pos
        if not self._frames:
            return self._fail(end)
        frame = self._frames[-1]
        in_array = frame.items is not None
        byte = piece[pos]
        if byte == _COMMA:
            self._wanted = frame.items
            self._expect = _VALUE if in_array else _KEY
        elif byte == (_END_ARRAY if in_array else _END_OBJECT):
            self._frames.pop()
            self._left(byte)
            self.closed = not self._frames
        else:
            return self._fail(end)
        return pos + 1

    def _fail(self, end: int) -> int:
        self.failed = True
        self.closed = False
        self._keeping = False
        self._kept = self._key = None
        return end


def _unescaped(raw: bytes) -> bytes | None:
    try:
        name: str = json.loads(b'"' + raw + b'"')
        return name.encode()
    except ValueError:  # no such escape, no UTF-8, or a lone surrogate
        return None


def _skip(pattern: re.Pattern[bytes], piece: bytes, pos: int, end: int) -> int:
    """The position after what matches at `pos`, which is `pos` if nothing does."""
    match = pattern.match(piece, pos, end)
    return pos if match is None else match.end()


_STEPS: Final[tuple[Callable[[ValueScanner, bytes, int, int], int], ...]] = (
    ValueScanner._value,
    ValueScanner._members,
    ValueScanner._in_key,
    ValueScanner._colon,
    ValueScanner._in_string,
    ValueScanner._in_scalar,
    ValueScanner._in_container,
    ValueScanner._in_contained_string,
    ValueScanner._after,
)
"""By what is expected."""
