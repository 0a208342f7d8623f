"""The service's config, as it is and as it becomes."""

from __future__ import annotations

import itertools
from typing import Any

from bench.pod_server import NAMESPACE
from bench.pod_server import POOL as INFERENCE_POOL
from extproc.demo.bootstrap import POOL

PODS = 4
"""One may die, one hang, one be cordoned, and one is left."""
CLUSTER_PODS = 20
"""Enough that lists and watches have something to say; all are one server."""
BOOTSTRAPS = ("buffered-original-dst", "duplex-original-dst")
"""Both ways of sending bodies; to whatever pod is named, so that new ones need no new Envoy."""
MIRROR = "shadow"
QUEUE, CLUSTER = "queue-pool", "cluster-pool"
BASE, OTHER = "qwq-32b", "qwq-32b-v2"
TARGETS = (BASE, OTHER, "unlisted")
MAX_BODY_BYTES = 2 * 1024 * 1024
"""Bodies of this size every second are work enough for one core that others use as well."""
MAX_BUFFERED_BYTES = 6 * MAX_BODY_BYTES
"""A few at once are too many."""
HELD_S = 0.5
"""Shorter than what a dozen of requests take in the narrow pool, so that some of those who are held wait in vain."""


class Settings:
    """What is in the config file now; whoever changes it has `Town.reload` write it."""

    def __init__(self, ports: list[int], narrow: int) -> None:
        self._ports = ports
        self._narrow = narrow
        self._numbers = itertools.count(1)
        self.own: dict[int, str] = dict(enumerate(map(_at_home, ports)))
        """Addresses by pod."""
        self.added: list[str] = []
        """Further addresses."""
        self.rolled = ""
        """A model that stays for a while only."""

    def another_address(self, pod: int) -> str:
        """Of the same server; to the service, that is a pod it never heard of."""
        number = next(self._numbers)
        return (
            f"127.{100 + number // 62_500 % 100}.{number // 250 % 250}.{1 + number % 250}:{self._ports[pod]}"
        )

    def restore(self) -> None:
        """What it was in the beginning."""
        self.own = dict(enumerate(map(_at_home, self._ports)))
        self.added, self.rolled = [], ""

    def config(self) -> dict[str, Any]:
        addresses = [*self.own.values(), *self.added]
        endpoints = [{"address": a, "labels": {"version": f"v{n % 2}"}} for n, a in enumerate(addresses)]
        targets = [
            {"model": BASE, "weight": 80},
            {"model": OTHER, "weight": 20, "labels": {"version": "v1"}},
        ]
        mirrors = [{"name": MIRROR, "percent": 25}]
        rolled = [{"name": self.rolled, "pool": POOL, "targets": [{"model": BASE}]}] if self.rolled else []
        source = {"inference_pool": INFERENCE_POOL, "namespace": NAMESPACE}
        queue = {"timeout_s": HELD_S, "max_requests": 20, "tenant": {"header": "x-tenant"}}
        return {
            "pools": [
                {"name": POOL, "endpoints": endpoints, "metrics": {"orca": True, "timeout_s": 0.5}},
                {"name": QUEUE, "endpoints": [_at_home(self._narrow)], "queue": queue},
                {"name": CLUSTER, "kubernetes": source, "metrics": {"interval_s": 1.0}},
            ],
            "models": [
                {"name": "qwq", "pool": POOL, "targets": targets, "sticky": {"header": "x-user-id"}},
                {"name": "mirrored", "pool": POOL, "targets": [{"model": BASE}], "mirrors": mirrors},
                {"name": "cheap", "pool": POOL, "targets": [{"model": BASE}], "criticality": "Sheddable"},
                {"name": "queued", "pool": QUEUE, "targets": [{"model": BASE}]},
                {"name": "clustered", "pool": CLUSTER, "targets": [{"model": BASE}]},
                *rolled,
            ],
            "default_pool": POOL,
            "responses": {"percent": 70, "restore_model": True},
            "limits": {"max_body_bytes": MAX_BODY_BYTES, "max_buffered_bytes": MAX_BUFFERED_BYTES},
        }


def _at_home(port: int) -> str:
    return f"127.0.0.1:{port}"
