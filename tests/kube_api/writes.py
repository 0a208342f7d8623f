"""What Kubernetes does with an object that is created, updated, patched or deleted, before it is stored."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Any

from .resources import NAMESPACES, Kind
from .status import ApiError, already_exists, bad_request, conflict, invalid, not_found
from .store import Store, Stored, copied

_MICRO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")
_REASON = re.compile(r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
_MOST_CONDITIONS = 8
"""`maxItems` of the conditions in the Inference Extension's CRDs."""
_KEPT = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "generation")
"""Metadata that no update changes."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Writes:
    """The write verbs, over a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def create(self, kind: Kind, namespace: str, obj: dict[str, Any]) -> Stored:
        content = _content(kind, namespace, obj)
        metadata = content["metadata"]
        if metadata.get("resourceVersion"):
            message = "resourceVersion should not be set on objects to be created"
            raise ApiError(500, "", message)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if not metadata.get("name"):
            raise invalid(kind, "", "metadata.name", "Required value: name or generateName is required")
        if kind.namespaced and not self.store.get(NAMESPACES, "", namespace):
            raise not_found(NAMESPACES, namespace)
        if self.store.get(kind, namespace, metadata["name"]):
            raise already_exists(kind, metadata["name"])
        if kind.status:
            content.pop("status", None)
        metadata.pop("deletionTimestamp", None)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        metadata |= {"generation": 1} if kind.counted else {}
        check(kind, content)
        return self.store.write(kind, content)

    def update(self, kind: Kind, namespace: str, name: str, obj: dict[str, Any], status: bool) -> Stored:
        content = _content(kind, namespace, obj)
        if content["metadata"].get("name") != name:
            given = content["metadata"].get("name", "")
            message = f"the name of the object ({given}) does not match the name on the URL ({name})"
            raise bad_request(message)
        before = self._existing(kind, namespace, name)
        if not content["metadata"].get("resourceVersion") and not kind.blind_update:
            why = "Invalid value: 0x0: must be specified for an update"
            raise invalid(kind, name, "metadata.resourceVersion", why, of=kind.plural)
        return self._replace(before, content, status)

    def patch(self, kind: Kind, namespace: str, name: str, patch: Any, status: bool) -> Stored:
        """A JSON merge patch (RFC 7386); one that says a resourceVersion says on what it stands."""
        if not isinstance(patch, dict):
            raise bad_request(
                "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}"
            )
        before = self._existing(kind, namespace, name)
        merged = merge(copied(before.content), patch)
        if not isinstance(merged.get("metadata"), dict) or merged["metadata"].get("name") != name:
            raise invalid(kind, name, "metadata.name", "Invalid value: field is immutable")
        merged.pop("kind", None)
        merged.pop("apiVersion", None)
        return self._replace(before, merged, status)

    def delete(self, kind: Kind, namespace: str, name: str, options: dict[str, Any]) -> tuple[Stored, bool]:
        """The object's last state, and whether it is gone. A pod that runs stays, terminating, until the kubelet
        says that it ended; what has finalizers until they are taken away."""
        before = self._existing(kind, namespace, name)
        wanted = options.get("preconditions") or {}
        for field in ("uid", "resourceVersion"):
            if wanted.get(field) not in (None, before.content["metadata"].get(field)):
                raise conflict(kind, name, "Precondition failed")
        grace = options.get("gracePeriodSeconds")
        runs = kind.name == "Pod" and bool(before.content.get("spec", {}).get("nodeName"))
        if kind.name == "Pod" or before.content["metadata"].get("finalizers"):
            grace = 0 if not runs else 30 if grace is None else grace
            before = self.mark_deleted(before, grace)
            if grace or before.content["metadata"].get("finalizers"):
                return before, False
        return self.store.remove(kind, namespace, name), True

    def mark_deleted(self, before: Stored, grace_s: int) -> Stored:
        """A time of grace that has begun may only become shorter."""
        metadata = before.content["metadata"]
        if "deletionTimestamp" in metadata and metadata["deletionGracePeriodSeconds"] <= grace_s:
            return before
        marks = {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace_s}
        return self.store.write(before.kind, before.content | {"metadata": metadata | marks})

    def place(self, kind: Kind, obj: dict[str, Any]) -> Stored:
        """Plays whoever else writes: creates or replaces, status included. Another uid is another object: the
        old one is deleted first."""
        content = _content(kind, None, obj)
        metadata = content["metadata"]
        self.ensure_namespace(metadata.get("namespace", ""))
        before = self.store.get(kind, metadata.get("namespace", ""), metadata["name"])
        old = before.content["metadata"] if before else {}
        if before and metadata.get("uid") not in (None, old["uid"]):
            self.store.remove(kind, *before.key)
            before, old = None, {}
        metadata.setdefault("uid", old.get("uid") or str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", old.get("creationTimestamp") or now())
        if before:
            _count(kind, before.content, content)
        elif kind.counted:
            metadata.setdefault("generation", 1)
        return self.store.write(kind, content)

    def ensure_namespace(self, name: str) -> None:
        if name and not self.store.get(NAMESPACES, "", name):
            metadata = {"name": name, "labels": {"kubernetes.io/metadata.name": name}}
            active = {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
            self.place(NAMESPACES, {"metadata": metadata} | active)

    def _existing(self, kind: Kind, namespace: str, name: str) -> Stored:
        found = self.store.get(kind, namespace, name)
        if not found:
            raise not_found(kind, name)
        return found

    def _replace(self, before: Stored, content: dict[str, Any], status: bool) -> Stored:
        kind, old, new = before.kind, before.content["metadata"], content["metadata"]
        if new.get("resourceVersion") not in (None, "", "0", old["resourceVersion"]):
            raise conflict(kind, old["name"])
        if new.get("uid") not in (None, "", old["uid"]):
            why = f"Precondition failed: UID in precondition: {new['uid']}, UID in object meta: {old['uid']}"
            raise conflict(kind, old["name"], why)
        for field in _KEPT:
            new.pop(field, None)
            new |= {field: old[field]} if field in old else {}
        if status:
            written = {"status": content.get("status")} if content.get("status") is not None else {}
            kept = {field: value for field, value in before.content.items() if field != "status"}
            content = kept | written
        elif kind.status:
            content.pop("status", None)
            content |= {"status": before.content["status"]} if "status" in before.content else {}
        _count(kind, before.content, content)
        check(kind, content)
        if old.get("deletionTimestamp") and old.get("finalizers") and not new.get("finalizers"):
            return self.store.remove(kind, *before.key)
        return self.store.write(kind, content)


def _content(kind: Kind, namespace: str | None, obj: Any) -> dict[str, Any]:
    """A copy without kind and apiVersion, in the namespace of the URL."""
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
        raise bad_request("the object provided is unrecognized (must be of type " + kind.name + ")")
    if obj.get("kind", kind.name) != kind.name:
        raise bad_request(f"{obj['kind']} in body does not match {kind.name}")
    content: dict[str, Any] = copied(
        {field: obj[field] for field in obj if field not in ("kind", "apiVersion")}
    )
    given = content["metadata"].get("namespace") or ""
    if kind.namespaced and namespace and given and given != namespace:
        message = "the namespace of the provided object does not match the namespace sent on the request"
        raise bad_request(message)
    if kind.namespaced:
        content["metadata"]["namespace"] = namespace or given or "default"
    return content


def _count(kind: Kind, before: dict[str, Any], content: dict[str, Any]) -> None:
    """generation: one more where anything but metadata and status differs."""
    if not kind.counted:
        return
    apart = ("metadata", "status")
    changed = {k: v for k, v in before.items() if k not in apart} != {
        k: v for k, v in content.items() if k not in apart
    }
    content["metadata"]["generation"] = before["metadata"].get("generation", 0) + changed


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = target if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def check(kind: Kind, content: dict[str, Any]) -> None:
    """What Kubernetes checks of the objects that we write: leases and conditions."""
    if kind.name == "Lease":
        _check_lease(kind, content["metadata"]["name"], content.get("spec") or {})
    if kind.custom:
        _check_conditions(kind, content)


def _check_lease(kind: Kind, name: str, spec: dict[str, Any]) -> None:
    for field in ("acquireTime", "renewTime"):
        if spec.get(field) is not None and not _MICRO_TIME.match(str(spec[field])):
            layout = "2006-01-02T15:04:05.000000Z07:00"
            message = f'parsing time "\\"{spec[field]}\\"" as "\\"{layout}\\"": cannot parse'
            raise bad_request(f'Lease in version "v1" cannot be handled as a Lease: {message}')
    for field, least in (("leaseDurationSeconds", 1), ("leaseTransitions", 0)):
        value = spec.get(field)
        if value is not None and not isinstance(value, int):
            raise bad_request(f'Lease in version "v1" cannot be handled as a Lease: spec.{field}: {value}')
        if value is not None and value < least:
            bound = "must be greater than 0" if least else "must be greater than or equal to 0"
            raise invalid(kind, name, f"spec.{field}", f"Invalid value: {value}: {bound}")
    if spec.get("holderIdentity") == "":
        raise invalid(kind, name, "spec.holderIdentity", "Required value: holderIdentity must not be empty")


def _check_conditions(kind: Kind, content: dict[str, Any]) -> None:
    status = content.get("status") or {}
    parents = (status.get("parents") or []) + (status.get("parent") or [])
    lists = [status.get("conditions"), *(parent.get("conditions") for parent in parents)]
    for conditions in filter(None, lists):
        field, fault = _fault_of(conditions)
        if fault:
            raise invalid(kind, content["metadata"]["name"], f"status.conditions{field}", fault)


def _fault_of(conditions: list[dict[str, Any]]) -> tuple[str, str]:
    """The field and what is wrong with it, in the words of the CRD's schema."""
    if len(conditions) > _MOST_CONDITIONS:
        return "", f"Invalid value: {len(conditions)}: must have at most {_MOST_CONDITIONS} items"
    types = [condition.get("type") for condition in conditions]
    for condition in conditions:
        for field in ("lastTransitionTime", "message", "reason", "status", "type"):
            if condition.get(field) is None:
                return f".{field}", "Required value"
        if types.count(condition["type"]) > 1:
            return "", f'Duplicate value: map[string]interface {{}}{{"type":"{condition["type"]}"}}'
        fault = _fault_in(condition)
        if fault[1]:
            return fault
    return "", ""


def _fault_in(condition: dict[str, Any]) -> tuple[str, str]:
    since, reason = condition["lastTransitionTime"], condition["reason"]
    if condition["status"] not in ("True", "False", "Unknown"):
        given = condition["status"]
        return ".status", f'Unsupported value: "{given}": supported values: "True", "False", "Unknown"'
    if not _REASON.match(reason) or len(reason) > 1024:
        return ".reason", f"Invalid value: \"{reason}\": should match '{_REASON.pattern}'"
    if not _TIME.match(since):
        return ".lastTransitionTime", f'Invalid value: "{since}": must be of type date-time'
    if len(condition["message"]) > 32768:
        return ".message", "Too long: may not be longer than 32768"
    if condition.get("observedGeneration", 0) < 0:
        return ".observedGeneration", "Invalid value: -1: should be greater than or equal to 0"
    return "", ""
