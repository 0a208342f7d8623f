"""Config files: a config that a router can be built of, or faults that each fit on a line; and soon either way."""

from __future__ import annotations

import random

from extproc.config_file import parse
from extproc.errors import ConfigError, Rejected
from extproc.fleet import Fleet
from extproc.request import InferenceRequest

from ..recorded import DATA, recorded
from ..target import Target

MAX_FAULT_CHARS = 4096
"""Of one fault: it becomes a line on a terminal or in a log."""


def run(data: bytes) -> None:
    try:
        config = parse(data)
    except ConfigError as error:
        _check(error)
        return
    router = Fleet().apply(config)
    for model in (*[model.name for model in config.models[:3]], "other", None):
        try:
            decision = router.decide(InferenceRequest({}, model), 100.0, random.Random(1))
        except Rejected:
            continue
        assert decision.endpoint.address in decision.pin


def _check(error: ConfigError) -> None:
    assert error.faults
    for fault in error.faults:
        assert fault.path.startswith(("$", "document ")), fault.path
        assert len(str(fault)) <= MAX_FAULT_CHARS, "a fault that nobody reads"
        assert str(fault).isprintable(), f"a fault of several lines: {str(fault)!r}"


_SMALL = b"""pools: [{name: p, endpoints: ["10.0.0.1:80", {address: "[::1]:80", labels: {a: b}}]}]"""
_LARGE = b"""
pools:
- name: p
  endpoints: [{address: 10.0.0.1:80, labels: {tier: a}, max_in_flight: 2, cordoned: true}, 10.0.0.2:80]
  metrics: {engine: sglang, path: /m, port: 81, interval_s: 0.5, bearer_token_file: /x, orca: false}
  fallback_endpoints: 2
  saturation: {waiting: 5, kv_usage: 0.9}
  queue: {timeout_s: 0.1, order: shortest, tenant: {header: x-tenant}}
  tiers: [{name: a, labels: {tier: a}}, {name: b}]
- name: k
  kubernetes: {selector: {app: vllm}, port: 8000, namespace: ns, ip_family: IPv4}
models:
- name: m
  pool: p
  criticality: Sheddable
  sticky: {header: x-user}
  targets: [{model: a, weight: 90}, {model: b, weight: 10, labels: {version: v2}}]
  mirrors: [{name: copy, percent: 1.5, service: "x:80"}]
  never: a
- {name: "*", pool: p, priority: -1}
default_pool: p
profiles:
- name: default
  filters: [{type: fresh}]
  scorers: [{type: queue, weight: 2}, {type: kv-cache}, {type: session-affinity, cookie: sid}]
  picker: {type: max-score}
objectives: [{name: o, priority: 3}]
limits: {max_body_bytes: 1000}
trusted_headers: [x-llm-d-inference-objective]
"""
_BOMB = b"""a: &a [x,x,x,x]
b: &b [*a,*a,*a,*a]
pools: &p [{name: p, endpoints: *b}, *b, {<<: {name: q}, endpoints: &r [*r]}]
models: *p
"""


def _seeds() -> list[bytes]:
    guide = recorded("guide/*.yaml")
    return [
        _SMALL,
        _LARGE,
        _BOMB,
        _SMALL.replace(b"10.0.0.1", b"10.0.0.256"),
        _SMALL + b"\nmodels: [{name: m, pool: q}]",
        *(text for text in guide if len(text) <= TARGET.max_bytes),
        (DATA / "guide" / "inference-pool.yaml").read_bytes()
        + b"\n---\n"
        + (DATA / "guide" / "inference-model.yaml").read_bytes(),
        b"pools: !!python/object:os.system x",
        b"%YAML 1.2\n--- !!set {a, b}\n...\n--- 2026-01-31T00:00:00Z",
        b"pools: [{name: 1e9, endpoints: [0x10:80, 1:80, 190:20:30]}]",
        b"? [a]\n: b",
        b'"\\ud800": "\\x00"',
        "pools: é\ufeff\u2028".encode("utf-16"),
    ]


TARGET = Target(
    run,
    _seeds,
    (
        *b"pools: models: name: endpoints: kubernetes: metrics: queue: tiers: profiles: targets: weight: labels: "
        b"default_pool: objectives: limits: trusted_headers: sticky: mirrors: percent: apiVersion: kind: metadata: "
        b"spec: poolRef: &a *a << !!int !!float !!bool !!binary !!set !!omap !!timestamp !!null !x ~ .inf .nan | > ? "
        b"- --- ... [ ] { } # % @ ` 0x7f 0o7 1_000 1:60 2026-01-31".split(b" "),
        b"\n",
        b"\n  ",
        b": ",
        b"- ",
        b'"\\ud800"',
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x00",
        b"\t",
    ),
    max_bytes=2048,
)
