"""Finds the top-level `model` of a JSON text that comes in pieces, and checks all of the text (RFC 8259).

One pass, no recursion, and no memory beyond one byte a level of nesting and the token that is not complete yet.
Members and items are taken as many at a time as one regular expression matches; only what lies deeper than that,
or is cut by the end of a piece, takes a step in Python.
"""

import json
import re
from codecs import utf_8_decode
from collections.abc import Callable
from typing import Final, NoReturn

import msgspec

from extproc import jsongrammar as grammar
from extproc.errors import InvalidBody

NAME_MAX_BYTES: Final = 256
"""The longest name a model can have, in UTF-8 (callers refuse longer ones as unknown)."""
RAW_NAME_MAX_BYTES: Final = 6 * NAME_MAX_BYTES + 2
"""A JSON string over this is too long a name however it is spelled: \\uXXXX takes six bytes for one, and two are
quotes. More than this of a name is never held."""
MAX_MODELS: Final = 1024
"""How often `model` may stand at top level. Clients write it once; without a limit a 32 MiB body of nothing else
would make three million spans, ten times its own size."""

_QUOTE, _BACKSLASH, _ARRAY, _OBJECT, _END_ARRAY, _END_OBJECT, _COLON = b'"\\[{]}:'
_WS: Final = b" \t\n\r"
_CONTROLS: Final = bytes(range(32))
_OPENER_OF: Final = bytes.maketrans(b"]}", b"[{")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

# What comes next. Outside strings, white space has been skipped when a step begins.
_VALUE, _ITEM_OR_END, _KEY, _KEY_OR_END, _AFTER_KEY, _AFTER_VALUE, _IN_KEY, _IN_STRING = range(8)


class InvalidJson(InvalidBody):
    """The text is not JSON. The message says what is wrong at which byte, and quotes nothing of the text."""

    expected = "JSON"


class ModelFound(msgspec.Struct, frozen=True):
    """What a JSON text says at its top level about `model`."""

    is_object: bool
    """The top level is an object; else there is no `model`."""
    spans: tuple[tuple[int, int], ...] = ()
    """Offsets in bytes (start, end) of each value of `model`, quotes included, in order."""
    names: tuple[str | None, ...] = ()
    """Beside `spans`: the string that stands there; None if it is no string, or not usable as a name."""
    unusable: bool = False
    """The last value is a string, but can be no name: too long, or with a lone surrogate."""

    @property
    def has_model(self) -> bool:
        """`model` stands there, be it with a value of another type."""
        return bool(self.spans)

    @property
    def model(self) -> str | None:
        """The name that counts, which is the last; None if that is absent, no string, or not usable."""
        return self.names[-1] if self.names else None


def name_in(raw: bytes) -> tuple[str | None, bool]:
    """The string that a valid JSON value stands for, and whether that is unusable (see ModelFound)."""
    if raw[0] != _QUOTE:
        return None, False
    if len(raw) > RAW_NAME_MAX_BYTES:
        return None, True
    if b"\\" not in raw:
        return raw[1:-1].decode(), False
    name: str = json.loads(raw)
    return (None, True) if _SURROGATE.search(name) else (name, False)


