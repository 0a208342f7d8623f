"""What a request's span says: what was asked, decided, and came of it.  No body, no query, no credentials."""

from __future__ import annotations

from typing import Any

from ..exchange import Exchange
from ..request import InferenceRequest, bare_path
from ..router import Decision
from ..scheduling.profile import DEFAULT
from . import genai

MAX_TEXT = 256
"""Characters of what clients choose; a batch of spans is one message, which collectors take up to 4 MiB."""


def of(exchange: Exchange) -> dict[str, Any]:
    """Attributes of the whole request."""
    headers = exchange.headers
    path = bare_path(headers.get(":path", ""))
    found: dict[str, Any] = {
        "http.request.method": headers.get(":method", "")[:MAX_TEXT],
        "url.path": path[:MAX_TEXT],
        "extproc.outcome": exchange.outcome,
        "http.response.status_code": status(exchange),
        "gen_ai.operation.name": genai.operation(path),
    }
    if exchange.model is not None:
        found["gen_ai.request.model"] = exchange.model[:MAX_TEXT]
    if "x-request-id" in headers:
        found["extproc.request_id"] = headers["x-request-id"][:MAX_TEXT]
    if exchange.decision is not None:
        found |= _decision(exchange, exchange.decision)
    if exchange.answer is not None and exchange.answer.served is not None:
        found["extproc.served"] = exchange.answer.served[:MAX_TEXT]
    if error := error_type(exchange):
        found["error.type"] = error
    return {name: value for name, value in found.items() if value is not None} | _answer(exchange)


def of_decision(decision: Decision) -> dict[str, Any]:
    """Attributes of the choice itself."""
    found: dict[str, Any] = {
        "extproc.candidates": decision.candidates,
        "extproc.profile": decision.profile,
    }
    for scorer, score in decision.choice.scores.items():
        found[f"extproc.score.{scorer}"] = float(score)
    for name, dropped in decision.choice.dropped.items():
        found[f"extproc.dropped.{name}"] = dropped
    return found


def _decision(exchange: Exchange, decision: Decision) -> dict[str, Any]:
    host, _, port = decision.endpoint.address.rpartition(":")
    found: dict[str, Any] = {
        "gen_ai.provider.name": genai.providers(exchange.router.config).get(decision.pool.name),
        "gen_ai.response.model": decision.target_model[:MAX_TEXT] if decision.target_model else None,
        "server.address": host.strip("[]"),
        "server.port": int(port),
        "extproc.pool": decision.pool.name,
        "extproc.criticality": _criticality(exchange, decision),
        "extproc.candidates": decision.candidates,
        "extproc.tier": decision.tier,
        "extproc.mirror": decision.mirror,
        "extproc.profile": decision.profile if decision.profile != DEFAULT else None,
        "extproc.fallbacks": [endpoint.address for endpoint in decision.fallbacks] or None,
        "extproc.target_fallback": decision.target_fallback or None,
    }
    return found


def _criticality(exchange: Exchange, decision: Decision) -> str:
    router = exchange.router
    request = InferenceRequest(exchange.headers, decision.model)
    priority = router.priority(request, router.routes.of(decision.model), decision.pool)
    return "Critical" if priority > 0 else "Sheddable" if priority < 0 else "Standard"


def _answer(exchange: Exchange) -> dict[str, Any]:
    """What was read of the answer."""
    figures = exchange.answer_figures
    if figures is None:
        return {}
    usage = figures.usage
    found = {
        "gen_ai.usage.input_tokens": usage and usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage and usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage and usage.cached_tokens,
        "gen_ai.response.finish_reasons": figures.finish_reason and [figures.finish_reason],
        "gen_ai.response.time_to_first_chunk": exchange.ttft_s,
    }
    return {name: value for name, value in found.items() if value is not None}


def status(exchange: Exchange) -> int | None:
    """The HTTP status that the client got; None where that is not known."""
    if exchange.rejection is not None:
        return exchange.rejection.reason.status
    return exchange.answer.status or None if exchange.answer is not None else None


def error_type(exchange: Exchange) -> str | None:
    """Why the request failed for no fault of its client; None where it did not."""
    if exchange.fault is not None:
        return exchange.fault
    code = status(exchange)
    if code is None or code < 500:
        return None
    return exchange.rejection.reason.code if exchange.rejection is not None else str(code)
