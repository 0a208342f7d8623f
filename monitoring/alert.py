"""What an alert is."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Alert(Struct, frozen=True):
    name: str
    expression: str
    wait: str
    """How long it must hold."""
    severity: Literal["critical", "warning"]
    """critical: clients are hurt now, wake somebody.  warning: in working hours."""
    summary: str
    description: str
