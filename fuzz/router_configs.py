"""Two configs with a bit of everything: a request's way through a router, and a reload from one to the other."""

from __future__ import annotations

from extproc.config import parse_config

CONFIGS = [
    parse_config(text)
    for text in (
        b"""
pools:
- {name: p, endpoints: ["10.0.0.1:80", {address: "10.0.0.2:80", labels: {v: w}}], fallback_endpoints: 1, profile: all,
   metrics: {orca: true}}
- {name: q, endpoints: ["10.0.1.1:80"], max_in_flight: 1, queue: {timeout_s: 1, max_requests: 2, tenant: api-key}}
models:
- {name: m, pool: p, sticky: {header: x-user}, targets: [{model: a, weight: 1}, {model: b, weight: 1, labels: {v: w}}]}
- {name: n, pool: p}
- {name: held, pool: q, mirrors: [{name: copy, percent: 50}]}
- {name: critical, pool: q, criticality: Critical}
- {name: shed, pool: q, criticality: Sheddable, targets: [{model: c}]}
default_pool: p
profiles:
- {name: all, filters: [{type: fresh}], picker: {type: max-score}, scorers: [{type: outstanding-work, weight: 3},
   {type: prefix-affinity}, {type: session-affinity, cookie: sid}, {type: lora-affinity}, {type: queue}]}
limits: {max_body_bytes: 1500, max_buffered_bytes: 3000}
trusted_headers: [x-llm-d-inference-objective, x-gateway-model-name, test-epp-endpoint-selection]
objectives: [{name: low, priority: -1}]
responses: {percent: 50, restore_model: true}
""",
        b"""
pools:
- {name: p, endpoints: ["10.0.0.1:80"], saturation: {waiting: 1}}
- {name: q, endpoints: ["10.0.1.1:80", "10.0.1.2:80"], queue: {order: shortest}}
models: [{name: m, pool: q}, {name: critical, pool: q, targets: [{model: c}]}]
default_pool: null
encoded_bodies: decode
list_models: forward
""",
    )
]
