"""What a Service's EndpointSlices tell of each endpoint; one can be in two of them while Kubernetes moves it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from .claims import Owner
from .membership import is_port
from .objects import EndpointSlice, SliceEndpoint, SlicePort

NO_PORT = 0
MAX_SHOWN = 10
"""Ports that a message lists; a Service may have many."""


class Sighting(Struct, frozen=True):
    """An endpoint as one slice tells of it."""

    name: str
    family: str
    """`IPv4`, `IPv6`, or another: then *ip* is no address."""
    ip: str
    pod: str
    """Its pod's key; "" where it is no pod."""
    uid: str
    ports: tuple[int, ...]
    """NO_PORT stands for one that the slice does not have."""
    ready: bool
    terminating: bool
    node: str
    zone: str

    @property
    def owner(self) -> Owner:
        """What makes it the same endpoint in another slice."""
        return self.pod, self.ip, self.uid


class Sightings:
    """The slices of one Service, and what they tell by endpoint."""

    def __init__(self, ports: Sequence[int | str]) -> None:
        """*ports* are wanted: numbers, or names in the Service; empty: its only one."""
        self._ports = tuple(ports)
        self._slices: dict[str, EndpointSlice] = {}
        self._by_slice: dict[str, dict[Owner, Sighting]] = {}
        self._by_owner: dict[Owner, dict[str, Sighting]] = {}
        self._by_pod: dict[str, dict[Owner, None]] = {}

    @property
    def slices(self) -> Collection[EndpointSlice]:
        return self._slices.values()

    def owners(self) -> Iterator[Owner]:
        return iter(self._by_owner)

    def of(self, owner: Owner) -> list[Sighting]:
        """What each slice tells of *owner*, always in the same order; empty: none does."""
        seen = self._by_owner.get(owner, {})
        return [seen[key] for key in sorted(seen)]

    def of_pod(self, pod: str) -> Iterable[Owner]:
        return tuple(self._by_pod.get(pod, ()))

    def listed(self, slices: Iterable[EndpointSlice]) -> list[Owner]:
        """*slices* are all that there are; answers of whom they tell something else than before."""
        found = {each.metadata.key: each for each in slices}
        gone = [key for key in self._slices if key not in found]
        owners = [owner for key in gone for owner in self.remove(key)]
        owners += [owner for each in found.values() for owner in self.put(each)]
        return owners

    def put(self, new: EndpointSlice) -> list[Owner]:
        """A slice is new, or as it says now; answers of whom it tells something else than before."""
        key = new.metadata.key
        old = self._slices.get(key)
        self._slices[key] = new
        if old is not None and _is_same(old, new):
            return []
        before, after = self._by_slice.get(key, {}), self._read(new)
        self._by_slice[key] = after
        for owner in before:
            if owner not in after:
                self._lose(owner, key)
        differing = [owner for owner, sighting in after.items() if before.get(owner) != sighting]
        for owner in differing:
            self._by_owner.setdefault(owner, {})[key] = after[owner]
            self._by_pod.setdefault(owner[0], {})[owner] = None
        return differing + [owner for owner in before if owner not in after]

    def remove(self, key: str) -> list[Owner]:
        """The slice *key* is no more; answers of whom it told something."""
        self._slices.pop(key, None)
        owners = list(self._by_slice.pop(key, ()))
        for owner in owners:
            self._lose(owner, key)
        return owners

    def _lose(self, owner: Owner, key: str) -> None:
        del self._by_owner[owner][key]
        if self._by_owner[owner]:
            return
        del self._by_owner[owner]
        pod = owner[0]
        del self._by_pod[pod][owner]
        if not self._by_pod[pod]:
            del self._by_pod[pod]

    def _read(self, each: EndpointSlice) -> dict[Owner, Sighting]:
        tcp = tcp_ports(each)
        ports = tuple(port_number(want, tcp) for want in self._ports or (None,))
        found: dict[Owner, Sighting] = {}
        for endpoint in each.endpoints:
            sighting = _sighting(each, endpoint, ports)
            owner = sighting.owner
            if sighting.ready or owner not in found:
                found[owner] = sighting
        return found


def _is_same(old: EndpointSlice, new: EndpointSlice) -> bool:
    return old.endpoints == new.endpoints and old.ports == new.ports and old.address_type == new.address_type


def _sighting(each: EndpointSlice, endpoint: SliceEndpoint, ports: tuple[int, ...]) -> Sighting:
    """A Service that publishes addresses that are not ready calls all of them ready: `serving` tells the truth."""
    conditions, target = endpoint.conditions, endpoint.target_ref
    ip = endpoint.addresses[0] if endpoint.addresses else ""
    name, pod, uid = ip, "", ""
    if target is not None:
        name, uid = target.name or ip, target.uid
        if target.kind == "Pod":
            pod = f"{target.namespace or each.metadata.namespace}/{target.name}"
    return Sighting(
        name=name,
        family=each.address_type,
        ip=ip,
        pod=pod,
        uid=uid,
        ports=ports,
        ready=conditions.ready is not False and conditions.serving is not False,
        terminating=conditions.terminating is True,
        node=endpoint.node_name,
        zone=endpoint.zone,
    )


def tcp_ports(each: EndpointSlice) -> list[SlicePort]:
    return [port for port in each.ports if port.protocol == "TCP"]


def port_number(want: int | str | None, ports: Sequence[SlicePort]) -> int:
    """Which of a slice's TCP *ports* is wanted (None: its only one); NO_PORT where it has none such.

    A slice without ports, or with one that stands for every port, has each number that is asked for.
    """
    if isinstance(want, int):
        found = not ports or any(port.port is None or port.port == want for port in ports)
        return want if found and is_port(want) else NO_PORT
    if want is None:
        return (ports[0].port or NO_PORT) if len(ports) == 1 else NO_PORT
    return next((port.port for port in ports if port.name == want and port.port), NO_PORT)


def shown(ports: Iterable[SlicePort]) -> str:
    """*ports* as people write them: `http (8000), metrics (9090)`."""
    texts: Mapping[str, None] = dict.fromkeys(
        f"{port.name or 'unnamed'} ({port.port or 'any'})" for port in ports
    )
    some = sorted(texts)[:MAX_SHOWN]
    more = [f"{len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else []
    return ", ".join([*some, *more]) or "none"
