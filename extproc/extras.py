"""How to get the libraries of an extra."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """Of a checkout, as the `extproc` of the public package index is a stranger's."""
    return f"pip install '.[{extra}]' in a checkout of extproc"
