"""Which answers can be read, by their content type."""

import enum


class Shape(enum.Enum):
    JSON = "json"
    """One JSON text."""
    EVENTS = "events"
    """Server-sent events, each with a JSON text as its data."""


def shape(content_type: str) -> Shape | None:
    """The shape of an answer with this `content-type`; None for one that is not read."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "text/event-stream":
        return Shape.EVENTS
    if media_type == "application/json" or media_type.endswith("+json"):
        return Shape.JSON
    return None
