"""What a model server says of its load in the headers of an answer: ORCA, open request cost aggregation.

vLLM (0.10 and later, vllm/entrypoints/…/orca_metrics.py) answers whole chat and text completions so, where it was asked
to; streamed answers carry none.  Formats: TEXT `named_metrics.a=0.4, named_metrics.b=1.0`, and JSON.
"""

from __future__ import annotations

import math
import re

import msgspec

from .engine_metrics import MAX_REQUESTS

ASK_HEADER = "endpoint-load-metrics-format"
REPORT_HEADER = "endpoint-load-metrics"
FORMAT = "TEXT"
"""Of several data-parallel ranks TEXT has a figure each; in JSON vLLM leaves only the last one's."""

WAITING = "num_requests_waiting"
KV_CACHE_USAGE = "kv_cache_usage_perc"

MAX_BYTES = 16 * 1024
"""A longer report is none: a hundred ranks' figures take 10 KB."""
MAX_RATIO = 1.001
"""More of the cache in use is no rounding error."""


class ReportError(ValueError):
    """No report can be made of this."""


class LoadReport(msgspec.Struct, frozen=True):
    """What it told; None: nothing of that."""

    waiting: int | None = None
    """Requests accepted but not yet computed; the sum over its data-parallel ranks."""
    kv_cache_usage: float | None = None
    """Share of the key-value cache in use, 0..1; the mean over its ranks."""


class _Json(msgspec.Struct):
    named_metrics: dict[str, float] = {}


def parse(text: str) -> LoadReport:
    """The report in the header's value *text*.

    Raises ReportError where it is none, or one of our figures makes no sense; figures that we do not know may be
    anything.
    """
    if len(text) > MAX_BYTES:
        raise ReportError("too long")
    kind, _, rest = text.strip().partition(" ")
    match kind.upper():
        case "TEXT":
            figures = _text(rest)
        case "JSON":
            figures = _json(rest)
        case _:
            raise ReportError("neither TEXT nor JSON")
    return LoadReport(_waiting(figures.get(WAITING, [])), _usage(figures.get(KV_CACHE_USAGE, [])))


_ITEM = re.compile(r"\s*([\w.:/-]++)\s*=\s*([^\s,=]++)\s*")


def _text(rest: str) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}
    for item in rest.split(",") if rest.strip() else ():
        found = _ITEM.fullmatch(item)
        if not found:
            raise ReportError("malformed TEXT")
        name = found[1].removeprefix("named_metrics.")
        if name in (WAITING, KV_CACHE_USAGE):
            figures.setdefault(name, []).append(_number(found[2]))
    return figures


def _json(rest: str) -> dict[str, list[float]]:
    try:
        named = msgspec.json.decode(rest, type=_Json).named_metrics
    except (ValueError, RecursionError):
        raise ReportError("malformed JSON") from None
    return {name: [value] for name, value in named.items()}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ReportError("not a number") from None


def _waiting(figures: list[float]) -> int | None:
    if not all(0 <= figure <= MAX_REQUESTS for figure in figures):
        raise ReportError(f"{WAITING} is out of range")
    return round(math.fsum(figures)) if figures else None


def _usage(figures: list[float]) -> float | None:
    if not all(0 <= figure <= MAX_RATIO for figure in figures):
        raise ReportError(f"{KV_CACHE_USAGE} is out of range")
    return min(math.fsum(figures) / len(figures), 1.0) if figures else None
