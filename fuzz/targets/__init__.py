"""All targets, and which share of the inputs each gets."""

from __future__ import annotations

from importlib import import_module

from ..target import Target

SHARES = {
    "codec": 160,
    "stream": 160,
    "exchange": 80,
    "json_body": 130,
    "form_body": 90,
    "coding": 50,
    "answers": 50,
    "pages": 70,
    "load_reports": 40,
    "http_pages": 60,
    "configs": 30,
    "kubernetes": 40,
    "header_values": 40,
}
"""In thousandths: by how much there is to find, and what an input costs (50 µs to 3 ms)."""


def load(name: str) -> Target:
    """The target called *name*, one of SHARES; imports what it fuzzes."""
    target: Target = import_module(f"{__name__}.{name}").TARGET
    return target
