"""Measures the raw JSON of a prompt in tokens, and hashes its beginnings at CHECKPOINTS.

Where a checkpoint lies depends on nothing but the bytes before it, so that prompts that begin alike have the same
hashes; and tokens are counted by the same measure, so that half of the text is about half of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from xxhash import xxh3_64

from .request import CHECKPOINTS

BYTES_PER_TOKEN: Final = 4
"""DeepSeek's tokenizer makes a token of 3.8 bytes of code, 4.0 of English, 4.7 to 5.5 of Japanese, Chinese and
Russian in UTF-8."""
ESCAPE: Final = b"\\u"
ESCAPE_EXCESS_BYTES: Final = 3
r"""By which `\uXXXX` is longer than the UTF-8 of most characters that are written so (Chinese, Japanese, Korean)."""
SAMPLE_BYTES: Final = 64
"""How much tells whether there is base64; and so much of the text between two checkpoints, and a sixteenth, is looked
through for escapes: counting them all would cost more than everything else here."""

BLOCK_BYTES: Final = 2 * 1024
"""Base64 is told apart from text in blocks of this size, so of each blob two blocks at most count as text: 512 tokens
in the mean."""
BLOB_BYTES: Final = 2_000
"""What the other blocks of a blob count together, so that an image makes about 1,000 tokens: Qwen2.5-VL has one for
28 × 28 pixels, 1,003 for 1024 × 768 (other models 256 to 1,500)."""
MAX_HELD_BYTES: Final = CHECKPOINTS[-1] * BYTES_PER_TOKEN
"""Of a longer text the rest only counts: no checkpoint lies in it."""
BYTES_PER_ID: Final = 6
"""Of a list of token ids, to begin with: five digits and a comma."""

_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\"  # `\/` and `\n` too
_BLOB_MARKS: Final = ((b";", b";base64,"), (b'"', b'"data"'))
"""(its first byte, which is sooner found, a mark); one stands before a blob: in data URLs; in OpenAI's `input_audio`
and Anthropic's `source`."""


class PromptText:
    """Takes a text in windows of whole blocks (the last may end anywhere).

    Nothing is shared between texts of other seeds, or other heads.
    """

    __slots__ = ("_before", "_blob", "_measure", "_parts", "_seed", "_size")

    def __init__(self, seed: bytes, head: bytes = b"") -> None:
        self._seed = seed
        self._parts: list[bytes] = []
        self._size = 0
        """Of all parts, those that are not kept included."""
        self._measure: _Measure | None = None
        """What the text turned out to be."""
        self._before = b""
        """The end of the last window."""
        self._blob: xxh3_64 | None = None
        """Of the blob that the last block belongs to, but for its ends."""
        self._add(head)

    def feed(self, window: bytes) -> None:
        """Takes 0.1 µs a block of text, 0.6 µs a block of base64."""
        if self._measure is None:
            self._measure = _TOKEN_IDS if window[:1].isdigit() else _TEXT
        text_from = 0
        for at in range(0, len(window), BLOCK_BYTES):
            if window[at : at + SAMPLE_BYTES].translate(None, _BASE64) or not self._is_blob(window, at):
                if self._blob is not None:
                    self._end_blob()
                    text_from = at
                continue
            if self._blob is None:
                self._add(window[text_from:at])
                self._blob = xxh3_64()
            self._blob.update(window[at : at + BLOCK_BYTES])
        if self._blob is None:
            self._add(window[text_from:])
        self._before = window[-BLOCK_BYTES - SAMPLE_BYTES :]

    def _is_blob(self, window: bytes, at: int) -> bool:
        """The block at *at*, which begins like base64, is inside a blob."""
        end = at + BLOCK_BYTES
        if len(window) < end or window[end - SAMPLE_BYTES : end].translate(None, _BASE64):
            return False
        if window.find(b'"', at, end) >= 0:
            return False
        if self._blob is not None:
            return True
        before = window[max(0, at - BLOCK_BYTES - SAMPLE_BYTES) : at] if at else self._before
        return any(first in before and mark in before for first, mark in _BLOB_MARKS)

    def _end_blob(self) -> None:
        assert self._blob is not None
        digest = self._blob.digest()
        self._blob = None
        self._add(digest * (BLOB_BYTES // len(digest)))

    def _add(self, part: bytes) -> None:
        if part and self._size < MAX_HELD_BYTES:
            self._parts.append(part)
        self._size += len(part)

    def measure(self) -> tuple[int, tuple[int, ...]]:
        """(tokens, hashes at as many CHECKPOINTS) of all that was fed."""
        if self._blob is not None:
            self._end_blob()
        text = b"".join(self._parts)  # no copy where it is one
        measure = self._measure or _TEXT
        units, prefix = _hash(self._seed, text, measure)
        units = units * self._size // (len(text) or 1)  # what is not held is like what is
        tokens = (units + measure.unended) // measure.units_per_token
        known = CHECKPOINTS[len(prefix) - 1] if prefix else 0
        return max(known, tokens), prefix


class _Measure(NamedTuple):
    """How tokens are counted in raw JSON."""

    units: Callable[[bytes, int, int], int]
    units_per_token: int
    bytes_per_unit: int
    """To begin with."""
    unended: int
    """Units beyond those that end in a text."""


def _bytes(text: bytes, start: int, end: int) -> int:
    """Of text: bytes, as if nothing were escaped."""
    size = end - start
    sample = min(size, SAMPLE_BYTES + size // 16)
    escapes = text.count(ESCAPE, start, start + sample)
    if not escapes:
        return size
    return max(size // 2, size - ESCAPE_EXCESS_BYTES * escapes * size // sample)


def _ids(text: bytes, start: int, end: int) -> int:
    """Of a list of token ids: those that end there."""
    return text.count(b",", start, end)


_TEXT: Final = _Measure(_bytes, BYTES_PER_TOKEN, 1, 0)
_TOKEN_IDS: Final = _Measure(_ids, 1, BYTES_PER_ID, 1)


def _grouped() -> Iterator[tuple[int, ...]]:
    start, size = 0, 1
    while start < len(CHECKPOINTS):
        yield CHECKPOINTS[start : start + size]
        start += size
        size = min(start, 8)


_GROUPS: Final = tuple((group, tuple(BYTES_PER_TOKEN * c for c in group)) for group in _grouped())
"""(checkpoints, where they lie in text without escapes): where those of a group lie is told from all groups before."""


def _hash(seed: bytes, text: bytes, measure: _Measure) -> tuple[int, tuple[int, ...]]:
    """(units in all the text, hashes)."""
    state = xxh3_64(seed)
    hashes: list[int] = []
    at = units = 0
    for group, plain_ends in _GROUPS:
        begun = at
        for end in plain_ends if measure is _TEXT and units == at else _ends(group, at, units, measure):
            if end > len(text):
                return units + measure.units(text, begun, len(text)), tuple(hashes)
            state.update(text[at:end])
            hashes.append(state.intdigest())
            at = end
        units += measure.units(text, begun, at)
    return units + measure.units(text, at, len(text)), tuple(hashes)


def _ends(group: Iterable[int], at: int, units: int, measure: _Measure) -> list[int]:
    """Where *group* lies if units go on as wide as they were up to *at*; in order, whatever they were."""
    width, weight = at + measure.bytes_per_unit, units + 1
    ends, last = [], at
    for checkpoint in group:
        last = max(last + 1, at + (checkpoint * measure.units_per_token - units) * width // weight)
        ends.append(last)
    return ends
