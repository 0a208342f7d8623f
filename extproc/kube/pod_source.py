"""Which pods an InferencePool stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from ..label_syntax import is_key, is_value
from .membership import is_port
from .objects import InferencePool, InferencePoolV1, InferencePoolV1Alpha1, InferencePoolV1Alpha2

POOL_KINDS: dict[tuple[str, str], type[InferencePool]] = {
    ("inference.networking.k8s.io", "v1"): InferencePoolV1,
    ("inference.networking.x-k8s.io", "v1alpha2"): InferencePoolV1Alpha2,
    ("inference.networking.x-k8s.io", "v1alpha1"): InferencePoolV1Alpha1,
}
"""By API group and version.  Where several have a pool of the same name, the first one counts."""


class PodSource(Struct, frozen=True):
    """Pods with all of the labels *selector*, in the pool's namespace; each of *ports* is an endpoint."""

    selector: dict[str, str]
    ports: tuple[int, ...]
    problem: str | None = None
    """Why nothing is selected; selector and ports are empty then."""


def pool_source(pool: InferencePool) -> PodSource:
    if isinstance(pool, InferencePoolV1):
        selector = pool.spec.selector.match_labels
        ports = tuple(dict.fromkeys(port.number for port in pool.spec.target_ports))
    else:
        selector = pool.spec.selector
        number = pool.spec.target_port_number
        ports = () if number is None else (number,)
    problem = selector_problem(selector) or _ports_problem(ports)
    return PodSource(selector, ports) if problem is None else PodSource({}, (), problem)


def preferred(pools: Iterable[InferencePool]) -> InferencePool | None:
    """Of one pool as several API groups and versions have it, that which counts."""
    kinds = list(POOL_KINDS.values())
    return min(pools, key=lambda pool: kinds.index(type(pool)), default=None)


def selector_text(selector: Mapping[str, str]) -> str:
    """*selector* as the API's `labelSelector` takes it; one with a `selector_problem` would mean something else."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))


def selector_problem(selector: Mapping[str, str]) -> str | None:
    """Why *selector* must not be asked for: an empty one would be every pod of the namespace."""
    if not selector:
        return "its selector is empty, which selects nothing"
    for key, value in sorted(selector.items()):
        if not is_key(key):
            return f"its selector has {key[:80]!r}, which is no label name"
        if not is_value(value):
            return f"its selector has {key}: {value[:80]!r}, which is no label value"
    return None


def _ports_problem(ports: tuple[int, ...]) -> str | None:
    if not ports:
        return "it has no target port"
    wrong = next((port for port in ports if not is_port(port)), None)
    return None if wrong is None else f"its target port {wrong} is not one of 1..65535"
