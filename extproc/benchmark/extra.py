"""Whether the libraries are there that only the benchmark needs."""

from __future__ import annotations

from importlib.util import find_spec

from extproc.extras import how_to_install

NEEDED = ("numpy", "matplotlib", "PIL")


class MissingExtra(Exception):
    """A library of the extra is not installed; the text says what to do."""


def require_extra() -> None:
    """To be called before the first run: minutes later would be a pity.  Raises MissingExtra."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"{' and '.join(missing)} not found: {how_to_install('bench')}")
