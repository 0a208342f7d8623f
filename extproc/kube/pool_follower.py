"""Follows what one pool's membership depends on: its InferencePool or Service, pods, EndpointSlices, nodes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ..config.schema import KubernetesConfig
from ..member import Member
from .ear import Ear, Report
from .feeds import Feed, Feeds
from .membership import Excluded
from .objects import EndpointSlice, InferencePool, Node, Pod, Service
from .pod_members import PodMembers
from .pod_source import POOL_KINDS, PodSource, pool_source, preferred, selector_text
from .resource import Resource
from .slice_members import SliceMembers

SERVICE_LABEL = "kubernetes.io/service-name"
"""On an EndpointSlice: the Service that it is of."""


_OPTIONAL_OF_PODS = frozenset(("nodes",))
_OPTIONAL = frozenset(("nodes", "pods", "service"))
_MEMBERSHIP = frozenset(("pods", "endpointslices", "service", "nodes"))


class Told(Protocol):
    """Who wants to know."""

    def members(self, pool: str, members: tuple[Member, ...]) -> None:
        """*pool* consists of these now."""

    def problem(self, pool: str, text: str) -> None:
        """Why *pool* has no endpoints where it should have some; "" once it is over."""


class PoolFollower:
    """What the API tells of one pool; `stop` it."""

    def __init__(
        self, pool: str, source: KubernetesConfig, namespace: str, feeds: Feeds, told: Told, report: Report
    ) -> None:
        self.pool = pool
        self.source = source
        self.namespace = namespace
        self._feeds = feeds
        self._told = told
        self._report = report
        self._ears: dict[str, Ear[Any]] = {}
        """By what they hear of."""
        self._pods: PodSource | None = None
        """Whose pods are followed."""
        self._membership: PodMembers | SliceMembers | None = None
        self._renewed = True
        """Whether the membership is another than that of which members were told."""
        self._soon: asyncio.Handle | None = None
        self._members: tuple[Member, ...] | None = None
        """As told; None: nothing yet."""
        self._object_problem = ""
        """Of the InferencePool."""
        self._problem = ""
        """As told."""
        self._start()

    def _start(self) -> None:
        source = self.source
        if source.selector is not None:
            self._follow_pods(PodSource(source.selector, ()))
        elif source.service is not None:
            self._follow_service(source.service)
        else:
            assert source.inference_pool is not None  # the config's checks saw to it
            self._follow_inference_pool(source.inference_pool)

    # -- what is followed -------------------------------------------------------------------------------------

    def _follow_inference_pool(self, name: str) -> None:
        for (group, version), kind in POOL_KINDS.items():
            resource = Resource(
                group, version, "inferencepools", self.namespace, kind, field_selector=f"metadata.name={name}"
            )
            self._hear(f"{group}/{version}", resource, self._chose, self._chose, self._chose)

    def _chose(self, _told: object) -> None:
        """One of the API groups told of its InferencePool: follow the pods of the one that counts."""
        ears = [self._ears[f"{group}/{version}"] for group, version in POOL_KINDS]
        if not all(ear.settled for ear in ears):
            return
        pools: list[InferencePool] = [pool for ear in ears for pool in ear.objects()]
        found = preferred(pools)
        if found is None:
            unheard = [ear.feed.status.detail for ear in ears if ear.feed and not ear.heard]
            if unheard:  # it may be there, who knows
                self._object_problem = unheard[0]
                self._note(unheard[0])
                return
            name = self.source.inference_pool
            faults = [fault for ear in ears for fault in ear.unreadable.values()]
            if faults:
                self._make_do(f"InferencePool {name} cannot be read: {faults[0]}")
            else:
                self._follow_nobody(f"there is no InferencePool {name} in namespace {self.namespace}")
            return
        source = pool_source(found)
        if source.problem:
            self._make_do(f"InferencePool {found.metadata.name}: {source.problem}")
        else:
            self._object_problem = ""
            self._follow_pods(source)

    def _make_do(self, problem: str) -> None:
        """The InferencePool is there, and says nothing that can be followed: what it said before holds."""
        if self._pods is None:
            self._follow_nobody(problem)
        else:
            self._object_problem = problem
            self._note(problem)

    def _follow_nobody(self, problem: str) -> None:
        self._stop("pods")
        self._stop("nodes")
        self._pods = self._membership = None
        self._object_problem = problem
        self._tell(())
        self._note(problem)

    def _follow_pods(self, source: PodSource) -> None:
        """Until these are listed, those that were told hold."""
        if source == self._pods:
            return
        self._pods, self._renewed = source, True
        members = PodMembers(
            self.source.ports or source.ports, self.source.ip_family, self.source.node_labels
        )
        self._membership = members
        self._hear(
            "pods",
            self._pods_resource(source.selector),
            self._event(members.listed),
            self._event(members.changed),
            self._event(members.deleted),
        )
        self._follow_nodes(members)

    def _follow_service(self, name: str) -> None:
        members = self._membership = SliceMembers(
            self.source.ports, self.source.ip_family, self.source.node_labels
        )
        self._hear(
            "endpointslices",
            Resource(
                "discovery.k8s.io",
                "v1",
                "endpointslices",
                self.namespace,
                EndpointSlice,
                label_selector=f"{SERVICE_LABEL}={name}",
            ),
            self._event(members.listed),
            self._event(members.changed),
            self._event(members.deleted),
        )
        self._hear(
            "service",
            Resource("", "v1", "services", self.namespace, Service, field_selector=f"metadata.name={name}"),
            self._service_event(members.service_listed),
            self._service_event(members.service_changed),
            self._service_event(members.service_deleted),
        )
        self._follow_nodes(members)

    def _service_event(self, take: Callable[[Any], bool]) -> Callable[[Any], None]:
        """A Service's selector says whose labels and cordons count."""

        def took(told: Any) -> None:
            changed = take(told)
            services = self._ears["service"].objects()
            self._follow_pods_of(services[0].spec.selector if services else {})
            self._look(changed)

        return took

    def _follow_pods_of(self, selector: dict[str, str]) -> None:
        source = PodSource(selector, ())
        if source == self._pods:
            return
        self._pods, self._renewed = source, True
        members = self._membership
        assert isinstance(members, SliceMembers)
        if not selector:  # whoever made the Service writes its slices; what is known of pods holds
            self._stop("pods")
            return
        self._hear(
            "pods",
            self._pods_resource(selector),
            self._event(members.pod_listed),
            self._event(members.pod_changed),
            self._event(members.pod_deleted),
        )

    def _follow_nodes(self, members: PodMembers | SliceMembers) -> None:
        if self.source.node_labels:
            self._hear(
                "nodes",
                Resource("", "v1", "nodes", None, Node),
                self._event(members.node_listed),
                self._event(members.node_changed),
                self._event(members.node_deleted),
            )

    def _pods_resource(self, selector: dict[str, str]) -> Resource:
        return Resource("", "v1", "pods", self.namespace, Pod, label_selector=selector_text(selector))

    def _hear(
        self,
        what: str,
        resource: Resource,
        listed: Callable[[Any], None],
        changed: Callable[[Any], None],
        deleted: Callable[[Any], None],
    ) -> None:
        self._stop(what)
        ear: Ear[Any] = Ear(listed, changed, deleted, self._report)
        self._ears[what] = ear
        ear.feed = self._feeds.start(resource, ear)

    def _stop(self, what: str) -> None:
        ear = self._ears.pop(what, None)
        if ear is not None and ear.feed is not None:
            ear.feed.stop()

    def stop(self) -> None:
        """Nothing is told any more."""
        for what in list(self._ears):
            self._stop(what)
        if self._soon is not None:
            self._soon.cancel()

    # -- what is told -----------------------------------------------------------------------------------------

    def _event(self, take: Callable[[Any], bool]) -> Callable[[Any], None]:
        return lambda told: self._look(take(told))

    def look(self) -> None:
        """A feed's state has changed: there may be nothing more to wait for."""
        if self.source.inference_pool is not None:
            self._chose(None)
        self._look(False)

    def _look(self, changed: bool) -> None:
        """In this turn of the event loop still: events that came together are told of as one."""
        self._renewed |= changed
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        self._soon = None
        members = self._membership
        if members is None or not self._complete():
            return
        if isinstance(members, SliceMembers) and members.undecided and self._members:
            pass  # a second port is no reason to take the first away; once it is clear which is meant, we tell
        elif self._renewed:
            self._tell(members.members())
            self._renewed = False
        self._note(self._object_problem or members.problem() or "")

    def _complete(self) -> bool:
        """Whether all is known that there is to know; what only adds labels may be forbidden."""
        optional = _OPTIONAL if self.source.service is not None else _OPTIONAL_OF_PODS
        return all(
            ear.settled if what in optional else ear.heard
            for what, ear in self._ears.items()
            if what in _MEMBERSHIP
        )

    def _tell(self, members: tuple[Member, ...]) -> None:
        if members != self._members:
            self._told.members(self.pool, members)
            self._members = members

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._told.problem(self.pool, problem)

    # -- how it stands ----------------------------------------------------------------------------------------

    @property
    def told(self) -> bool:
        """Whether the pool's members are known."""
        return self._members is not None

    @property
    def problem(self) -> str:
        return self._problem

    @property
    def missing(self) -> bool:
        """Whether there is nothing that says who the endpoints are: rather a typo than a pool without pods."""
        return bool(self._problem) and not self._members

    @property
    def emptiness(self) -> str:
        """Why the pool has no endpoints, in a few words; "" where it has some."""
        if self._members or self._members is None:
            return ""
        reasons = Counter(each.reason for each in self.excluded())
        return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "no pods"

    def excluded(self) -> tuple[Excluded, ...]:
        """Endpoints that are there and are no members."""
        return self._membership.excluded() if self._membership is not None else ()

    def feeds(self) -> Iterator[Feed]:
        for ear in list(self._ears.values()):
            if ear.feed is not None:
                yield ear.feed
