"""What keeps a plan from working, and what its operator should know."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..otlp import settings
from .plan import MAX_BODY_BYTES, ManifestError, Plan

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""What a Service can be called (RFC 1035)."""
CONFIG_MAP_BYTES = 1_000_000
"""Kubernetes allows 1 MiB with all that belongs to the object."""


def check(plan: Plan) -> None:
    """Raises ManifestError where names cannot be, or where the target cannot do what the config says."""
    _check_names(plan)
    _check_otlp(plan)
    if len(plan.config_text.encode()) > CONFIG_MAP_BYTES:
        raise ManifestError(f"the config is longer than the {CONFIG_MAP_BYTES} bytes that a ConfigMap holds")
    if plan.target != "envoy-gateway":
        _check_picker(plan)
    elif plan.config.limits.max_body_bytes > MAX_BODY_BYTES:
        raise ManifestError(
            f"$.limits.max_body_bytes: {plan.config.limits.max_body_bytes}; Envoy Gateway hands us a body in one "
            f"message, of at most {MAX_BODY_BYTES} bytes"
        )


def _check_picker(plan: Plan) -> None:
    if len(plan.pools) > 1:
        raise ManifestError("an endpoint picker has one pool here; run once a pool, each with another --name")
    pool = plan.pools[0]
    if pool.selector is None:
        raise ManifestError(
            f"{pool.name}: an InferencePool needs the labels of its pods; give -f FILE with an InferencePool, or a "
            "config with kubernetes: {selector: {...}, port: N}"
        )
    if pool.namespace != plan.namespace:
        raise ManifestError(
            f"--namespace {plan.namespace}: an endpoint picker lives with its pool: {pool.namespace}"
        )
    if not all(isinstance(port, int) for port in pool.target_ports):
        raise ManifestError(
            f"{pool.name}: an InferencePool's ports are numbers, got {list(pool.target_ports)}"
        )
    if plan.target == "ai-gateway" and plan.retries:
        raise ManifestError(
            f"$.pools[0].fallback_endpoints: {plan.retries}; this gateway takes one endpoint (ORIGINAL_DST) and "
            "answers 503 to a list: 0 is allowed"
        )


def _check_otlp(plan: Plan) -> None:
    """As the router would read it, and with the port that the NetworkPolicy opens."""
    try:
        settings.read(plan.otlp_endpoint, {})
    except settings.OtlpError as error:
        raise ManifestError(str(error)) from None
    if plan.otlp_endpoint is not None and not plan.otlp_port:
        raise ManifestError(
            f"--otlp-endpoint: {plan.otlp_endpoint!r} has no port, which the NetworkPolicy is to open; 4317 is usual "
            "for gRPC, 4318 for HTTP"
        )


def _check_names(plan: Plan) -> None:
    """Before an API server refuses them one by one."""
    gateway = plan.gateway
    names = {
        "--name": plan.name,
        "--namespace": plan.namespace,
        "--gateway": gateway.namespace,
        "--envoy-namespace": plan.envoy_namespace,
    }
    for option, name in names.items():
        if not DNS_LABEL.fullmatch(name):
            raise ManifestError(
                f"{option}: {name!r} is no name; allowed: 1..63 letters a-z, digits and '-', a letter first"
            )
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", gateway.name):
        raise ManifestError(
            f"--gateway: {gateway.name!r} is no name; allowed: letters a-z, digits, '-' and '.'"
        )
    for prefix in plan.path_prefixes:
        if not re.fullmatch(r"/[-A-Za-z0-9/._~!$&'()*+,;=:@%]{0,1023}", prefix):
            raise ManifestError(f"--path-prefix: {prefix!r} is no path that begins with '/'")


def warnings(plan: Plan) -> Iterator[str]:
    """What the operator should know, and may well want."""
    if plan.target == "envoy-gateway" and plan.retries == 0:
        yield "fallback_endpoints is 0 in every pool: no retries; 2 is right with Envoy Gateway"
    for pool in plan.config.pools:
        if pool.kubernetes and pool.kubernetes.inference_pool and plan.target == "envoy-gateway":
            yield (
                f"pods and models of {pool.name} are read from its InferencePool and InferenceModels in the cluster: "
                "apply those too, or take them into the config with --inline"
            )
    if plan.target != "envoy-gateway" and any(pool.mirrors for pool in plan.pools):
        yield "mirrors are Envoy Gateway's: none is written here"
    if plan.target == "envoy-gateway" and not plan.with_gateway:
        yield (
            f"Gateway {plan.gateway.namespace}/{plan.gateway.name} must refer to the EnvoyProxy "
            f"{plan.name}; see the comment above it"
        )
