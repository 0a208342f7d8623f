"""What the objects of a cluster have in common: metadata, owners, conditions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

Object = dict[str, Any]
NAMESPACE = "llm"
CREATED = "2026-05-04T09:12:33Z"
SLICE_CONTROLLER = "endpointslice-controller.k8s.io"
VLLM_LABELS = {"app": "vllm"}


def hashed(text: str, digits: int = 10) -> str:
    """As Kubernetes derives names: the same each time."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def uid_of(name: str) -> str:
    """A uid, the same each time."""
    return f"{hashed(name, 8)}-{hashed(name, 4)}-4000-8000-{hashed(name, 12)}"


def metadata(
    name: str,
    namespace: str | None = NAMESPACE,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    uid: str | None = None,
    created: str = CREATED,
    managers: Sequence[str] = ("kubectl-client-side-apply",),
) -> Object:
    """uid None: the server gives one."""
    meta: Object = {"name": name}
    if namespace is not None:
        meta["namespace"] = namespace
    if uid:
        meta["uid"] = uid
    meta["creationTimestamp"] = created
    if labels:
        meta["labels"] = dict(labels)
    if annotations:
        meta["annotations"] = dict(annotations)
    meta["managedFields"] = [managed_by(manager, labels or {}) for manager in managers]
    return meta


def managed_by(manager: str, labels: Mapping[str, str]) -> Object:
    """An entry of managedFields: keys with dots, brackets and quotation marks in them, and empty objects."""
    fields: Object = {"f:metadata": {"f:labels": {".": {}} | {f"f:{label}": {} for label in labels}}}
    fields["f:spec"] = {
        'k:{"name":"vllm"}': {".": {}, "f:image": {}, 'k:{"containerPort":8000,"protocol":"TCP"}': {}}
    }
    return {
        "apiVersion": "v1",
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        "manager": manager,
        "operation": "Update",
        "time": CREATED,
    }


def owned_by(api_version: str, kind: str, name: str) -> Object:
    owner = {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid_of(name)}
    return owner | {"blockOwnerDeletion": True, "controller": True}


def condition(name: str, holds: bool) -> Object:
    one: Object = {
        "lastProbeTime": None,
        "lastTransitionTime": CREATED,
        "status": "True" if holds else "False",
        "type": name,
    }
    if not holds:
        one |= {"message": "containers with unready status: [vllm]", "reason": "ContainersNotReady"}
    return one


def padded(obj: Object, to_bytes: int) -> Object:
    """The object with an annotation that makes it about that big, as injectors and long environments do."""
    annotations = obj["metadata"].get("annotations", {}) | {"sidecar.istio.io/status": ""}
    padding = "x" * max(0, to_bytes - len(msgspec.json.encode(obj)))
    annotations["sidecar.istio.io/status"] = padding
    return obj | {"metadata": obj["metadata"] | {"annotations": annotations}}
