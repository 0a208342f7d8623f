"""A pool's membership as a cluster tells it: what pods and EndpointSlices have in common.

An event costs what it changes: nothing here walks over all endpoints, but `members` after a change, and `excluded`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from msgspec import Struct

from .. import address
from ..member import Member
from .claims import Claims, Owner
from .node_labels import NodeLabels
from .objects import Node, ObjectMeta

CORDON = "extproc/cordon"
"""An operator's annotation on a pod: no new requests for it.  `false` counts as absent."""
ZONE = "topology.kubernetes.io/zone"
"""A label of nodes that EndpointSlices tell as well."""
AGELESS = "~"
"""The rank of whoever's age is not known: after every time."""

IPFamily = Literal["IPv4", "IPv6"]
Reason = Literal[
    "terminating",
    "finished",
    "cordoned",
    "not ready",
    "host name",
    "no address",
    "no such port",
    "address in use",
]


class Excluded(Struct, frozen=True):
    """An endpoint that is not a member, for people to read."""

    name: str
    """Of its pod, where there is one."""
    address: str
    """As much as is known: `ip:port`, an ip alone, a host name, or ""."""
    reason: Reason


class Candidate(Struct, frozen=True):
    """What is known of one backend; each of its ports is an endpoint."""

    name: str
    ip: str
    ports: tuple[int, ...]
    """In the order of the config; one out of 1..65535 stands for a port that was not found."""
    labels: dict[str, str]
    barrier: Reason | None
    """Why none of its endpoints is a member."""
    uid: str = ""
    rank: str = AGELESS
    """When it was created: of two that claim the same address, the older one has it."""
    node: str = ""
    zone: str = ""

    def places(self) -> Iterator[tuple[str, Reason | None]]:
        """(address, why it is no member) of each of its endpoints."""
        if self.barrier == "host name":
            yield self.ip, self.barrier
            return
        try:
            ip, _ = address.split(address.join(self.ip, 1))
        except ValueError:
            yield "", self.barrier or "no address"
            return
        for port in dict.fromkeys(self.ports):
            if is_port(port):
                yield address.join(ip, port), self.barrier
            else:
                yield ip, self.barrier or "no such port"


class Membership:
    """The candidates for a pool, and who of them are members."""

    def __init__(
        self, ports: Sequence[int | str], ip_family: IPFamily | None = None, node_labels: Iterable[str] = ()
    ) -> None:
        """Each of *ports* makes an endpoint of its own; *node_labels* are carried over from the nodes."""
        self._ports = tuple(ports)
        self._ip_family = ip_family
        self._candidates: dict[Owner, Candidate] = {}
        self._claims = Claims()
        self._nodes = NodeLabels(node_labels)

    def members(self) -> tuple[Member, ...]:
        """Ready endpoints, by the names of their pods, then in the order of the ports; no address twice."""
        return self._claims.members()

    def excluded(self) -> tuple[Excluded, ...]:
        """The others, in the same order, and why."""
        return tuple(
            Excluded(candidate.name, where, reason or "address in use")
            for owner, candidate in sorted(self._candidates.items())
            for where, reason in candidate.places()
            if reason is not None or not self._claims.holds(owner, where)
        )

    def node_listed(self, nodes: Iterable[Node]) -> bool:
        """*nodes* are all that there are; answers whether members changed, as all events do."""
        return self._place_all(self._nodes.listed(nodes))

    def node_changed(self, node: Node) -> bool:
        return self._place_all(self._nodes.changed(node))

    def node_deleted(self, node: Node) -> bool:
        return self._place_all(self._nodes.deleted(node))

    def _set(self, owner: Owner, candidate: Candidate | None) -> bool:
        """*owner* is from now on as *candidate* says; None: it is no more.  Answers whether members changed."""
        old = self._candidates.get(owner)
        if candidate == old:
            return False
        self._nodes.move(owner, old.node if old else "", candidate.node if candidate else "")
        if candidate is None:
            del self._candidates[owner]
            return self._claims.put(owner, AGELESS, ())
        self._candidates[owner] = candidate
        return self._place(owner)

    def _place_all(self, owners: Iterable[Owner]) -> bool:
        changed = [self._place(owner) for owner in owners]
        return any(changed)

    def _place(self, owner: Owner) -> bool:
        candidate = self._candidates[owner]
        if candidate.barrier is not None:
            return self._claims.put(owner, candidate.rank, ())
        labels = self._labels(candidate)
        members = [
            Member(where, labels, candidate.uid) for where, reason in candidate.places() if reason is None
        ]
        return self._claims.put(owner, candidate.rank, members)

    def _labels(self, candidate: Candidate) -> dict[str, str]:
        """Its own labels win over those of its node, and these over what an EndpointSlice says of the node."""
        wanted = self._nodes.wanted
        if not wanted:
            return candidate.labels
        zone = {ZONE: candidate.zone} if candidate.zone and ZONE in wanted else {}
        return {**zone, **self._nodes.of(candidate.node), **candidate.labels}


def is_port(port: int) -> bool:
    return 1 <= port <= 65535


def is_cordoned(meta: ObjectMeta) -> bool:
    return meta.annotations.get(CORDON, "false").lower() != "false"
