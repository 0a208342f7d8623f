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
    ext_proc: str | None = None,
    strip_client_pins: bool = True,
    port: int = 0,
) -> dict[str, Any]:
    """A bootstrap that listens on the loopback interface; `port` is where clients come, 0 a free one.

    `pools`: endpoints (`ip:port`) by pool name; several pools only where the bootstrap has a route per pool.
    ORIGINAL_DST clusters have no endpoints of their own and take none.
    `ext_proc`: `ip:port` of the service, None for a bootstrap without one.
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
        _set_routes(manager["route_config"]["virtual_hosts"][0], list(pools))
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    if ext_proc is not None:
        _set_endpoints(clusters["extproc"], [ext_proc])
    kept = [cluster for cluster in resources["clusters"] if cluster["name"] != POOL]
    resources["clusters"] = kept + [_pool_cluster(clusters[POOL], *pool) for pool in pools.items()]
    return bootstrap


def _folder() -> Traversable:
    """Beside this module in an installed package; in a checkout the folder `envoy/` itself."""
    packaged = files("extproc.demo") / "bootstraps"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "envoy"


def _set_port(owner: dict[str, Any], address: str) -> None:
    host, _, port = address.rpartition(":")
    owner["address"] = {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


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