class ModelScanner:
    """Scans a JSON text that is fed in pieces of any size. After an InvalidJson it is spent."""

    def __init__(self) -> None:
        self._expect = _VALUE
        self._stack = bytearray()
        """The opening brackets of the containers around the position."""
        self._carry = b""
        """The start of a token that goes on in the next piece; of a number only its shape."""
        self._fed = 0
        self._base = 0
        """Offset in the text of the buffer in hand."""
        self._is_object = False
        self._in_model = False
        """Between the key `model` at top level and the end of its value."""
        self._model_start = -1
        self._spans: list[tuple[int, int]] = []
        self._names: list[str | None] = []
        self._unusable = False

    def feed(self, data: bytes | memoryview) -> int:
        """Takes the next piece. Raises InvalidJson.

        Takes time linear in its length, for most texts 1 to 60 ns a byte, and about 1.5 µs for each step in
        Python, of which the number is returned.
        """
        buffer = self._carry + data if self._carry else bytes(data)
        self._fed += len(data)
        self._base = self._fed - len(buffer)
        if buffer.isascii():
            return self._scan(buffer, len(buffer))
        try:
            _, end = utf_8_decode(buffer, "strict", False)  # not what the end of the piece cuts
        except UnicodeDecodeError as error:
            self._scan(buffer, error.start)  # what is wrong before it comes first
            raise InvalidJson(f"invalid UTF-8 at byte {self._base + error.start}") from None
        return self._scan(buffer, end)

    def finish(self) -> ModelFound:
        """What the whole text says. Raises InvalidJson if it is not complete."""
        size = self._fed
        self.feed(b" ")  # ends a number at top level, changes nothing else
        if self._expect != _AFTER_VALUE or self._stack:
            raise InvalidJson(f"unexpected end of JSON at byte {size}")
        return ModelFound(self._is_object, tuple(self._spans), tuple(self._names), self._unusable)

    def _scan(self, buffer: bytes, end: int) -> int:
        steps = 0
        pos = 0 if self._expect in (_IN_KEY, _IN_STRING) else _skip(grammar.WHITE_SPACE, buffer, 0, end)
        while 0 <= pos < end:
            pos = _STEPS[self._expect](self, buffer, pos, end)
            steps += 1
        carry = buffer[pos if pos >= 0 else ~pos :]
        if len(carry) > grammar.MODEL_KEY_MAX_BYTES and carry[0] != _QUOTE:
            carry = grammar.DIGITS.sub(b"1", carry)  # a number: which digits, and how many, matters no more
        self._carry = carry
        return steps

    # A step takes what stands at `pos`, and returns the position after it; or, of a token that is not complete
    # before `end` and has to be seen again as a whole, ~position.

    def _value(self, buffer: bytes, pos: int, end: int) -> int:
        if self._stack and self._stack[-1] == _ARRAY:
            pos = self._run(grammar.ITEMS, buffer, pos, end)
            if pos == end or self._expect == _AFTER_VALUE:
                return pos
        if self._in_model and self._model_start < 0:
            self._model_start = self._base + pos
        byte = buffer[pos]
        if byte == _QUOTE:
            return self._string(buffer, pos, end)
        if byte in (_ARRAY, _OBJECT):
            return self._open(buffer, pos, end)
        if byte == _END_ARRAY and self._expect == _ITEM_OR_END:
            self._expect = _AFTER_VALUE
            return pos
        return self._scalar(buffer, pos, end)

    def _key(self, buffer: bytes, pos: int, end: int) -> int:
        at_top = len(self._stack) == 1
        pos = self._run(grammar.MEMBERS_BUT_MODEL if at_top else grammar.MEMBERS, buffer, pos, end)
        if pos == end or self._expect == _AFTER_VALUE:
            return pos
        if buffer[pos] == _END_OBJECT and self._expect == _KEY_OR_END:
            self._expect = _AFTER_VALUE
            return pos
        if buffer[pos] != _QUOTE:
            self._fail("expected a key", pos)
        match = grammar.KEY.match(buffer, pos, end)
        if match is None:
            return self._cut_string(buffer, pos, end, _IN_KEY, grammar.MODEL_KEY_MAX_BYTES if at_top else 0)
        if at_top:
            self._in_model = grammar.MODEL_KEY.match(buffer, pos, end) is not None
        self._expect = _VALUE if match[1] else _AFTER_KEY
        return match.end()

    def _run(self, entries: re.Pattern[bytes], buffer: bytes, pos: int, end: int) -> int:
        """Takes the items or members that stand whole at `pos`, if any, and says what comes after them."""
        after = _skip(entries, buffer, pos, end)
        if after > pos:
            in_array = self._stack[-1] == _ARRAY
            self._expect = _VALUE if in_array else _KEY
            if after < end and buffer[after] == (_END_ARRAY if in_array else _END_OBJECT):
                self._expect = _AFTER_VALUE
        return after

    def _colon(self, buffer: bytes, pos: int, end: int) -> int:
        if buffer[pos] != _COLON:
            self._fail("expected ':'", pos)
        self._expect = _VALUE
        return _skip(grammar.WHITE_SPACE, buffer, pos + 1, end)

    def _open(self, buffer: bytes, pos: int, end: int) -> int:
        if self._stack:  # else it may be the object whose keys count
            after = _skip(grammar.OPENERS, buffer, pos, end)
            if after > pos:
                opened = grammar.STRING.sub(b"", buffer[pos:after]).translate(None, b": \t\n\r")
                self._stack += opened
                self._expect = _ITEM_OR_END if opened[-1] == _ARRAY else _VALUE
                return after
        else:
            self._is_object = buffer[pos] == _OBJECT
        self._stack.append(buffer[pos])
        self._expect = _ITEM_OR_END if buffer[pos] == _ARRAY else _KEY_OR_END
        return _skip(grammar.WHITE_SPACE, buffer, pos + 1, end)

    def _after_value(self, buffer: bytes, pos: int, end: int) -> int:
        match = grammar.CLOSERS.match(buffer, pos, end)
        assert match is not None  # it matches the empty string
        if match[1]:
            self._close(match[1], pos)
        after = match.end()
        if not self._stack:
            if match.end(1) < end:
                self._fail("expected the end", match.end(1))
        elif match[2]:
            self._expect = _VALUE if self._stack[-1] == _ARRAY else _KEY
        elif after < end:
            self._fail("expected ',' or ']'" if self._stack[-1] == _ARRAY else "expected ',' or '}'", after)
        return after

    def _close(self, run: bytes, pos: int) -> None:
        """Takes closing brackets with white space between."""
        opened = run.translate(_OPENER_OF, _WS)[::-1]
        if self._stack[-len(opened) :] != opened:
            self._fail_closing(run, pos)
        del self._stack[-len(opened) :]
        if self._in_model and len(self._stack) <= 1:
            value = run.rstrip(_WS)
            if not self._stack:  # the last one is the bracket of the object around it
                value = value[:-1].rstrip(_WS)
            self._model_done(self._base + pos + len(value), None, False)

    def _fail_closing(self, run: bytes, pos: int) -> NoReturn:
        for at, bracket in enumerate(run, pos):
            if bracket in _WS:
                continue
            if not self._stack:
                self._fail("expected the end", at)
            if self._stack.pop() != _OPENER_OF[bracket]:
                self._fail(f"unexpected '{chr(bracket)}'", at)
        raise AssertionError("every bracket closes what is open")

    def _scalar(self, buffer: bytes, pos: int, end: int) -> int:
        if _skip(grammar.SCALAR_START, buffer, pos, end) == end:
            return ~pos  # it may go on
        after = _skip(grammar.SCALAR, buffer, pos, end)
        if after == pos:
            self._fail("expected a value", pos)
        return self._scalar_done(buffer, buffer[pos:after] if self._in_model else None, after, end)

    def _string(self, buffer: bytes, pos: int, end: int) -> int:
        after = _skip(grammar.STRING, buffer, pos, end)
        if after > pos:
            return self._scalar_done(buffer, buffer[pos:after] if self._in_model else None, after, end)
        is_name = self._in_model and len(self._stack) == 1
        return self._cut_string(buffer, pos, end, _IN_STRING, RAW_NAME_MAX_BYTES if is_name else 0)

    def _cut_string(self, buffer: bytes, pos: int, end: int, state: int, keep: int) -> int:
        """Takes the start of a string that does not end here; carries up to `keep` bytes of it as a whole."""
        before, self._expect = self._expect, state
        after = self._rest_of_string(buffer, pos + 1, end)
        if end - pos > keep:
            return after
        self._expect = before
        return ~pos

    def _rest_of_string(self, buffer: bytes, pos: int, end: int) -> int:
        quote = buffer.find(b'"', pos, end)
        stop = quote if quote >= 0 else end
        plain = buffer[pos:stop]  # most long strings are, and then are passed at memory speed
        if b"\\" in plain or len(plain.translate(None, _CONTROLS)) < len(plain):
            stop = _skip(grammar.STRING_BODY, buffer, pos, end)
        if stop == end:
            return end
        if buffer[stop] == _QUOTE:
            return self._string_done(buffer, stop + 1, end)
        if buffer[stop] != _BACKSLASH:
            self._fail("control character in a string", stop)
        if not grammar.ESCAPE_START.fullmatch(buffer, stop, end):
            self._fail("invalid escape", stop)
        return ~stop

    def _string_done(self, buffer: bytes, after: int, end: int) -> int:
        """The end of a string that was not carried as a whole."""
        if self._expect == _IN_STRING:
            return self._scalar_done(buffer, None, after, end)
        self._expect = _AFTER_KEY  # too long a key for `model`
        return _skip(grammar.WHITE_SPACE, buffer, after, end)

    def _scalar_done(self, buffer: bytes, raw: bytes | None, after: int, end: int) -> int:
        """The end of a value that is no container; `raw` may be None but for a value of `model` that was kept."""
        if self._in_model and len(self._stack) == 1:
            name, unusable = (None, True) if raw is None else name_in(raw)
            self._model_done(self._base + after, name, unusable)
        self._expect = _AFTER_VALUE
        return _skip(grammar.WHITE_SPACE, buffer, after, end)

    def _model_done(self, end: int, name: str | None, unusable: bool) -> None:
        if len(self._spans) == MAX_MODELS:
            raise InvalidJson(f"more than {MAX_MODELS} times 'model' at byte {self._model_start}")
        self._spans.append((self._model_start, end))
        self._names.append(name)
        self._unusable = unusable
        self._in_model = False
        self._model_start = -1

    def _fail(self, what: str, pos: int) -> NoReturn:
        raise InvalidJson(f"{what} at byte {self._base + pos}")


def _skip(pattern: re.Pattern[bytes], buffer: bytes, pos: int, end: int) -> int:
    """The position after what matches at `pos`, which is `pos` if nothing does."""
    match = pattern.match(buffer, pos, end)
    return pos if match is None else match.end()


_STEPS: Final[tuple[Callable[[ModelScanner, bytes, int, int], int], ...]] = (
    ModelScanner._value,
    ModelScanner._value,
    ModelScanner._key,
    ModelScanner._key,
    ModelScanner._colon,
    ModelScanner._after_value,
    ModelScanner._rest_of_string,
    ModelScanner._rest_of_string,
)
"""By what is expected."""
