"""Load reports in the headers of answers, as vLLM 0.32 writes them."""

from __future__ import annotations

import json

from extproc.sim.stats import Gauges


def load_report(wanted: str, gauges: Gauges) -> dict[str, str]:
    """The header for the format that the request asks for; none for one that vLLM does not know."""
    figures = {
        "num_requests_waiting": float(gauges.waiting),
        "kv_cache_usage_perc": float(gauges.kv_cache_usage),
    }
    match wanted.lower():
        case "text":
            told = ", ".join(f"named_metrics.{name}={value}" for name, value in figures.items())
        case "json":
            told = json.dumps({"named_metrics": figures})
        case _:
            return {}
    return {"endpoint-load-metrics": f"{wanted.upper()} {told}"}
