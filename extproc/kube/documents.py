"""Kubernetes YAML as a config: its InferencePools, and the models and objectives that refer to them.

An InferencePool names a selector and ports, so that nothing is left to ask a cluster but the pods.  What a cluster
would tell in an object's status is a fault here, as a file has no other way to tell it.  Other kinds of objects
(Deployment, Service, Gateway, HTTPRoute) are none of ours.  Pure.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from .. import strict_yaml
from ..config import shape
from ..config.checks import check
from ..config.schema import Config, KubernetesConfig, PoolConfig, Port
from ..errors import ConfigError, Fault
from .model_objects import LLM_D_GROUP, X_GROUP, InferenceModel, InferenceModelRewrite, InferenceObjective
from .models import AnyObject, ModelObjects, PoolIdentity, merge
from .objects import InferencePool, InferencePoolV1, InferencePoolV1Alpha1, InferencePoolV1Alpha2

ATTACH_TO = f"{X_GROUP}/attach-to"
"""An InferencePool's annotation: YAML text that names the Gateway listener to attach to."""
_KINDS: dict[str, dict[str, type[Any]]] = {
    "InferencePool": {
        "inference.networking.k8s.io/v1": InferencePoolV1,
        f"{X_GROUP}/v1alpha2": InferencePoolV1Alpha2,
        f"{X_GROUP}/v1alpha1": InferencePoolV1Alpha1,
    },
    "InferenceModel": dict.fromkeys((f"{X_GROUP}/v1alpha2", f"{X_GROUP}/v1alpha1"), InferenceModel),
    "InferenceModelRewrite": dict.fromkeys(
        (f"{LLM_D_GROUP}/v1alpha2", f"{X_GROUP}/v1alpha2"), InferenceModelRewrite
    ),
    "InferenceObjective": dict.fromkeys(
        (f"{LLM_D_GROUP}/v1alpha2", f"{X_GROUP}/v1alpha2"), InferenceObjective
    ),
}
_PLACES = {
    ".name": "$.metadata.name",
    ".kubernetes.namespace": "$.metadata.namespace",
    ".kubernetes.selector": "$.spec.selector",
    ".kubernetes.port": "$.spec.targetPorts",
}
"""Where the fields of a pool's config come from."""


class AttachTo(Struct, frozen=True, forbid_unknown_fields=True):
    """The listener by which an InferencePool wants to be reached."""

    name: Annotated[
        str, Meta(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z", description="the name of a Gateway")
    ]
    port: Port | None = None
    """Absent: all listeners of the Gateway."""


class _Document(Struct, frozen=True):
    place: str
    """`document 2`, counted from 1 as `---` divides them."""
    value: dict[str, Any]
    object: Any


def is_documents(documents: Sequence[object]) -> bool:
    """Whether *documents*, of one YAML text, are Kubernetes objects; else the only one may be a config."""
    return any(isinstance(each, dict) and "apiVersion" in each and "kind" in each for each in documents)


def read_documents(documents: Sequence[object]) -> Config:
    """The config that *documents*, parsed YAML, amount to; raises ConfigError with every fault that was found."""
    faults: list[Fault] = []
    found = list(_decoded(documents, faults))
    faults += _twice(found)
    pools = [each for each in found if isinstance(each.object, InferencePool)]
    if not pools and not faults:
        faults.append(Fault("$", "no InferencePool among the documents"))
    if faults:
        raise ConfigError(faults)
    config = Config([_pool(each.object) for each in pools])
    faults = [_placed(fault, pools) for fault in check(config)]
    if faults:
        raise ConfigError(faults)
    others = [each for each in found if not isinstance(each.object, InferencePool)]
    return _with_models(config, pools, others)


def attach_to(pool: InferencePool) -> AttachTo | None:
    """What the annotation `attach-to` of *pool* says; None: it has none.  Raises ConfigError."""
    text = pool.metadata.annotations.get(ATTACH_TO)
    if text is None:
        return None
    path = f"$.metadata.annotations['{ATTACH_TO}']"
    try:
        value = strict_yaml.parse(text.encode("utf-8", "surrogatepass"))
    except ConfigError as error:
        raise ConfigError([Fault(path, fault.text) for fault in error.faults]) from None
    faults = list(shape.faults(value, AttachTo, path))
    if faults:
        raise ConfigError(faults)
    return msgspec.convert(value, AttachTo)


def _decoded(documents: Sequence[object], faults: list[Fault]) -> Iterator[_Document]:
    """Those of our kinds."""
    for place, value in _flat(documents):
        if not isinstance(value, dict) or not all(
            isinstance(value.get(key), str) for key in ("apiVersion", "kind")
        ):
            faults.append(Fault(place, "no Kubernetes object: it needs apiVersion and kind"))
            continue
        versions = _KINDS.get(value["kind"])
        if versions is None:
            continue
        kind = versions.get(value["apiVersion"])
        if kind is None:
            allowed = ", ".join(versions)
            text = f"{value['apiVersion']!r} of {value['kind']} is unknown; allowed: {allowed}"
            faults.append(Fault(f"{place}: $.apiVersion", text))
            continue
        try:
            yield _Document(place, value, msgspec.convert(_with_text_times(value), kind))
        except msgspec.ValidationError as error:
            text, _, path = str(error).partition(" - at ")
            faults.append(Fault(f"{place}: {path.strip('`') or '$'}", text.replace("`", "")))


def _flat(documents: Sequence[object]) -> Iterator[tuple[str, Any]]:
    """(place, value), those of a List one by one (`kubectl get -o yaml` writes it); without empty ones."""
    for index, value in enumerate(documents, 1):
        is_list = isinstance(value, dict) and value.get("kind") == "List"
        items = value.get("items") if isinstance(value, dict) and is_list else None
        if isinstance(items, list):
            yield from ((f"document {index}: $.items[{i}]", item) for i, item in enumerate(items))
        elif value is not None:
            yield f"document {index}", value


def _with_text_times(value: dict[str, Any]) -> dict[str, Any]:
    """YAML makes a time of what JSON leaves a text."""
    metadata = value.get("metadata")
    time = metadata.get("creationTimestamp") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(time, datetime.datetime):
        return value
    return {**value, "metadata": {**metadata, "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ")}}


