"""Names of the semantic conventions for generative AI.

https://github.com/open-telemetry/semantic-conventions-genai (status: development), as of October 2026.
`gen_ai.operation.name` is left out of metrics: our histograms do not tell operations apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry.sdk.metrics.export import Histogram, Metric
from prometheus_client.core import Metric as Family

from ..config import Config
from ..request import plain_path
from .metrics import CUMULATIVE, Interval, Labels, histogram_points

METRICS = {
    "extproc_request_duration_seconds": ("gen_ai.server.request.duration", "s"),
    "extproc_time_to_first_token_seconds": ("gen_ai.server.time_to_first_token", "s"),
    "extproc_time_per_output_token_seconds": ("gen_ai.server.time_per_output_token", "s"),
    "extproc_answer_tokens": ("gen_ai.client.token.usage", "{token}"),
}
TOKEN_TYPES = {"prompt": "input", "completion": "output"}
"""Cached tokens are among those of the prompt: the conventions' histogram has no type for them."""
OPERATIONS = {
    "/chat/completions": "chat",
    "/responses": "chat",
    "/messages": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
}
"""By the ends of paths."""
NAMES = {"model": "gen_ai.request.model", "target_model": "gen_ai.response.model", "pool": "extproc.pool"}


def operation(path: str) -> str | None:
    """`gen_ai.operation.name` of a request for *path*; None where the conventions know none."""
    bare = plain_path(path).rstrip("/")
    return next((name for end, name in OPERATIONS.items() if bare.endswith(end)), None)


def providers(config: Config) -> dict[str, str]:
    """`gen_ai.provider.name` by pool: what its endpoints run, where that is known."""
    return {pool.name: pool.metrics.engine for pool in config.pools if pool.metrics.engine != "none"}


def convert(family: Family, interval: Interval, providers: Mapping[str, str]) -> Iterator[Metric]:
    """*family* once more under its conventional name, if it has one; *providers*: engines by pool."""
    if family.name not in METRICS:
        return
    name, unit = METRICS[family.name]
    series = {tuple((k, v) for k, v in sample.labels.items() if k != "le") for sample in family.samples}
    attributes = {labels: found for labels in series if (found := _attributes(labels, providers))}
    points = list(histogram_points(family, interval, attributes))
    if points:
        yield Metric(name, family.documentation, unit, Histogram(points, CUMULATIVE))


def _attributes(labels: Labels, providers: Mapping[str, str]) -> dict[str, Any] | None:
    """None for a series that the conventions have no place for: cached tokens, requests without a decision."""
    values = dict(labels)
    if values["pool"] == "none":
        return None
    found = {NAMES[key]: value for key, value in values.items() if key in NAMES and value != "none"}
    if "type" in values:
        if values["type"] not in TOKEN_TYPES:
            return None
        found["gen_ai.token.type"] = TOKEN_TYPES[values["type"]]
    if values["pool"] in providers:
        found["gen_ai.provider.name"] = providers[values["pool"]]
    return found
