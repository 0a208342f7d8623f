"""What is read of answers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class ResponsesConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Token counts and times are read from answers as they pass; Envoy must send us their bodies."""

    percent: Annotated[float, Meta(gt=0, le=100)] = 100
    """The share of answers that is read, drawn for each."""
    restore_model: bool = False
    """Put the client's model name back into answers by another; all of these are read, whatever `percent` says."""
