"""What is fuzzed: a function of bytes that asserts what holds whatever they are."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Target(Struct, frozen=True):
    """One reader, or several that have to agree."""

    run: Callable[[bytes], None]
    """Raises whatever is not allowed to happen; it keeps nothing, so that an input does the same each time."""
    seeds: Callable[[], list[bytes]]
    """Inputs to begin with: what others really write, and what is known to be hard."""
    tokens: tuple[bytes, ...] = ()
    """Words that mean something to it, for mutators to put in."""
    max_bytes: int = 2048
    """Of an input: enough for everything that is told apart, small enough for thousands a second."""


def words(text: bytes, *others: bytes) -> tuple[bytes, ...]:
    """The words of *text*, and *others*, with blanks and line ends in them."""
    return (*text.split(), *others)
