"""The members of a pool that a Service's EndpointSlices make up.

An endpoint can be in two slices that disagree for a moment, while Kubernetes moves it.  It is ready if any of them says
so (a move must not throw out a healthy endpoint, and with it what was learned of it), and terminating if any of them or
its pod says so (that never ends, so whoever denies it is behind).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from .claims import Owner
from .membership import AGELESS, Candidate, IPFamily, Membership, Reason, is_cordoned
from .objects import EndpointSlice, ObjectMeta, Pod, Service
from .sightings import NO_PORT, Sighting, Sightings, port_number, shown, tcp_ports

FAMILIES = ("IPv4", "IPv6")


class _PodFacts(Struct, frozen=True):
    uid: str
    created: str
    labels: dict[str, str]
    barrier: Reason | None


class SliceMembers(Membership):
    """Endpoints that are ready and not terminating.  Every event answers whether members changed.

    Pods may be told of or not: they bring labels, the cordon, and the news of their end sooner.  So may the Service:
    it says which of two families it prefers.
    """

    def __init__(
        self, ports: Sequence[int | str], ip_family: IPFamily | None = None, node_labels: Iterable[str] = ()
    ) -> None:
        """*ports*: numbers as the pods have them, or names in the Service; empty: its only one."""
        super().__init__(ports, ip_family, node_labels)
        self._sightings = Sightings(ports)
        self._pods: dict[str, _PodFacts] = {}
        self._buried: set[Owner] = set()
        """Those whose pod is no more, while a slice that is behind still has them."""
        self._service_family: str | None = None
        self._has_service = True
        """Unless we were told that there is none."""
        self._mode: tuple[str, bool] = ("IPv4", False)
        """The family whose endpoints count, and whether it is open which of several ports is meant."""

    def listed(self, slices: Iterable[EndpointSlice]) -> bool:
        """*slices* are all that there are of the Service."""
        return self._follow(dict.fromkeys(self._sightings.listed(slices)))

    def changed(self, endpoint_slice: EndpointSlice) -> bool:
        """A slice is new, or as it says now."""
        return self._follow(self._sightings.put(endpoint_slice))

    def deleted(self, endpoint_slice: EndpointSlice) -> bool:
        return self._follow(self._sightings.remove(endpoint_slice.metadata.key))

    def service_listed(self, services: Iterable[Service]) -> bool:
        """The Service, or nothing where there is none."""
        services = list(services)
        self._has_service = bool(services)
        families = [family for service in services for family in service.spec.ip_families]
        self._service_family = families[0] if families else None
        return self._follow(())

    def service_changed(self, service: Service) -> bool:
        return self.service_listed([service])

    def service_deleted(self, _service: Service) -> bool:
        return self.service_listed([])

    def pod_listed(self, pods: Iterable[Pod]) -> bool:
        """*pods* are all that there are; one that was known and is not among them is no more."""
        found = {pod.metadata.key: pod for pod in pods}
        gone = [(key, facts.uid) for key, facts in self._pods.items() if key not in found]
        owners = [owner for key, uid in gone for owner in self._forget(key, uid)]
        owners += [owner for pod in found.values() for owner in self._learn(pod)]
        return self._renew(dict.fromkeys(owners))

    def pod_changed(self, pod: Pod) -> bool:
        return self._renew(self._learn(pod))

    def pod_deleted(self, pod: Pod) -> bool:
        """A pod is no more, whatever a slice still says of it; one that took its name since stays."""
        return self._renew(self._forget(pod.metadata.key, pod.metadata.uid))

    @property
    def undecided(self) -> bool:
        """Whether it is open which of several ports is meant: there are no members then."""
        return self._mode[1]

    def problem(self) -> str | None:
        """What keeps endpoints out that the Service has, where something does."""
        family, is_open = self._mode
        slices = [each for each in self._sightings.slices if each.endpoints]
        if not slices and not self._has_service:
            return "there is no such Service"
        found = sorted({each.address_type for each in slices})
        ports = [tcp_ports(each) for each in slices if each.address_type == family]
        every = shown(port for some in ports for port in some)
        if is_open:
            return f'the Service has several ports: {every}; say which one with "port:"'
        if found and not ports:
            return f"the Service has no {family} endpoints, only {', '.join(found)}"
        for want in self._ports or (None,):
            if ports and all(port_number(want, some) == NO_PORT for some in ports):
                if want is None:
                    return 'the Service names no port: say which one with "port:"'
                return f"the Service has no port {want}; it has {every}"
        return None

    def _learn(self, pod: Pod) -> Iterable[Owner]:
        """Answers the endpoints of which *pod* tells something else than was known."""
        key = pod.metadata.key
        old, new = self._pods.get(key), _facts(pod.metadata)
        if old == new:
            return ()
        if old is not None and old.uid != new.uid:
            self._buried.update(self._owners(key, old.uid))
        self._pods[key] = new
        self._buried.difference_update(self._owners(key, new.uid))
        return self._sightings.of_pod(key)

    def _forget(self, key: str, uid: str) -> Iterable[Owner]:
        known = self._pods.get(key)
        if known is not None and (known.uid == uid or not uid):
            del self._pods[key]
        self._buried.update(self._owners(key, uid))
        return self._sightings.of_pod(key)

    def _owners(self, key: str, uid: str) -> list[Owner]:
        """The endpoints of the pod *key* of that *uid*; without one, it is not certain that they are."""
        return [owner for owner in self._sightings.of_pod(key) if uid and owner[2] == uid]

    def _follow(self, owners: Iterable[Owner]) -> bool:
        """Decides on *owners* again, or on all where what counts for all has changed."""
        mode = self._decide()
        if mode == self._mode:
            return self._renew(owners)
        self._mode = mode
        return self._renew(dict.fromkeys([*owners, *self._sightings.owners()]))

    def _decide(self) -> tuple[str, bool]:
        """The family is what a person or the Service says; else IPv4, unless there is only IPv6."""
        slices = self._sightings.slices
        family = self._ip_family or self._service_family
        if family is None:
            found = {each.address_type for each in slices}
            family = "IPv6" if "IPv6" in found and "IPv4" not in found else "IPv4"
        is_open = not self._ports and any(
            each.address_type == family and each.endpoints and len(tcp_ports(each)) > 1 for each in slices
        )
        return family, is_open

    def _renew(self, owners: Iterable[Owner]) -> bool:
        changed = [self._set(owner, self._candidate(owner)) for owner in owners]
        return any(changed)

    def _candidate(self, owner: Owner) -> Candidate | None:
        sightings = self._sightings.of(owner)
        if not sightings:
            self._buried.discard(owner)
            return None
        first = sightings[0]
        family, is_open = self._mode
        if first.family in FAMILIES and (first.family != family or is_open):
            return None
        pod = self._pods.get(first.pod)
        if pod is not None and first.uid not in ("", pod.uid):
            pod = None
        ports = tuple(port for each in sightings if each.ready for port in each.ports)
        return Candidate(
            name=first.name,
            ip=first.ip,
            ports=ports or first.ports,
            labels={} if pod is None else pod.labels,
            barrier=self._barrier(owner, sightings, pod),
            uid=first.uid,
            rank=AGELESS if pod is None else pod.created,
            node=next((each.node for each in sightings if each.node), ""),
            zone=next((each.zone for each in sightings if each.zone), ""),
        )

    def _barrier(self, owner: Owner, sightings: Sequence[Sighting], pod: _PodFacts | None) -> Reason | None:
        if sightings[0].family not in FAMILIES:
            return "host name"
        if owner in self._buried or any(each.terminating for each in sightings):
            return "terminating"
        if pod is not None and pod.barrier is not None:
            return pod.barrier
        return None if any(each.ready for each in sightings) else "not ready"


def _facts(meta: ObjectMeta) -> _PodFacts:
    barrier: Reason | None = None
    if meta.deletion_timestamp is not None:
        barrier = "terminating"
    elif is_cordoned(meta):
        barrier = "cordoned"
    return _PodFacts(meta.uid, meta.creation_timestamp or AGELESS, meta.labels, barrier)
