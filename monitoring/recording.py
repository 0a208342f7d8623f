"""Recording rules: what several alerts go by, and what an operator may want to set otherwise."""

from __future__ import annotations

from msgspec import Struct

from .catalogue import ERRORS
from .promql import one_of

WHO = "namespace, job"
"""Routers that are told apart: of one Prometheus several may send to it."""
TARGET = f"{WHO}, pool, model, target_model"
MODEL = f"{WHO}, pool, model"
COUNTED = 'outcome!="observed"'
FAILED = one_of("outcome", ERRORS)
WINDOWS = ("5m", "30m", "1h", "6h", "3d")
"""Of the burn rates: a long one says that it matters, a short one that it goes on."""
ERROR_BUDGET = 0.005
"""Share of requests that may fail over a month: an objective of 99.5 %, what one GPU in some hundred allows."""


class Recording(Struct, frozen=True):
    name: str
    expression: str
    reason: str = ""


def requests(by: str, window: str, matcher: str = COUNTED) -> str:
    return f"sum by ({by}) (rate(extproc_requests_total{{{matcher}}}[{window}]))"


def increase(by: str, window: str, matcher: str) -> str:
    return f"sum by ({by}) (increase(extproc_requests_total{{{matcher}}}[{window}]))"


def _ratio(window: str) -> str:
    total = requests(WHO, window)
    return f"({requests(WHO, window, FAILED)} or {total} * 0)\n/ ({total} > 0)"


BUDGET = Recording(
    "extproc:error_budget:ratio",
    f"vector({ERROR_BUDGET:g})",
    "share of requests that may fail: the one figure to set for your own objective",
)
TARGETS = (
    Recording("extproc:target_requests:rate15m", requests(TARGET, "15m")),
    Recording(
        "extproc:target_errors:rate15m",
        f"{requests(TARGET, '15m', FAILED)}\nor {requests(TARGET, '15m')} * 0",
        "0 where nothing failed, so that targets can be compared",
    ),
    Recording(
        "extproc:target_first_tokens:rate15m",
        f"sum by ({TARGET}) (rate(extproc_time_to_first_token_seconds_count[15m]))",
        "answers that were streamed and read: a share of the requests, of which the quantile is",
    ),
    Recording(
        "extproc:target_first_token_bucket:rate15m",
        f"sum by ({TARGET}, le) (rate(extproc_time_to_first_token_seconds_bucket[15m]))",
    ),
)
RECORDINGS = (
    BUDGET,
    *(Recording(f"extproc:request_errors:ratio_rate{window}", _ratio(window)) for window in WINDOWS),
    Recording("extproc:requests:rate1h", requests(WHO, "1h")),
    *TARGETS,
)
