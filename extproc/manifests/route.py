"""HTTPRoute and what it refers to: one rule a pool, and one for what no rule takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from .. import pin
from .gateway import ENVOY_GATEWAY, GATEWAY_API
from .plan import Mirror, Plan, PoolPlan
from .text import Object, Why
from .workload import metadata

MAX_RULES = 16
"""Of one HTTPRoute (Gateway API); more pools get a second."""
NO_ROUTE: Object = {
    "error": {
        "message": "no route for this model",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
}
NO_ROUTER: Object = {
    "error": {
        "message": "the router is not available; try again",
        "type": "server_error",
        "param": None,
        "code": "no_router",
    }
}


def route_names(plan: Plan) -> list[str]:
    """Of the HTTPRoutes, in order."""
    count = -(-len(_rules(plan)) // MAX_RULES)
    return [plan.name if index == 0 else f"{plan.name}-{index + 1}" for index in range(count)]


def routes(plan: Plan) -> list[Object]:
    """The HTTPRoutes; the first rule of the first is where every request enters."""
    rules = _rules(plan)
    return [
        {
            "apiVersion": f"{GATEWAY_API}/v1",
            "kind": "HTTPRoute",
            "metadata": metadata(plan, name),
            "spec": {
                "parentRefs": [_parent(plan)],
                "rules": rules[index * MAX_RULES : (index + 1) * MAX_RULES],
            },
        }
        for index, name in enumerate(route_names(plan))
    ]


def pool_route(plan: Plan) -> Object:
    """The HTTPRoute of a gateway that knows InferencePools."""
    pool = plan.pools[0]
    backend = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": pool.name}
    rule: Object = {
        "matches": _matches(plan, {}),
        "backendRefs": [Why(backend, "its endpointPickerRef is what makes the gateway ask us")],
    }
    return {
        "apiVersion": f"{GATEWAY_API}/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(plan),
        "spec": {"parentRefs": [_parent(plan)], "rules": [rule]},
    }


def no_route(plan: Plan) -> Object:
    """HTTPRouteFilter: the answer of the entry rule."""
    status, reason, answer = (
        Why(404, "seen only where the config has a pool without a rule"),
        "no_route",
        NO_ROUTE,
    )
    if plan.fail_open:
        status, reason, answer = Why(503, "seen while no router is there"), "no_router", NO_ROUTER
    body = Why(json.dumps(answer), "as OpenAI's clients expect it")
    return {
        "apiVersion": f"{ENVOY_GATEWAY}/v1alpha1",
        "kind": "HTTPRouteFilter",
        "metadata": metadata(plan),
        "spec": {
            "directResponse": {
                "statusCode": status,
                "contentType": "application/json",
                "header": {"set": [{"name": "x-extproc-reason", "value": reason}]},
                "body": {"type": "Inline", "inline": body},
            }
        },
    }


def services(plan: Plan) -> list[Object | Why]:
    """The Services over pools' pods that are not there already."""
    return [_service(plan, pool) for pool in plan.pools if pool.own_service]


def reference_grants(plan: Plan) -> list[Object]:
    """Leave for our route to name the Services of other namespaces."""
    return [
        {
            "apiVersion": f"{GATEWAY_API}/v1",
            "kind": "ReferenceGrant",
            "metadata": metadata(plan, namespace=namespace),
            "spec": {
                "from": [{"group": GATEWAY_API, "kind": "HTTPRoute", "namespace": plan.namespace}],
                "to": [
                    {"group": "", "kind": "Service", "name": service}
                    for service in dict.fromkeys(_services_in(plan, namespace))
                ],
            },
        }
        for namespace in plan.pool_namespaces
        if namespace != plan.namespace
    ]


def _services_in(plan: Plan, namespace: str) -> Iterator[str]:
    for pool in plan.pools:
        if pool.namespace == namespace:
            yield pool.service
            yield from (mirror.service for mirror in pool.mirrors)


