"""Expressions of the dashboard: series as its variables choose them, rates and quantiles of those."""

from __future__ import annotations

from .catalogue import series

VARIABLES = {
    "pool": 'pool=~"$pool|none"',  # a request that was refused before a pool was chosen has none
    "model": 'model=~"$model"',
}
"""How a label is chosen; a series that has no such label is not narrowed."""
TARGET = 'job=~"$job",instance=~"$instance"'


def chosen(name: str, *more: str) -> str:
    """The series *name*, of what the dashboard's variables choose.  KeyError: there is none."""
    labels = series()[name]
    matchers = [TARGET, *(text for label, text in VARIABLES.items() if label in labels), *more]
    return f"{name}{{{','.join(matchers)}}}"


def rate(name: str, by: str = "", *more: str) -> str:
    """Per second, summed over what is not in *by* (labels, comma-separated)."""
    return _sum(f"rate({chosen(name, *more)}[$__rate_interval])", by)


def gauge(name: str, by: str = "", *more: str) -> str:
    """Of all routers together."""
    return _sum(chosen(name, *more), by)


def highest(name: str, by: str) -> str:
    """Of what the routers say."""
    return f"max by ({by}) ({chosen(name)})"


def lowest(name: str, by: str) -> str:
    """Of what the routers say."""
    return f"min by ({by}) ({chosen(name)})"


def quantile(share: float, name: str, by: str = "") -> str:
    """Of the histogram *name*."""
    buckets = rate(f"{name}_bucket", f"le, {by}" if by else "le")
    return f"histogram_quantile({share:g}, {buckets})"


def ratio(part: str, whole: str) -> str:
    """0 where the part has no series yet; no value where the whole is 0."""
    return f"({part} or {whole} * 0) / ({whole} > 0)"


def one_of(label: str, values: tuple[str, ...]) -> str:
    """A matcher."""
    return f'{label}=~"{"|".join(values)}"'


def _sum(expression: str, by: str) -> str:
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"
