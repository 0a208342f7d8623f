"""What the router and Envoy tell each other besides headers."""

from __future__ import annotations

from collections.abc import Iterator

from ...pin import DESTINATION, ENVOY_LB, NAMESPACE
from ..finding import Cure, Found, Line, Severity, check
from ..setup import Setup

RECEIVE = (
    (Line("EnvoyExtensionPolicy", "spec.extProc[].metadata.writableNamespaces", "[envoy.lb, extproc]"),),
    (Line("ExternalProcessor", "metadata_options.receiving_namespaces.untyped", "[envoy.lb, extproc]"),),
)
FORWARD = (
    (Line("EnvoyExtensionPolicy", "spec.extProc[].metadata.accessibleNamespaces", "[envoy.lb]"),),
    (Line("ExternalProcessor", "metadata_options.forwarding_namespaces.untyped", "[envoy.lb]"),),
)


@check(
    "metadata-pin-dropped",
    Severity.SERIOUS,
    "The pin is dynamic metadata, and Envoy drops it",
    "The cluster reads the pod from envoy.lb, but ext_proc takes no metadata of that namespace: every request "
    "goes where Envoy's own load balancing sends it.",
    Cure(gateway=RECEIVE[0], envoy=RECEIVE[1]),
)
def metadata_pin_dropped(setup: Setup) -> Iterator[Found]:
    for manager, route in setup.served:
        for cluster in setup.clusters_of(route):
            by_header = DESTINATION in cluster.pin_headers
            if by_header or f"{ENVOY_LB}/{DESTINATION}" not in cluster.pin_metadata:
                continue
            for processing in manager.processings:
                if ENVOY_LB not in processing.receives:
                    told = ", ".join(processing.receives) or "none"
                    yield Found(cluster.where, f"filter {processing.filter}: receiving_namespaces {told}")


@check(
    "metadata-namespaces",
    Severity.NOTE,
    "Metadata namespaces are missing",
    "extproc holds the model, the target, the pool and the pod for Envoy's access log; envoy.lb the pin and, "
    "forwarded, the pod that served and the subset that a gateway allows.",
    Cure(gateway=RECEIVE[0] + FORWARD[0], envoy=RECEIVE[1] + FORWARD[1]),
)
def metadata_namespaces(setup: Setup) -> Iterator[Found]:
    for _, processing in setup.processings:
        missing = [
            f"receiving {name}" for name in (ENVOY_LB, NAMESPACE) if name not in processing.receives
        ] + ["forwarding envoy.lb"] * (ENVOY_LB not in processing.forwards)
        if missing:
            yield Found(f"filter {processing.filter}", f"not there: {', '.join(missing)}")


@check(
    "response-attributes",
    Severity.WARNING,
    "The router is not told who answered",
    "Without upstream.address (or the served endpoint in envoy.lb) a retry or a pin that Envoy did not follow "
    "goes unseen, and the request is counted at the wrong pod. Without response.code_details an Envoy's own "
    "503 counts against the pod.",
    Cure(
        gateway=(
            Line(
                "EnvoyExtensionPolicy",
                "spec.extProc[].processingMode.response.attributes",
                "[upstream.address, response.code_details]",
            ),
        ),
        envoy=(
            Line("ExternalProcessor", "response_attributes", "[upstream.address, response.code_details]"),
        ),
    ),
)
def response_attributes(setup: Setup) -> Iterator[Found]:
    told_by_clusters = all(cluster.tells_served for cluster in setup.pool_clusters)
    for _, processing in setup.processings:
        if not processing.sends_response_headers:
            continue
        told = processing.response_attributes
        if "upstream.address" not in told and not (told_by_clusters and ENVOY_LB in processing.forwards):
            yield Found(f"filter {processing.filter}", f"response_attributes: {', '.join(told) or 'none'}")
        elif "response.code_details" not in told:
            where = f"filter {processing.filter}"
            yield Found(where, "response_attributes without response.code_details", Severity.NOTE)


CHECKS = (metadata_pin_dropped, metadata_namespaces, response_attributes)