def _parent(plan: Plan) -> Object:
    gateway = plan.gateway
    parent: Object = {"name": gateway.name}
    if gateway.namespace != plan.namespace:
        parent["namespace"] = Why(
            gateway.namespace, "its listener must allow routes from here (allowedRoutes)"
        )
    if gateway.port is not None:
        parent["port"] = gateway.port
    return parent


def _rules(plan: Plan) -> list[Object | Why]:
    rules: list[Object | Why] = [_entry(plan)]
    for index, pool in enumerate(plan.pools):
        name = _rule_name(pool.name, f"pool-{index}")
        rules.append(
            {
                "name": name,
                "matches": _matches(plan, {pin.POOL: pool.name}),
                "backendRefs": _backends(plan, pool),
            }
        )
        rules += [
            _mirrored(plan, pool, mirror, f"{name}-mirror-{i}") for i, mirror in enumerate(pool.mirrors)
        ]
    return rules


def _entry(plan: Plan) -> Why:
    extension = {"group": ENVOY_GATEWAY, "kind": "HTTPRouteFilter", "name": plan.name}
    rule: Object = {
        "name": "entry",
        "matches": _matches(plan, {}),
        "filters": [{"type": "ExtensionRef", "extensionRef": extension}],
    }
    why = (
        f"Every request enters here and is put to us; we set {pin.POOL}, and Envoy looks for its rule again."
    )
    return Why(rule, why)


def _mirrored(plan: Plan, pool: PoolPlan, mirror: Mirror, name: str) -> Object:
    """The pool's rule again, for the share of requests that we mark."""
    backend = _backend(plan, pool.namespace, mirror.service, mirror.port)
    share = "all that we marked: the percentage is ours to draw, so that it can follow a conversation"
    mirrored = {"type": "RequestMirror", "requestMirror": {"backendRef": backend, "percent": Why(100, share)}}
    return {
        "name": name,
        "matches": _matches(plan, {pin.POOL: pool.name, pin.MIRROR: mirror.name}),
        "filters": [mirrored],
        "timeouts": {"request": Why("1h", "or the copies to a mirror that never answers are kept for ever")},
        "backendRefs": _backends(plan, pool),
    }


def _matches(plan: Plan, headers: dict[str, str]) -> list[Object]:
    made = [{"name": name, "value": value} for name, value in headers.items()]
    extra = {"headers": made} if made else {}
    return [{"path": {"type": "PathPrefix", "value": prefix}, **extra} for prefix in plan.path_prefixes]


def _backends(plan: Plan, pool: PoolPlan) -> list[Object]:
    """One Service a rule: with several, Envoy Gateway answers 503 as soon as one of them is empty.  Ports of one
    Service are empty together."""
    return [_backend(plan, pool.namespace, pool.service, port) for port in pool.service_ports]


def _backend(plan: Plan, namespace: str, service: str, port: int) -> Object:
    elsewhere = {} if namespace == plan.namespace else {"namespace": namespace}
    return {"kind": "Service", "name": service, **elsewhere, "port": port}


def _service(plan: Plan, pool: PoolPlan) -> Why:
    several = len(pool.service_ports) > 1
    ports = [
        {
            **({"name": f"port-{number}"} if several else {"name": "http"}),
            "port": number,
            "targetPort": target,
        }
        for number, target in zip(pool.service_ports, pool.target_ports, strict=True)
    ]
    family = {"ipFamilies": [pool.ip_family], "ipFamilyPolicy": "SingleStack"} if pool.ip_family else {}
    made: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(plan, pool.service, pool.namespace),
        "spec": {"selector": pool.selector, "ports": ports, **family},
    }
    why = f"By it Envoy Gateway knows the pods of {pool.name}: its routes take no InferencePool."
    return Why(made, why)


def _rule_name(pool: str, otherwise: str) -> str:
    """A pool's name where it can name a rule."""
    return (
        pool if re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", pool) and pool != "entry" else otherwise
    )
