"""Brings what the cluster tells into the fleet, the config in force, the metrics and the log."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .cluster_metrics import ClusterMetrics
from .config import Config
from .fleet import Fleet
from .kube.client import KubeClient
from .kube.cluster import Cluster
from .kube.credentials import find_credentials
from .kube.reflector import SourceStatus
from .kube.resource import Resource
from .member import Member
from .telemetry import Telemetry

TELL_S = 1.0
"""A pool's changes within this time are one log line: pods come and go by the hundred when a Deployment is rolled."""


class Discovery:
    """Follows the cluster for as long as a pool of the config needs it."""

    def __init__(
        self,
        kubeconfig: Path | None,
        fleet: Fleet,
        telemetry: Telemetry,
        clock: Callable[[], float],
        members_changed: Callable[[], None],
        models_changed: Callable[[], None],
    ) -> None:
        self._kubeconfig = kubeconfig
        self._fleet = fleet
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._clock = clock
        self._members_changed = members_changed
        self._models_changed = models_changed
        self._cluster: Cluster | None = None
        self._running: asyncio.Task[None] | None = None
        self._untold: dict[str, int] = {}
        """Changes since the last log line, of pools that had one a short time ago."""
        self._counts = ClusterMetrics(telemetry.metrics.registry, self.feeds, self.leading, clock)

    def follow(self, config: Config) -> None:
        """Follow what *config*, of a file, needs.  Raises ConfigError where there are no credentials for it."""
        if self._cluster is None:
            if not any(pool.kubernetes for pool in config.pools):
                return
            client = KubeClient(find_credentials(self._kubeconfig, clock=self._clock))
            self._cluster = Cluster(client, self, self._clock, random.Random())
            self._running = asyncio.create_task(self._cluster.run(), name="kubernetes")
        self._cluster.follow(config)

    def merged(self, config: Config) -> Config:
        """*config*, of a file, with the models of the cluster."""
        return config if self._cluster is None else self._cluster.merged(config).config

    async def close(self) -> None:
        """Follow nothing any more."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def waiting(self) -> list[str]:
        """What is not known yet that requests need."""
        return self._cluster.waiting() if self._cluster else []

    def notes(self) -> list[str]:
        """What is not as it should be, though requests are served."""
        return self._cluster.notes() if self._cluster else []

    def describe(self) -> dict[str, Any]:
        """For `/debug/state`."""
        return {"kubernetes": self._cluster.describe()} if self._cluster else {}

    def feeds(self) -> list[tuple[Resource, SourceStatus]]:
        """Every collection that is followed, and how it stands with it."""
        return [(feed.resource, feed.status) for feed in self._cluster.feeds()] if self._cluster else []

    def leading(self) -> bool:
        """Whether we are the replica that writes statuses."""
        return self._cluster is not None and self._cluster.leading

    # -- what the cluster tells: kube.cluster.Observer -------------------------------------------------------------

    def kube_members(self, pool: str, members: tuple[Member, ...]) -> None:
        self._fleet.replace_members(pool, members, self._clock())
        self._members_changed()
        if pool in self._untold:
            self._untold[pool] += 1
        else:
            self._tell_members(pool, 1)

    def _tell_members(self, pool: str, changes: int) -> None:
        """The first change is told at once, those after it together."""
        self._log.info("pool_members", pool=pool, endpoints=self._fleet.size(pool), changes=changes)
        self._untold[pool] = 0
        asyncio.get_running_loop().call_later(TELL_S, self._tell_more, pool)

    def _tell_more(self, pool: str) -> None:
        changes = self._untold.pop(pool)
        if changes:
            self._tell_members(pool, changes)

    def kube_models(self) -> None:
        self._models_changed()

    def kube_problem(self, pool: str, text: str) -> None:
        if text:
            self._log.warning("pool_problem", pool=pool, problem=text)
        else:
            self._log.info("pool_problem_over", pool=pool)

    def kube_object(self, resource: Resource, name: str, error: str) -> None:
        self._counts.unreadable.labels(resource.full_title).inc()
        self._log.warning("kubernetes_object_unreadable", resource=str(resource), name=name, fault=error)

    def kube_report(self, text: str) -> None:
        self._log.warning("kubernetes_object_refused", message=text)

    def kube_state(self, resource: Resource, status: SourceStatus) -> None:
        log = self._log.info if status.state in ("synced", "starting", "absent") else self._log.warning
        log("kubernetes_source", resource=str(resource), state=status.state, detail=status.detail)

    def kube_event(self, resource: Resource, type: str) -> None:
        self._counts.events.labels(resource.full_title, type).inc()

    def kube_error(self, resource: Resource, reason: str, detail: str) -> None:
        self._counts.errors.labels(resource.full_title, reason).inc()
        self._log.debug("kubernetes_error", resource=str(resource), reason=reason, detail=detail)

    def kube_write_failed(self, resource: Resource, reason: str, detail: str) -> None:
        self._counts.errors.labels(resource.full_title, reason).inc()
        self._log.warning("kubernetes_write_failed", resource=str(resource), reason=reason, detail=detail)

    def kube_fault(self, where: Resource | str, error: Exception) -> None:
        self._metrics.internal_errors.inc()
        self._log.error("kubernetes_fault", resource=str(where), exc_info=error)
