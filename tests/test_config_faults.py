"""A faulty config: each fault names the path, what is wrong, and what is allowed; all are told at once."""

from __future__ import annotations

import pytest

from extproc.config import parse_config
from extproc.errors import ConfigError

POOL = "pools: [{name: a, endpoints: ['127.0.0.1:1']}]\n"
TOP_KEYS = (
    "pools, models, default_pool, profiles, objectives, limits, trusted_headers, encoded_bodies, list_models, "
    "responses"
)
NAME_RULE = "1..253 letters, digits, '.', '_' and '-', with a letter or digit at both ends"
HEADER_RULE = "a header name (RFC 9110 token of 1..256 characters)"
ADDRESS_RULE = "is not IP:PORT ([IPv6]:PORT), with a port of 1..65535"
MODEL_RULE = "a model name has 1..256 bytes and no control characters"


def faults(text: str) -> list[str]:
    """What is told of a faulty config."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text.encode())
    return [str(fault) for fault in caught.value.faults]


def pool(rest: str) -> str:
    return "pools: [{name: a, endpoints: ['127.0.0.1:1'], %s}]\n" % rest  # noqa: UP031 - the text is full of braces


def model(rest: str) -> str:
    return POOL + "models: [{name: m, pool: a, %s}]\n" % rest  # noqa: UP031


def profile(rest: str) -> str:
    return POOL + "profiles: [{name: p, %s}]\n" % rest  # noqa: UP031


UNKNOWN_KEYS = [
    (POOL + "x: 1", f"$.x: unknown key; allowed: {TOP_KEYS}"),
    (POOL + "model: []", f"$.model: unknown key (did you mean 'models'?); allowed: {TOP_KEYS}"),
    (POOL + "1: 2", f"$.1: unknown key; allowed: {TOP_KEYS}"),
    (POOL + '"a\\nb": 2', f"$['a\\nb']: unknown key; allowed: {TOP_KEYS}"),
    (
        pool("x: 1"),
        "$.pools[0].x: unknown key; allowed: name, endpoints, kubernetes, metrics, profile, fallback_endpoints, "
        "max_in_flight, saturation, queue, tiers, spill, profile_header",
    ),
    (
        "pools: [{name: a, endpoints: [{address: '127.0.0.1:1', label: {}}]}]",
        "$.pools[0].endpoints[0].label: unknown key (did you mean 'labels'?); allowed: address, labels, "
        "max_in_flight, cordoned",
    ),
    (
        pool("metrics: {x: 1}"),
        "$.pools[0].metrics.x: unknown key; allowed: engine, path, port, scheme, bearer_token_file, "
        "insecure_skip_verify, ca_file, server_name, select, orca, interval_s, timeout_s, max_age_s",
    ),
    (pool("saturation: {x: 1}"), "$.pools[0].saturation.x: unknown key; allowed: waiting, kv_usage"),
    (
        model("x: 1"),
        "$.models[0].x: unknown key; allowed: name, pool, criticality, priority, targets, sticky, profile, never, "
        "mirrors, reserved",
    ),
    (
        model("targets: [{model: y, x: 1}]"),
        "$.models[0].targets[0].x: unknown key; allowed: model, weight, labels",
    ),
    (model("sticky: {header: h, x: 1}"), "$.models[0].sticky.x: unknown key; allowed: header"),
    (profile("x: 1"), "$.profiles[0].x: unknown key; allowed: name, filters, scorers, picker"),
    (
        profile("filters: [{type: fresh, x: 1}]"),
        "$.profiles[0].filters[0].x: unknown key; allowed: type",
    ),
    (
        profile("scorers: [{type: queue, wight: 1}]"),
        "$.profiles[0].scorers[0].wight: unknown key (did you mean 'weight'?); allowed: type, weight",
    ),
    (profile("picker: {type: max-score, x: 1}"), "$.profiles[0].picker.x: unknown key; allowed: type"),
    (POOL + "limits: {x: 1}", "$.limits.x: unknown key; allowed: max_body_bytes, max_buffered_bytes"),
]
WRONG_VALUES = [
    ("", "$: expected a mapping, got nothing"),
    ("[]", "$: expected a mapping, got an empty list"),
    ("pools", "$: expected a mapping, got 'pools'"),
    ("models: []", "$.pools: missing, it is required"),
    ("pools: []", "$.pools: expected a list of at least 1, got an empty list"),
    ("pools:", "$.pools: expected a list of at least 1, got nothing"),
    ("pools: {name: a}", "$.pools: expected a list of at least 1, got a mapping"),
    ("pools: [a]", "$.pools[0]: expected a mapping, got 'a'"),
    ("pools: [{name: a}]", "$.pools[0].endpoints: missing; give either endpoints or kubernetes"),
    ("pools: [{endpoints: []}]", "$.pools[0].name: missing, it is required"),
    ("pools: [{name: yes, endpoints: []}]", f"$.pools[0].name: expected {NAME_RULE}, got true"),
    ("pools: [{name: -a, endpoints: []}]", f"$.pools[0].name: expected {NAME_RULE}, got '-a'"),
    ('pools: [{name: "a\\n", endpoints: []}]', f"$.pools[0].name: expected {NAME_RULE}, got 'a\\n'"),
    (
        "pools: [{name: a, endpoints: [5]}]",
        "$.pools[0].endpoints[0]: expected a string or a mapping, got 5; put it in quotes",
    ),
    (
        "pools: [{name: a, endpoints: [null]}]",
        "$.pools[0].endpoints[0]: expected a string or a mapping, got nothing",
    ),
    (
        "pools: [{name: a, endpoints: '127.0.0.1:1'}]",
        "$.pools[0].endpoints: expected a list, got '127.0.0.1:1'",
    ),
    (
        "pools: [{name: a, endpoints: ['localhost:80']}]",
        f"$.pools[0].endpoints[0]: 'localhost:80' {ADDRESS_RULE}",
    ),
    (
        "pools: [{name: a, endpoints: [{address: '::1:80'}]}]",
        f"$.pools[0].endpoints[0].address: '::1:80' {ADDRESS_RULE}",
    ),
    (
        "pools: [{name: a, endpoints: [{address: '127.0.0.1:1', labels: {version: 2}}]}]",
        "$.pools[0].endpoints[0].labels.version: expected a string, got 2; put it in quotes",
    ),
    (
        "pools: [{name: a, endpoints: [{address: '127.0.0.1:1', labels: {on: x, v: 1.10}}]}]",
        "$.pools[0].endpoints[0].labels.true: expected a string, got true; put it in quotes",
        "$.pools[0].endpoints[0].labels.v: expected a string, got 1.1; put it in quotes",
    ),
    (
        "pools: [{name: a, endpoints: ['127.0.0.1:1', '127.0.0.1:01', '[::1]:8', '[0:0::1]:8']}]",
        "$.pools[0].endpoints[1]: 127.0.0.1:1 is there already, at $.pools[0].endpoints[0]",
        "$.pools[0].endpoints[3]: [::1]:8 is there already, at $.pools[0].endpoints[2]",
    ),
    (
        "pools: [{name: a, endpoints: []}, {name: a, endpoints: []}]",
        "$.pools[1].name: 'a' is there already, at $.pools[0].name",
    ),
    (pool("profile: fast"), "$.pools[0].profile: 'fast' is not defined; defined: default"),
    (
        pool("fallback_endpoints: 17"),
        "$.pools[0].fallback_endpoints: expected an integer from 0 up to 16, got 17",
    ),
    (
        pool("fallback_endpoints: yes"),
        "$.pools[0].fallback_endpoints: expected an integer from 0 up to 16, got true",
    ),
    (pool("metrics:"), "$.pools[0].metrics: expected a mapping, got nothing"),
    (
        pool("metrics: {engine: tgi}"),
        "$.pools[0].metrics.engine: expected one of vllm, sglang, trtllm, triton, llamacpp, none, got 'tgi'",
    ),
    (
        pool("metrics: {path: metrics}"),
        "$.pools[0].metrics.path: expected a path that begins with '/' or nothing, got 'metrics'",
    ),
    (
        pool('metrics: {path: "/m\\n"}'),
        "$.pools[0].metrics.path: expected a path that begins with '/' or nothing, got '/m\\n'",
    ),
    (
        pool("metrics: {port: 0}"),
        "$.pools[0].metrics.port: expected an integer from 1 up to 65535 or nothing, got 0",
    ),
    (pool("metrics: {scheme: ftp}"), "$.pools[0].metrics.scheme: expected one of http, https, got 'ftp'"),
    (pool("metrics: {select: 1}"), "$.pools[0].metrics.select: expected true or false, got 1"),
    (
        pool("metrics: {interval_s: .nan}"),
        "$.pools[0].metrics.interval_s: expected a number from 0.02 up to 3600, got nan",
    ),
    (
        pool("metrics: {timeout_s: .inf}"),
        "$.pools[0].metrics.timeout_s: expected a number from 0.01 up to 60, got inf",
    ),
    (
        pool("metrics: {max_age_s: 0}"),
        "$.pools[0].metrics.max_age_s: expected a number above 0.0 up to 86400.0, got 0",
    ),
    (
        pool("saturation: {waiting: .nan}"),
        "$.pools[0].saturation.waiting: expected a number above 0, got nan",
    ),
    (
        pool("saturation: {kv_usage: 90}"),
        "$.pools[0].saturation.kv_usage: expected a number above 0 up to 1, got 90",
    ),
    (
        pool("saturation: {kv_usage: .nan}"),
        "$.pools[0].saturation.kv_usage: expected a number above 0 up to 1, got nan",
    ),
    (POOL + "models: [{name: m}]", "$.models[0].pool: missing, it is required"),
    (POOL + "models: [{name: m, pool: b}]", "$.models[0].pool: 'b' is not defined; defined: a"),
    (
        POOL + "models: [{name: '', pool: a}]",
        "$.models[0].name: expected a model name of 1..256 bytes, got ''",
    ),
    (
        POOL + "models: [{name: 1.5, pool: a}]",
        "$.models[0].name: expected a model name of 1..256 bytes, got 1.5",
    ),
    (POOL + 'models: [{name: "a\\tb", pool: a}]', f"$.models[0].name: {MODEL_RULE}"),
    (POOL + f"models: [{{name: {'é' * 129}, pool: a}}]", f"$.models[0].name: {MODEL_RULE}"),
    (
        POOL + 'models: [{name: "\\ud83d", pool: a}]',
        "$.models[0].name: expected text, got a lone surrogate in '\\ud83d'",
    ),
    (
        POOL + "models: [{name: m, pool: a}, {name: m, pool: a}]",
        "$.models[1].name: 'm' is there already, at $.models[0].name",
    ),
    (
        model("criticality: critical"),
        "$.models[0].criticality: expected one of Critical, Standard, Sheddable or nothing, got 'critical'",
    ),
    (
        model("criticality: Critical, priority: 1"),
        "$.models[0].priority: give either criticality or priority, not both",
    ),
    (
        model("priority: 1e9"),
        "$.models[0].priority: expected an integer from -2147483648 up to 2147483647 or nothing, got '1e9'",
    ),
    (
        model(f"priority: {'0x' + 'f' * 5000}"),
        "$.models[0].priority: expected an integer from -2147483648 up to 2147483647 or nothing, got a huge integer",
    ),
    (model("sticky: x-user"), "$.models[0].sticky: expected a mapping or nothing, got 'x-user'"),
    (model("sticky: {header: 'x user'}"), f"$.models[0].sticky.header: expected {HEADER_RULE}, got 'x user'"),
    (model('sticky: {header: "x\\n"}'), f"$.models[0].sticky.header: expected {HEADER_RULE}, got 'x\\n'"),
    (
        model("sticky: {header: X-Extproc-Pool}"),
        "$.models[0].sticky.header: X-Extproc-Pool is set by us; any other header is allowed",
    ),
    (model("targets: []"), "$.models[0].targets: empty; leave it out, or name at least one target"),
    (model("targets: {}"), "$.models[0].targets: expected a list or nothing, got a mapping"),
    (model("targets: [{weight: 1}]"), "$.models[0].targets[0].model: missing, it is required"),
    (
        model("targets: [{model: x, weight: -1}]"),
        "$.models[0].targets[0].weight: expected an integer from 0 up to 1000000000 or nothing, got -1",
    ),
    (
        model("targets: [{model: x, weight: 0.5}]"),
        "$.models[0].targets[0].weight: expected an integer from 0 up to 1000000000 or nothing, got 0.5",
    ),
    (
        model("targets: [{model: x, weight: 1}, {model: y}]"),
        "$.models[0].targets[1].weight: missing; give every target a weight, or none",
    ),
    (
        model("targets: [{model: x, weight: 0}, {model: y, weight: 0}]"),
        "$.models[0].targets: the weights are all 0; at least one must be above",
    ),
    (
        model("targets: [{model: x, labels: {a: b, c: d}}, {model: x, labels: {c: d, a: b}}]"),
        "$.models[0].targets[1]: the target is there already, at $.models[0].targets[0]",
    ),
    (model('targets: [{model: "x\\0"}]'), f"$.models[0].targets[0].model: {MODEL_RULE}"),
    (POOL + "default_pool: b", "$.default_pool: 'b' is not defined; defined: a"),
    (POOL + "default_pool: 5", "$.default_pool: expected a string or nothing, got 5; put it in quotes"),
    (POOL + "default_pool: no", "$.default_pool: expected a string or nothing, got false; put it in quotes"),
    (
        POOL + "limits: {max_body_bytes: 0}",
        "$.limits.max_body_bytes: expected an integer from 1 up to 1099511627776, got 0",
    ),
    (
        POOL + "limits: {max_body_bytes: 2, max_buffered_bytes: 1}",
        "$.limits.max_body_bytes: must not exceed max_buffered_bytes",
    ),
    (POOL + "trusted_headers: [x y]", f"$.trusted_headers[0]: expected {HEADER_RULE}, got 'x y'"),
    (POOL + "list_models: no", "$.list_models: expected one of answer, forward, got false"),
    (
        POOL + "profiles: [{name: p}, {name: p}]",
        "$.profiles[1].name: 'p' is there already, at $.profiles[0].name",
    ),
    (
        profile("filters: [{type: frsh}]"),
        "$.profiles[0].filters[0].type: 'frsh' is unknown (did you mean 'fresh'?); "
        "allowed: fresh, labels, prefer-labels, unsaturated",
    ),
    (
        profile("filters: [{}]"),
        "$.profiles[0].filters[0].type: missing or no string; allowed: fresh, labels, prefer-labels, unsaturated",
    ),
    (profile("filters: [fresh]"), "$.profiles[0].filters[0]: expected a mapping, got 'fresh'"),
    (profile("filters: [{type: labels}]"), "$.profiles[0].filters[0].labels: missing, it is required"),
    (
        profile("filters: [{type: unsaturated, waiting: .nan, kv_usage: .nan}]"),
        "$.profiles[0].filters[0].waiting: expected a number above 0, got nan",
        "$.profiles[0].filters[0].kv_usage: expected a number above 0 up to 1, got nan",
    ),
    (
        profile("filters: [{type: unsaturated, waiting: 0, kv_usage: 1.5}]"),
        "$.profiles[0].filters[0].waiting: expected a number above 0, got 0",
        "$.profiles[0].filters[0].kv_usage: expected a number above 0 up to 1, got 1.5",
    ),
    (
        profile("scorers: [{type: session-affinity, load_bound: 0.9}, {type: prefix-hash, load_bound: 101}]"),
        "$.profiles[0].scorers[0].load_bound: expected a number from 1.0 up to 100.0, got 0.9",
        "$.profiles[0].scorers[1].load_bound: expected a number from 1.0 up to 100.0, got 101",
    ),
    (
        profile('scorers: [{type: session-affinity, header: "x\\n", cookie: "a b"}]'),
        "$.profiles[0].scorers[0].header: expected the name of a header or cookie "
        "(RFC 9110 token of 1..256 characters), got 'x\\n'",
        "$.profiles[0].scorers[0].cookie: expected the name of a header or cookie "
        "(RFC 9110 token of 1..256 characters) or nothing, got 'a b'",
    ),
    (
        profile("scorers: [{type: queue, weight: .nan}]"),
        "$.profiles[0].scorers[0].weight: expected a number from 0.0 up to 1000.0, got nan",
    ),
    (
        profile("picker: {type: best}"),
        "$.profiles[0].picker.type: 'best' is unknown; allowed: max-score, power-of-two, weighted-random",
    ),
]


IDC, CLOUD = "{name: idc, labels: {tier: idc}}", "{name: cloud, labels: {tier: cloud}}"
UNTRUSTED = "is not in trusted_headers; only headers named there may steer"


def tiers(first: str = IDC, rest: str = "", top: str = "") -> str:
    member = "{address: '127.0.0.1:1', labels: {tier: idc}}"
    return f"pools: [{{name: a, endpoints: [{member}], tiers: [{first}, {CLOUD}], {rest}}}]\n{top}"


TIERS_AND_PROFILES = [
    (
        tiers("{name: idc, labels: {}}"),
        "$.pools[0].tiers[0].labels: empty; name at least one label that its endpoints carry",
    ),
    (
        tiers("{name: idc, labels: {teir: idc}}"),
        "$.pools[0].tiers[0].labels: no endpoint is of this tier; only the last may have none",
    ),
    (tiers("{name: idc}"), "$.pools[0].tiers[0].labels: missing, it is required"),
    (tiers("{name: a b, labels: {tier: idc}}"), f"$.pools[0].tiers[0].name: expected {NAME_RULE}, got 'a b'"),
    (
        tiers(f"{IDC}, {{name: idc, labels: {{tier: idc}}}}"),
        "$.pools[0].tiers[1].name: 'idc' is there already, at $.pools[0].tiers[0].name",
        "$.pools[0].tiers[1].labels: no endpoint is of this tier; only the last may have none",
    ),
    (
        tiers(IDC[:-1] + ", x: 1}"),
        "$.pools[0].tiers[0].x: unknown key; allowed: name, labels, never",
    ),
    (
        tiers(IDC[:-1] + ", never: bank}"),
        "$.pools[0].tiers[0].never: expected a mapping or nothing, got 'bank'",
    ),
    (
        tiers(IDC[:-1] + ", never: {header: x-tenant}}", top="trusted_headers: [x-tenant]"),
        "$.pools[0].tiers[0].never.values: empty; name a value, or say absent: true",
    ),
    (
        tiers(IDC[:-1] + ", never: {header: X-Tenant, values: [bank]}}", top="trusted_headers: [x-other]"),
        f"$.pools[0].tiers[0].never.header: X-Tenant {UNTRUSTED}",
    ),
    (
        tiers(rest="spill: {x: 1}"),
        "$.pools[0].spill.x: unknown key; allowed: wait_s, ttft_s, tpot_s, waiting, kv_usage, in_flight, hold_s",
    ),
    (
        tiers(rest="spill: {wait_s: 0, hold_s: -1}"),
        "$.pools[0].spill.wait_s: expected a number above 0 up to 3600, got 0",
        "$.pools[0].spill.hold_s: expected a number from 0 up to 3600, got -1",
    ),
    (
        tiers(rest="metrics: {engine: none}"),
        "$.pools[0].spill.in_flight: missing; where nothing is scraped only our own count can tell",
    ),
    (
        tiers(top="models: [{name: m, pool: a, never: [cluod, idc]}]"),
        "$.models[0].never: 'cluod' is no tier of pool a; its tiers: idc, cloud",
    ),
    (
        tiers(top="models: [{name: m, pool: a, never: [cloud, idc]}]"),
        "$.models[0].never: names every tier of the pool; at least one must be left",
    ),
    (model("never: cloud"), "$.models[0].never: 'cloud' is no tier of pool a; its tiers: none"),
    (model("never: 5"), "$.models[0].never: expected a string or a list, got 5; put it in quotes"),
    (
        POOL + "models: [{name: m, pool: b, never: cloud}]",
        "$.models[0].pool: 'b' is not defined; defined: a",
    ),
    (model("profile: fast"), "$.models[0].profile: 'fast' is not defined; defined: default"),
    (pool("profile_header: x-profile"), f"$.pools[0].profile_header: x-profile {UNTRUSTED}"),
    (
        pool("profile_header: 'x p'"),
        f"$.pools[0].profile_header: expected {HEADER_RULE} or nothing, got 'x p'",
    ),
]
METRICS = [
    (
        pool("metrics: {ca_file: /ca.pem}"),
        "$.pools[0].metrics.ca_file: needs scheme: https; without TLS there is no certificate",
    ),
    (
        pool("metrics: {server_name: pod}"),
        "$.pools[0].metrics.server_name: needs scheme: https; without TLS there is no certificate",
    ),
    (
        pool("metrics: {scheme: https, ca_file: /ca.pem, insecure_skip_verify: true}"),
        "$.pools[0].metrics.ca_file: no certificate is looked at with insecure_skip_verify; leave one out",
    ),
    (
        pool("metrics: {orca: true, engine: sglang}"),
        "$.pools[0].metrics.orca: vLLM alone is known to answer with load reports, not sglang",
    ),
]


@pytest.mark.parametrize("row", UNKNOWN_KEYS + WRONG_VALUES + TIERS_AND_PROFILES + METRICS)
def test_a_fault_names_the_path_what_is_wrong_and_what_is_allowed(row: tuple[str, ...]) -> None:
    assert faults(row[0]) == list(row[1:])


def test_all_faults_are_told_at_once() -> None:
    text = """
pools: [{name: a, endpoints: ['127.0.0.1:1'], metrics: {intervall_s: 1, port: x}, profil: p}]
models: [{name: m}, 5]
limits: {max_body_bytes: -1}
"""
    assert [fault.partition(": ")[0] for fault in faults(text)] == [
        "$.pools[0].profil",
        "$.pools[0].metrics.intervall_s",
        "$.pools[0].metrics.port",
        "$.models[0].pool",
        "$.models[1]",
        "$.limits.max_body_bytes",
    ]
