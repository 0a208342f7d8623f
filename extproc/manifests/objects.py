"""All objects of a plan, in the order in which they are best applied."""

from __future__ import annotations

from . import access, gateway, listener, picker, route, workload
from .plan import Plan
from .text import Object, Why


def router(plan: Plan) -> list[Object | Why]:
    """Our own."""
    made = [
        workload.service_account(plan),
        *access.roles(plan),
        workload.config_map(plan),
        workload.deployment(plan),
        workload.service(plan),
        workload.pod_disruption_budget(plan),
        access.network_policy(plan),
    ]
    return [*made, workload.service_monitor(plan)] if plan.service_monitor else made


def attachment(plan: Plan) -> list[Object | Why]:
    """What makes the gateway ask us."""
    entry: list[Object | Why] = list(listener.gateway(plan)) if plan.with_gateway else []
    match plan.target:
        case "envoy-gateway":
            return [*_envoy_gateway(plan), *entry]
        case "ai-gateway":
            return [
                picker.inference_pool(plan),
                route.pool_route(plan),
                listener.client_policy(plan),
                gateway.long_answers(plan, [plan.name]),
                *entry,
            ]
        case "istio":
            return [picker.inference_pool(plan), picker.destination_rule(plan), route.pool_route(plan)]


def _envoy_gateway(plan: Plan) -> list[Object | Why]:
    names = route.route_names(plan)
    return [
        *route.services(plan),
        *route.reference_grants(plan),
        route.no_route(plan),
        *route.routes(plan),
        gateway.extension_policy(plan, names),
        gateway.backend_policy(plan, names),
        listener.client_policy(plan),
        listener.envoy_proxy(plan),
    ]


def of(plan: Plan, part: str) -> list[Object | Why]:
    """*part* is `router`, `gateway` or `all`."""
    made = [] if part == "gateway" else router(plan)
    return made if part == "router" else [*made, *attachment(plan)]
