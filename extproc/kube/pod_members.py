"""The members of a pool that pods make up: those of a selector, or of an InferencePool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .claims import Owner
from .membership import AGELESS, Candidate, IPFamily, Membership, Reason, is_cordoned, is_port
from .objects import ContainerPort, Pod

NO_PORT = 0


class PodMembers(Membership):
    """Pods that are ready and not terminating.  Every event answers whether members changed."""

    def listed(self, pods: Iterable[Pod]) -> bool:
        """*pods* are all that there are."""
        found = {_owner(pod): self._read(pod) for pod in pods}
        gone = [owner for owner in self._candidates if owner not in found]
        changed = [self._set(owner, None) for owner in gone]
        changed += [self._set(owner, candidate) for owner, candidate in found.items()]
        return any(changed)

    def changed(self, pod: Pod) -> bool:
        """A pod is new, or as it says now."""
        return self._set(_owner(pod), self._read(pod))

    def deleted(self, pod: Pod) -> bool:
        """A pod is no more; one that took its name since stays."""
        known = self._candidates.get(_owner(pod))
        if known is None or (known.uid and pod.metadata.uid and known.uid != pod.metadata.uid):
            return False
        return self._set(_owner(pod), None)

    def problem(self) -> str | None:
        """What keeps every pod out, where something does."""
        if not self._ports:
            return 'the ports of the pods are not known: say "port:"'
        wrong = [port for port in self._ports if isinstance(port, int) and not is_port(port)]
        return f"{wrong[0]} is not a port: ports are 1..65535" if wrong else None

    def _read(self, pod: Pod) -> Candidate:
        meta = pod.metadata
        return Candidate(
            name=meta.name,
            ip=address_of(pod, self._ip_family),
            ports=tuple(port if isinstance(port, int) else port_number(pod, port) for port in self._ports),
            labels=meta.labels,
            barrier=barrier(pod),
            uid=meta.uid,
            rank=meta.creation_timestamp or AGELESS,
            node=pod.spec.node_name,
        )


def _owner(pod: Pod) -> Owner:
    return pod.metadata.namespace, pod.metadata.name


def barrier(pod: Pod) -> Reason | None:
    """Why *pod* gets no requests."""
    if pod.metadata.deletion_timestamp is not None:
        return "terminating"
    if pod.status.phase in ("Succeeded", "Failed"):
        return "finished"
    if is_cordoned(pod.metadata):
        return "cordoned"
    for condition in pod.status.conditions:
        if condition.type == "Ready" and condition.status == "True":
            return None
    return "not ready"


def address_of(pod: Pod, family: IPFamily | None) -> str:
    """The ip of *pod*, of *family* or else the primary one; "" where it has none."""
    status = pod.status
    ips = (status.pod_ip, *(each.ip for each in status.pod_ips))
    return next((ip for ip in ips if ip and (family is None or (":" in ip) is (family == "IPv6"))), "")


def port_number(pod: Pod, name: str) -> int:
    """The TCP port that *pod* calls *name*, as a Service's targetPort finds it; NO_PORT where there is none."""
    return next(
        (port.container_port for port in _ports(pod) if port.name == name and port.protocol == "TCP"), NO_PORT
    )


def _ports(pod: Pod) -> Iterator[ContainerPort]:
    for container in pod.spec.containers:
        yield from container.ports
    for container in pod.spec.init_containers:
        if container.restart_policy == "Always":
            yield from container.ports
