"""What an answer's headers, and Envoy beside them, say of it."""

from __future__ import annotations

from . import pin
from .answers import Shape, shape
from .flight import Answered
from .load_report import REPORT_HEADER
from .protocol import codec
from .protocol.messages import Headers

MAX_DIGITS = 20
"""No body is longer than 2**64 bytes."""


def read_headers(headers: Headers, ended: bool, message: codec.Request) -> Answered:
    """Of the response headers that came in *message*; *ended*: no body follows."""
    status, content_type = headers.get(":status", ""), headers.get("content-type", "")
    length = headers.get("content-length", "")
    return Answered(
        status=int(status) if status.isdecimal() and len(status) == 3 else 0,
        served=_served(message),
        details=codec.attribute(message, "response.code_details"),
        streamed=shape(content_type) is Shape.EVENTS,
        ended=ended,
        load_report=headers.get(REPORT_HEADER),
        from_cache="age" in headers,
        content_type=content_type,
        content_encoding=headers.get("content-encoding", ""),
        not_theirs=pin.not_theirs(headers),
        content_length=int(length) if length.isdecimal() and len(length) < MAX_DIGITS else None,
    )


def _served(message: codec.Request) -> str | None:
    """Who answered, as Envoy says; None where it says nothing."""
    served = codec.metadata_value(message, pin.ENVOY_LB, pin.SERVED)
    if isinstance(served, str) and served:
        return served
    return codec.attribute(message, "upstream.address") or None
