"""Objects of the Kubernetes API: only the fields that we read.

Unknown fields are ignored, and `null` counts as absent (Go writes it for empty lists and maps); a field of another type
is a `msgspec.ValidationError`.  So a field that nobody here reads is not declared: it cannot make an object unreadable
(an InferencePool without its endpoint picker, say).

Source: the Kubernetes API reference, and the CRDs of the Gateway API Inference Extension.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

from msgspec import NODEFAULT, Struct, field
from msgspec.structs import fields, force_setattr

if TYPE_CHECKING:
    T = TypeVar("T")
    Nullable = Annotated[T, "`null` is read as the default"]
else:
    Nullable = Optional


class Lenient(Struct, frozen=True, rename="camel", gc=False):
    """Reads `null` as the field's default: fields are `Nullable[...]`, and for their readers never None.

    Not for the garbage collector to walk: none refers to another in a circle, and walking a thousand pods would stall
    the requests that this loop routes.
    """

    def __post_init__(self) -> None:
        for name, default in _defaults(type(self)):
            if getattr(self, name) is None:
                force_setattr(self, name, default())


@cache
def _defaults(kind: type[Struct]) -> tuple[tuple[str, Callable[[], Any]], ...]:
    """(name, what makes its default) of the fields of *kind* whose default is not None."""
    found: list[tuple[str, Callable[[], Any]]] = []
    for each in fields(kind):
        if each.default_factory is not NODEFAULT:
            found.append((each.name, each.default_factory))
        elif each.default is not NODEFAULT and each.default is not None:
            found.append((each.name, partial(_same, each.default)))
    return tuple(found)


def _same(value: Any) -> Any:
    return value


class ObjectMeta(Lenient, frozen=True):
    """What every object has.  Times are RFC 3339 in UTC: as text they sort by age."""

    name: str
    namespace: Nullable[str] = ""
    uid: Nullable[str] = ""
    resource_version: Nullable[str] = ""
    generation: Nullable[int] = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    """Set from the moment that its deletion was asked for."""
    labels: Nullable[dict[str, str]] = {}
    annotations: Nullable[dict[str, str]] = {}

    @property
    def key(self) -> str:
        """`namespace/name`, unique among the objects of a kind."""
        return f"{self.namespace}/{self.name}"


class ContainerPort(Lenient, frozen=True):
    container_port: int
    name: Nullable[str] = ""
    protocol: Nullable[str] = "TCP"


class Container(Lenient, frozen=True):
    ports: Nullable[tuple[ContainerPort, ...]] = ()
    restart_policy: Nullable[str] = ""
    """`Always` makes an init container a sidecar, which runs beside the others."""


class PodSpec(Lenient, frozen=True):
    node_name: Nullable[str] = ""
    containers: Nullable[tuple[Container, ...]] = ()
    init_containers: Nullable[tuple[Container, ...]] = ()


class PodIP(Lenient, frozen=True):
    ip: Nullable[str] = ""


class PodCondition(Lenient, frozen=True):
    type: Nullable[str] = ""
    status: Nullable[str] = ""
    """`True`, `False` or `Unknown`."""


class PodStatus(Lenient, frozen=True):
    phase: Nullable[str] = ""
    pod_ip: Nullable[str] = field(default="", name="podIP")
    """The primary address."""
    pod_ips: Nullable[tuple[PodIP, ...]] = field(default=(), name="podIPs")
    """One a family, the primary first."""
    conditions: Nullable[tuple[PodCondition, ...]] = ()


class Pod(Lenient, frozen=True):
    metadata: ObjectMeta
    spec: Nullable[PodSpec] = PodSpec()
    status: Nullable[PodStatus] = PodStatus()


class Node(Lenient, frozen=True):
    metadata: ObjectMeta


class EndpointConditions(Lenient, frozen=True):
    """None: the writer does not know; `ready` then counts as true, `terminating` as false, `serving` as `ready`."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ObjectReference(Lenient, frozen=True):
    kind: Nullable[str] = ""
    namespace: Nullable[str] = ""
    name: Nullable[str] = ""
    uid: Nullable[str] = ""


class SliceEndpoint(Lenient, frozen=True):
    addresses: Nullable[tuple[str, ...]] = ()
    """All of one backend; consumers use the first."""
    conditions: Nullable[EndpointConditions] = EndpointConditions()
    node_name: Nullable[str] = ""
    zone: Nullable[str] = ""
    target_ref: ObjectReference | None = None


class SlicePort(Lenient, frozen=True):
    port: int | None = None
    """Of the pods.  None: every port, which only slices written by hand say."""
    name: Nullable[str] = ""
    protocol: Nullable[str] = "TCP"


class EndpointSlice(Lenient, frozen=True):
    metadata: ObjectMeta
    address_type: Nullable[str] = ""
    """`IPv4`, `IPv6` or `FQDN`."""
    endpoints: Nullable[tuple[SliceEndpoint, ...]] = ()
    ports: Nullable[tuple[SlicePort, ...]] = ()


class ServiceSpec(Lenient, frozen=True):
    selector: Nullable[dict[str, str]] = {}
    """Empty: whoever made the Service writes its EndpointSlices."""
    ip_families: Nullable[tuple[str, ...]] = ()
    """`IPv4`, `IPv6`: the preferred one first."""


class Service(Lenient, frozen=True):
    metadata: ObjectMeta
    spec: Nullable[ServiceSpec] = ServiceSpec()


class LabelSelector(Lenient, frozen=True):
    match_labels: Nullable[dict[str, str]] = {}


class PortNumber(Lenient, frozen=True):
    number: int


class PoolSpec(Lenient, frozen=True):
    selector: Nullable[LabelSelector] = LabelSelector()
    target_ports: Nullable[tuple[PortNumber, ...]] = ()


class InferencePoolV1(Lenient, frozen=True):
    """`inference.networking.k8s.io/v1`."""

    metadata: ObjectMeta
    spec: Nullable[PoolSpec] = PoolSpec()


class AlphaPoolSpec(Lenient, frozen=True):
    selector: Nullable[dict[str, str]] = {}
    target_port_number: int | None = None


class InferencePoolV1Alpha2(Lenient, frozen=True):
    """`inference.networking.x-k8s.io/v1alpha2`."""

    metadata: ObjectMeta
    spec: Nullable[AlphaPoolSpec] = AlphaPoolSpec()


class InferencePoolV1Alpha1(InferencePoolV1Alpha2, frozen=True):
    """`inference.networking.x-k8s.io/v1alpha1`."""


InferencePool = InferencePoolV1 | InferencePoolV1Alpha2 | InferencePoolV1Alpha1
