"""JSON (RFC 8259) in regular expressions over bytes, for `jsonscan`.

Every repeat is possessive: what has matched is never tried again, so that a match takes linear time and no
memory. UTF-8 is checked elsewhere; here every byte from 0x80 may stand in a string.
"""

import re
from typing import Final


def many(pattern: bytes) -> bytes:
    """The pattern as often as it matches, possessively."""
    # The empty alternative sets the position back after the last, failed turn, which CPython < 3.11.5 forgets
    # (python/cpython#100061); Debian 12 has 3.11.2.
    return rb"(?:" + pattern + rb"|(?!))*+"


def _separated(entry: bytes, close: bytes) -> bytes:
    # Entries, each with the comma after it; the last one leaves the closing bracket. A comma before the closing
    # bracket is no match.
    return many(entry + _WS + rb"(?:," + _WS + rb"(?!" + close + rb")|(?=" + close + rb"))")


_WS: Final = rb"[ \t\n\r]*+"
_CHARS: Final = rb"[ !#-\[\]-\xff]*+"
_STRING_BODY: Final = _CHARS + many(rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})' + _CHARS)
_STRING: Final = rb'"' + _STRING_BODY + rb'"'
_NAME: Final = _STRING + _WS + rb":" + _WS
_NUMBER: Final = rb"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++|)(?:[eE][+-]?+[0-9]++|)"
_NUMBER_START: Final = rb"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]*+|)(?:[eE][+-]?+[0-9]*+|)|-"
_LITERAL_START: Final = rb"t(?:r(?:u(?:e|)|)|)|f(?:a(?:l(?:s(?:e|)|)|)|)|n(?:u(?:l(?:l|)|)|)"
_SCALAR: Final = _STRING + rb"|true|false|null|" + _NUMBER
_MODEL: Final = rb'"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"'


def _value(height: int) -> bytes:
    """A value with up to `height` containers one in the other."""
    if height == 0:
        return rb"(?:" + _SCALAR + rb")"
    inner = _value(height - 1)
    array = rb"\[" + _WS + _separated(inner, rb"\]") + rb"\]"
    members = rb"\{" + _WS + _separated(_NAME + inner, rb"\}") + rb"\}"
    return rb"(?:" + array + rb"|" + members + rb"|" + _SCALAR + rb")"


_WHOLE: Final = _value(3)
"""Enough for a chat message with a list of content parts. Each level more doubles the pattern, and is one more
time that a byte may be looked at in vain."""

WHITE_SPACE: Final = re.compile(_WS)
ITEMS: Final = re.compile(_separated(_WHOLE, rb"\]"))
"""Items of an array, as many as stand there whole; maybe none."""
MEMBERS: Final = re.compile(_separated(_NAME + _WHOLE, rb"\}"))
"""Members of an object, likewise."""
MEMBERS_BUT_MODEL: Final = re.compile(_separated(rb"(?!" + _MODEL + rb")" + _NAME + _WHOLE, rb"\}"))
OPENERS: Final = re.compile(many(rb"\[" + _WS + rb"|\{" + _WS + _NAME))
"""Containers opened one in the other, of objects up to their first value; maybe none."""
CLOSERS: Final = re.compile(rb"([\]} \t\n\r]*+)(,?+)" + _WS)
"""Containers closed one after the other (group 1), and the comma after them (group 2)."""
KEY: Final = re.compile(_STRING + _WS + rb"(:?+)" + _WS)
MODEL_KEY: Final = re.compile(_MODEL)
"""The key `model` in all its spellings."""
MODEL_KEY_MAX_BYTES: Final = 32
"""The longest of them: five times \\uXXXX and two quotes."""
STRING: Final = re.compile(_STRING)
STRING_BODY: Final = re.compile(_STRING_BODY)
ESCAPE_START: Final = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?")
SCALAR: Final = re.compile(_SCALAR)
SCALAR_START: Final = re.compile(rb"(?:" + _NUMBER_START + rb"|" + _LITERAL_START + rb")")
"""What may be a number, true, false or null when more of it has come."""
DIGITS: Final = re.compile(rb"[0-9]{2,}")
