"""The Envoy bootstraps of the folder `envoy/`, with the ports and endpoints of one run put in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

POOL = "reasoning-pool"
"""The pool (and cluster) in the bootstraps as they stand."""

CLIENT_PIN_HEADERS = "early_header_mutation_extensions"
EXT_PROC = "envoy.filters.http.ext_proc"
"""What the name of the ext_proc filter begins with; Envoy Gateway puts a policy's name behind it."""


def load(name: str) -> dict[str, Any]:
    """A bootstrap as it stands, by its file name without `.yaml`.

    Raises FileNotFoundError, with the names there are.
    """
    folder = _folder()
    try:
        text = (folder / f"{name}.yaml").read_text()
    except FileNotFoundError:
        names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())
        raise FileNotFoundError(f"no Envoy bootstrap {name!r}; there are {', '.join(names)}") from None
    bootstrap: dict[str, Any] = yaml.safe_load(text)
    return bootstrap


def render(
    name: str,
    *,
    pools: Mapping[str, Sequence[str]],
    ext_proc: str | Sequence[str] | None = None,
    mirrors: Sequence[str] = (),
    strip_client_pins: bool = True,
    port: int = 0,
) -> dict[str, Any]:
    """A bootstrap that listens on the loopback interface; `port` is where clients come, 0 a free one.

    `pools`: endpoints (`ip:port`) by pool name; several pools only where the bootstrap has a route per pool. Where
    clusters have other names than pools (`envoy-gateway`), only the pools that it has routes for.
    ORIGINAL_DST clusters have no endpoints of their own and take none.
    `ext_proc`: `ip:port` of the service, or of several; None for a bootstrap without one.
    `mirrors`: endpoints of what mirrored requests are copied to, where the bootstrap mirrors any.
    `strip_client_pins=False` takes out Envoy's own removal of the headers that pin, so that what the service
    does about them can be seen.
    """
    bootstrap = load(name)
    resources = bootstrap["static_resources"]
    _set_port(bootstrap["admin"], "127.0.0.1:0")
    for listener in resources["listeners"]:
        _set_port(listener, f"127.0.0.1:{port}")
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        if not strip_client_pins:
            manager.pop(CLIENT_PIN_HEADERS, None)
        _set_pools(resources, manager["route_config"]["virtual_hosts"][0], pools, mirrors)
        if ext_proc is not None:
            name = ext_proc_filter(bootstrap)["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
            (cluster,) = [cluster for cluster in resources["clusters"] if cluster["name"] == name]
            _set_endpoints(cluster, [ext_proc] if isinstance(ext_proc, str) else ext_proc)
    return bootstrap


def ext_proc_filter(bootstrap: dict[str, Any]) -> dict[str, Any]:
    """The ext_proc filter, to be changed in place."""
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (found,) = [each for each in manager["http_filters"] if each["name"].startswith(EXT_PROC)]
    return found  # type: ignore[no-any-return]


def _folder() -> Traversable:
    """Beside this module in an installed package; in a checkout the folder `envoy/` itself."""
    packaged = files("extproc.demo") / "bootstraps"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "envoy"


def _set_port(owner: dict[str, Any], address: str) -> None:
    host, _, port = address.rpartition(":")
    owner["address"] = {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _set_pools(
    resources: dict[str, Any],
    virtual_host: dict[str, Any],
    pools: Mapping[str, Sequence[str]],
    mirrors: Sequence[str],
) -> None:
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    if POOL in clusters:
        _set_routes(virtual_host, list(pools))
        kept = [cluster for name, cluster in clusters.items() if name != POOL]
        resources["clusters"] = kept + [_pool_cluster(clusters[POOL], *pool) for pool in pools.items()]
        return
    routes = [(_pool_of(each), each["route"]) for each in virtual_host["routes"] if "route" in each]
    unknown = set(pools).difference(pool for pool, _ in routes)
    if unknown:
        raise ValueError(f"this bootstrap has no route for pool {', '.join(sorted(unknown))}")
    for pool, route in routes:
        _set_endpoints(clusters[route["cluster"]], pools.get(pool, []))
        for mirror in route.get("request_mirror_policies", []):
            _set_endpoints(clusters[mirror["cluster"]], mirrors)


def _pool_of(route: dict[str, Any]) -> str:
    pool: str = route["match"]["headers"][0]["string_match"]["exact"]
    return pool


def _set_routes(virtual_host: dict[str, Any], pools: list[str]) -> None:
    """One rule a pool, made from the one in the file; the rules after it stay."""
    template, *rest = virtual_host["routes"]
    if "headers" not in template["match"]:
        if len(pools) != 1:
            raise ValueError(f"this bootstrap has no route per pool, so it takes one pool, not {len(pools)}")
        template["route"]["cluster"] = pools[0]
        return
    rules = []
    for pool in pools:
        rule = copy.deepcopy(template)
        rule["name"] = rule["route"]["cluster"] = pool
        rule["match"]["headers"][0]["string_match"]["exact"] = pool
        rules.append(rule)
    virtual_host["routes"] = rules + rest


def _pool_cluster(template: dict[str, Any], pool: str, endpoints: Sequence[str]) -> dict[str, Any]:
    cluster = copy.deepcopy(template)
    cluster["name"] = pool
    if "load_assignment" in cluster:
        _set_endpoints(cluster, endpoints)
    return cluster


def _set_endpoints(cluster: dict[str, Any], endpoints: Sequence[str]) -> None:
    entries: list[dict[str, Any]] = [{"endpoint": {}} for _ in endpoints]
    for entry, address in zip(entries, endpoints, strict=True):
        _set_port(entry["endpoint"], address)
    cluster["load_assignment"] = {"cluster_name": cluster["name"], "endpoints": [{"lb_endpoints": entries}]}