def _twice(found: Sequence[_Document]) -> Iterator[Fault]:
    seen: dict[tuple[str, str, str, str], str] = {}
    for each in found:
        meta = each.object.metadata
        group = each.value["apiVersion"].rpartition("/")[0]
        key = (each.value["kind"], group, meta.namespace, meta.name)
        if key in seen:
            yield Fault(f"{each.place}: $.metadata.name", f"{meta.name!r} is there already, in {seen[key]}")
        seen.setdefault(key, each.place)


def _pool(pool: InferencePool) -> PoolConfig:
    if isinstance(pool, InferencePoolV1):
        selector = pool.spec.selector.match_labels
        ports = [each.number for each in pool.spec.target_ports]
    else:
        selector, number = pool.spec.selector, pool.spec.target_port_number
        ports = [] if number is None else [number]
    namespace = pool.metadata.namespace or None
    port = ports[0] if len(ports) == 1 else list[int | str](ports) or None
    return PoolConfig(
        pool.metadata.name,
        kubernetes=KubernetesConfig(selector=selector, port=port, namespace=namespace),
    )


def _placed(fault: Fault, pools: Sequence[_Document]) -> Fault:
    """A fault of the config where it stands in the documents."""
    head, bracket, field = fault.path.removeprefix("$.pools[").partition("]")
    if not bracket or not head.isdecimal():
        return fault
    pool = pools[int(head)]
    begin = next((begin for begin in _PLACES if field.startswith(begin)), field)
    place = _PLACES.get(begin, f"$.spec{begin}") + field.removeprefix(begin)
    if isinstance(pool.object, InferencePoolV1):
        place = place.replace("$.spec.selector", "$.spec.selector.matchLabels")
    else:
        place = place.replace("targetPorts", "targetPortNumber")
    return Fault(f"{pool.place}: {place}", fault.text)


def _with_models(config: Config, pools: Sequence[_Document], others: Sequence[_Document]) -> Config:
    metas = [pool.object.metadata for pool in pools]
    identities = {meta.name: PoolIdentity(meta.namespace, meta.name) for meta in metas}
    objects: list[AnyObject] = [each.object for each in others]
    models = [each for each in objects if isinstance(each, InferenceModel)]
    rewrites = [each for each in objects if isinstance(each, InferenceModelRewrite)]
    objectives = [each for each in objects if isinstance(each, InferenceObjective)]
    merged = merge(config, identities, ModelObjects(models, rewrites, objectives))
    judged = {verdict.object.key for verdict in merged.verdicts}
    there = ", ".join(_full_name(meta.namespace, meta.name) for meta in metas)
    faults = [_astray(each, there) for each in others if each.object.key not in judged]
    places = {each.object.key: each.place for each in others}
    for refusal in merged.refusals:
        where = f"$.spec.{refusal.where}" if refusal.where else "$.spec"
        faults.append(Fault(f"{places[refusal.source.key]}: {where}", refusal.text))
    if faults:
        raise ConfigError(faults)
    return merged.config


def _astray(document: _Document, there: str) -> Fault:
    name = _full_name(document.object.metadata.namespace, document.object.spec.pool_ref.name)
    return Fault(
        f"{document.place}: $.spec.poolRef", f"no InferencePool {name} in these documents; there: {there}"
    )


def _full_name(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name
