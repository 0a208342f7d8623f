"""What a routed request carries on: headers, dynamic metadata, and what is taken from it (CONTRACT section 4)."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Mapping

from . import load_report
from .protocol.messages import Headers, Mutation
from .router import Decision
from .trace_context import TRACEPARENT, TRACESTATE, Trace

DESTINATION = "x-gateway-destination-endpoint"
SUBSET = "x-gateway-destination-endpoint-subset"
SERVED = "x-gateway-destination-endpoint-served"
POOL = "x-extproc-pool"
MIRROR = "x-extproc-mirror"
MODEL_NAME = "x-gateway-model-name"
SELECTION = "test-epp-endpoint-selection"
"""By which conformance tests of gateways say where a request is to go; obeyed only where it is trusted."""
ENVOY_LB = "envoy.lb"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
NAMESPACE = "extproc"

OURS = "x-extproc-"
"""Only we say such a header: to routes and model servers of a request, to clients why it was refused."""

# Headers by which this router, its peers and the sidecars of model servers are steered.  A client that could set
# one would pick its pod, pass as another tenant, or make a sidecar connect to an address of its choice.
CONTROL_PREFIXES = (DESTINATION, OURS, "x-llm-d-", "x-gateway-inference-", MODEL_NAME)
CONTROL_HEADERS = frozenset(
    (
        "epp-profile",
        load_report.ASK_HEADER,  # how busy model servers are is nobody else's business
        SELECTION,
        "x-data-parallel-host-port",
        "x-encoder-hosts-ports",
        "x-kv-cache-source-host-port",
        "x-prefiller-host-port",
        "x-slo-tpot-ms",
        "x-slo-ttft-ms",
    )
)


@functools.lru_cache(maxsize=4096)  # the same dozens of names in every request; clients may send others
def is_control_header(name: str) -> bool:
    """Whether *name* (lower case) is removed from what clients send."""
    return name.startswith(CONTROL_PREFIXES) or name in CONTROL_HEADERS


def mutation(
    decision: Decision,
    headers: Headers,
    sticky_headers: frozenset[str],
    content_length: int | None,
    trace: Trace | None = None,
    *,
    plain: bool = False,
    plain_answer: bool = False,
) -> Mutation:
    """The mutation that sends a request with *headers* where *decision* says.

    *content_length* is set where a changed body has another length than the client announced; *plain*: its
    content-encoding is undone; *plain_answer*: its answer is to come without one.  Where *trace* begins here, nothing
    of another goes on.
    """
    pin, pool = decision.pin, decision.pool.name
    set_headers = [(DESTINATION, pin), (POOL, pool)]
    if decision.model is not None:
        set_headers.append((MODEL_NAME, decision.model))
    if decision.mirror is not None:
        set_headers.append((MIRROR, decision.mirror))
    if decision.pool.load_reports:
        set_headers.append((load_report.ASK_HEADER, load_report.FORMAT))
    if content_length is not None and "content-length" in headers:
        set_headers.append(("content-length", str(content_length)))
    removed = control_headers(headers, sticky_headers, {name for name, _ in set_headers})
    if plain:
        removed += ("content-encoding",)
    if plain_answer and "accept-encoding" in headers:
        removed += ("accept-encoding",)
    if trace is not None and trace.header is not None:
        set_headers.append((TRACEPARENT, trace.header))
        removed += (TRACESTATE,) if TRACESTATE in headers else ()
    return Mutation(
        set_headers=tuple(set_headers),
        remove_headers=removed,
        metadata={ENVOY_LB: {DESTINATION: pin}, NAMESPACE: _facts(decision)},
        clear_route_cache=True,
    )


def control_headers(
    headers: Iterable[str], sticky: frozenset[str], ours: Container[str] = ()
) -> tuple[str, ...]:
    """The *headers* that are removed: the control headers but *ours*, which we set, and sticky keys."""
    return tuple(n for n in headers if is_control_header(n) and n not in ours and n not in sticky)


def not_theirs(headers: Iterable[str]) -> tuple[str, ...]:
    """Of an answer's *headers* those that go no further."""
    return tuple(n for n in headers if n == load_report.REPORT_HEADER or n.startswith(OURS))


def _facts(decision: Decision) -> Mapping[str, str]:
    """What Envoy's access log can print."""
    facts = {"pool": decision.pool.name, "endpoint": decision.endpoint.address}
    if decision.model is not None:
        facts["model"] = decision.model
    if decision.target_model is not None:
        facts["target_model"] = decision.target_model
    if decision.mirror is not None:
        facts["mirror"] = decision.mirror
    return facts
