"""Which model names can be: they end up in headers, metadata and logs."""

from __future__ import annotations

MAX_BYTES = 256
"""As upstream's InferenceModel.modelName; longer ones are a mistake or an attack."""


def is_usable(name: str) -> bool:
    """1..256 bytes of UTF-8 without control characters (C0, DEL and C1: none may stand in a header)."""
    if name.isascii() and name.isprintable():  # all but the control characters, as nearly all names are
        return 0 < len(name) <= MAX_BYTES
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return 0 < size <= MAX_BYTES and not any(c < " " or "\x7f" <= c <= "\x9f" for c in name)
