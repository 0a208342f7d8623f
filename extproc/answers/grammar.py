"""JSON in regular expressions over bytes, for `scanner`: where strings and containers end, and no more.

Unlike those of `jsongrammar` these do not check what they pass over: an answer is only looked at, and what is
wrong with it is for the client to find. Every repeat is possessive, so that a match takes linear time.
"""

import re
from collections.abc import Iterable
from typing import Final

from extproc.jsongrammar import many

_WS: Final = rb"[ \t\n\r]*+"
_CHARS: Final = rb'[^"\\\x00-\x1f]*+'
_STRING_BODY: Final = _CHARS + many(rb"\\[^\x00-\x1f]" + _CHARS)
_STRING: Final = rb'"' + _STRING_BODY + rb'"'
_SCALAR: Final = rb'[^ \t\n\r,:"\[\]{}]'
SCALAR_STARTS: Final = b"-0123456789tfnNI"
"""How they begin: true, false, null, and what some encoders write for what JSON has no number for."""
_SCALAR_START: Final = rb"(?=[" + re.escape(SCALAR_STARTS) + rb"])"


def _inside(height: int) -> bytes:
    """What may stand in a container, with up to `height` containers one in the other."""
    inner = rb"|[\[{]" + _inside(height - 1) + rb"[\]}]" if height else b""
    return many(rb'[^"\[\]{}]++|' + _STRING + inner)


_INSIDE: Final = _inside(3)
"""Enough for the `output` of the Responses API, and for `embeddings`. Each level more is one more time that a
byte may be looked at in vain."""
_VALUE: Final = rb"(?:" + _STRING + rb"|[\[{]" + _INSIDE + rb"[\]}]|" + _SCALAR_START + _SCALAR + rb"++)"

WHITE_SPACE: Final = re.compile(_WS)
STRING_BODY: Final = re.compile(_STRING_BODY)
KEY: Final = re.compile(rb'"(' + _STRING_BODY + rb')"' + _WS + rb":" + _WS)
SCALAR: Final = re.compile(_SCALAR + rb"*+")
INSIDE: Final = re.compile(_INSIDE)
"""Inside a container, up to a bracket that opens or closes it, or to what the end of the piece cuts."""
OPENERS: Final = re.compile(many(rb"[\[{]" + _inside(0)))
"""Containers opened one in the other, with what stands in them before the next."""
CLOSERS: Final = re.compile(many(rb'[\]}][^"\[\]{}]*+'))
STRING: Final = re.compile(_STRING)


def members_but(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """As many members of an object as stand there whole, up to one whose key is (or, with escapes in it, may be)
    one of the names."""
    named = rb'(?!"(?:' + b"|".join(re.escape(name) for name in names) + rb')")'
    key = rb'"' + _CHARS + rb'"' + _WS + rb":" + _WS
    return re.compile(many(named + key + _VALUE + _WS + rb"(?:," + _WS + rb"|(?=\}))"))
