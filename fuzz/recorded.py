"""What others really wrote, as the tests have it."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parents[1] / "tests" / "data"


def recorded(pattern: str) -> list[bytes]:
    """The files that match *pattern*, by name."""
    return [path.read_bytes() for path in sorted(DATA.glob(pattern))]
