"""What a cluster tells: any line is an event or Malformed; whatever can be read breaks no pool, and no model."""

from __future__ import annotations

import json
from typing import Any

from extproc.address import normalise
from extproc.config import parse_config
from extproc.fleet import Fleet
from extproc.kube.decoding import ObjectDecoder
from extproc.kube.failures import Malformed
from extproc.kube.known import Known
from extproc.kube.lines import Lines, LineTooLong
from extproc.kube.membership import ZONE, Membership
from extproc.kube.model_objects import InferenceModel, InferenceModelRewrite, InferenceObjective
from extproc.kube.models import ModelObjects, PoolIdentity, merge
from extproc.kube.objects import (
    EndpointSlice,
    InferencePoolV1,
    InferencePoolV1Alpha1,
    InferencePoolV1Alpha2,
    Node,
    Pod,
    Service,
)
from extproc.kube.pod_members import PodMembers
from extproc.kube.pod_source import pool_source
from extproc.kube.resource import Resource
from extproc.kube.slice_members import SliceMembers

from ..choices import pieces
from ..target import Target, words

KINDS = (
    Pod,
    EndpointSlice,
    Service,
    Node,
    InferencePoolV1,
    InferencePoolV1Alpha2,
    InferencePoolV1Alpha1,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
)
DECODERS = [ObjectDecoder(Resource("g", "v1", kind.__name__.lower(), None, kind)) for kind in KINDS]
PORTS: tuple[tuple[int | str, ...], ...] = ((), (8000,), ("http", 8000))
MAX_LINE_BYTES = 1024
CONFIG = parse_config(b"pools: [{name: p, kubernetes: {inference_pool: pool}}]")
POOLS = {"p": PoolIdentity("ns", "pool")}


def run(data: bytes) -> None:
    """A watch: each line's first byte says of which collection it is."""
    rule, watched = data[0] if data else 0, data[1:]
    lines, fit = _lines(pieces(watched, rule))
    whole, all_fit = _lines([watched])
    assert fit is all_fit, "the chunking matters"
    assert not fit or lines == whole, "the chunking matters"
    cluster = Cluster(PORTS[rule % 3])
    for line in lines:
        cluster.take(line[0] % len(KINDS), line[1:])
    cluster.check()


def _lines(chunks: list[bytes]) -> tuple[list[bytes], bool]:
    """The lines up to one that is too long, and whether there is none."""
    found: list[bytes] = []
    lines = Lines(MAX_LINE_BYTES)
    try:
        for chunk in chunks:
            found += lines.feed(chunk)
    except LineTooLong:
        return found, False
    return found, True


class Cluster:
    """Everything that follows a cluster, as its lines tell."""

    def __init__(self, ports: tuple[int | str, ...]) -> None:
        self._pods = PodMembers(ports, None, [ZONE])
        self._slices = SliceMembers(ports, None, [ZONE])
        self._known = [Known("1") for _ in KINDS]
        self._models: dict[Any, Any] = {}

    def take(self, kind: int, line: bytes) -> None:
        """As the reflector does."""
        decoder, known = DECODERS[kind], self._known[kind]
        try:
            event = decoder.event(line)
            if event.type == "ERROR":
                assert decoder.failure(event.object).detail is not None
                return
            if event.type == "BOOKMARK":
                known.reached(decoder.bookmark(event.object))
                return
        except Malformed:
            return
        item = decoder.item(event.object)
        if not item.meta.name:
            return
        assert bool(item.error) is (item.obj is None)
        news = known.delete(item.meta) if event.type == "DELETED" else known.put(item.meta)
        known.reached(item.meta.resource_version)
        if news and item.obj is not None:
            self._tell(item.obj, gone=event.type == "DELETED")

    def _tell(self, each: Any, *, gone: bool) -> None:
        match each:
            case Pod():
                (self._pods.deleted if gone else self._pods.changed)(each)
                (self._slices.pod_deleted if gone else self._slices.pod_changed)(each)
            case EndpointSlice():
                (self._slices.deleted if gone else self._slices.changed)(each)
            case Service():
                (self._slices.service_deleted if gone else self._slices.service_changed)(each)
            case Node():
                for members in (self._pods, self._slices):
                    (members.node_deleted if gone else members.node_changed)(each)
            case InferenceModel() | InferenceModelRewrite() | InferenceObjective():
                self._models.pop(each.key, None)
                if not gone:
                    self._models[each.key] = each
            case _:
                source = pool_source(each)
                assert (source.problem is None) is bool(source.selector and source.ports)

    def check(self) -> None:
        for members in (self._pods, self._slices):
            _check_members(members)
        found = self._models.values()
        objects = ModelObjects(
            [each for each in found if isinstance(each, InferenceModel)],
            [each for each in found if isinstance(each, InferenceModelRewrite)],
            [each for each in found if isinstance(each, InferenceObjective)],
        )
        merged = merge(CONFIG, POOLS, objects)
        fleet = Fleet()
        fleet.apply(merged.config)
        fleet.replace_members("p", self._pods.members(), 100.0)
        assert all(report.isprintable() for report in merged.reports), merged.reports


def _check_members(members: Membership) -> None:
    found = [member.address for member in members.members()]
    assert len(found) == len(set(found)), "an address twice"
    assert all(normalise(each) == each for each in found)
    assert all(excluded.reason for excluded in members.excluded())


def _event(kind: type, obj: dict[str, Any], type: str = "ADDED", **more: Any) -> bytes:
    meta = {"name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "7"}
    value = {"type": type, "object": {"metadata": meta, **obj, **more}}
    return (
        bytes([ord("0") + (KINDS.index(kind) - ord("0")) % len(KINDS)]) + json.dumps(value).encode() + b"\n"
    )


_POD: dict[str, Any] = {
    "spec": {
        "nodeName": "n",
        "containers": [{"ports": [{"containerPort": 8000, "name": "http"}]}],
        "initContainers": [{"restartPolicy": "Always", "ports": None}],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
_ENDPOINT: dict[str, Any] = {
    "addresses": ["10.0.0.1"],
    "conditions": {"ready": True, "terminating": None},
    "nodeName": "n",
    "targetRef": {"kind": "Pod", "name": "a", "namespace": "ns", "uid": "u"},
}
_PORTS = [{"port": 8000, "name": "http"}, {"port": None}]
_SLICE: dict[str, Any] = {"addressType": "IPv4", "endpoints": [_ENDPOINT], "ports": _PORTS}


def _seeds() -> list[bytes]:
    ref = {"name": "pool"}
    rules = [{"matches": [{"model": {"value": "m"}}], "targets": [{"modelRewrite": "x", "weight": 3}]}]
    targets = [{"name": "x", "weight": 1}, {"name": "y", "weight": 2}]
    model = {"modelName": "m", "poolRef": ref, "criticality": "Critical", "targetModels": targets}
    watches = [
        _event(Pod, _POD) + _event(EndpointSlice, _SLICE) + _event(Pod, _POD, "DELETED"),
        _event(EndpointSlice, {"addressType": "FQDN", "endpoints": None}) + _event(Node, {}),
        _event(Service, {"spec": {"selector": {"a": "b"}, "ipFamilies": ["IPv6"]}}) + b"0{}\n",
        _event(
            InferencePoolV1,
            {"spec": {"selector": {"matchLabels": {"a": "b"}}, "targetPorts": [{"number": 1}]}},
        ),
        _event(InferencePoolV1Alpha2, {"spec": {"selector": {"a": "b"}, "targetPortNumber": 8000}}),
        _event(InferenceModel, {"spec": model})
        + _event(InferenceModelRewrite, {"spec": {"poolRef": ref, "rules": rules}})
        + _event(InferenceObjective, {"spec": {"poolRef": ref, "priority": 3}}),
        _event(Pod, {}, "BOOKMARK") + _event(Pod, {"code": 410, "reason": "Expired"}, "ERROR"),
        b"0" + b"[" * 900 + b"\n",
    ]
    return [bytes([rule]) + watch for rule in (0, 1, 77) for watch in watches]


TARGET = Target(
    run,
    _seeds,
    words(
        b'null true "" {} [] 0 -1 99999999999999999999 1e400 "metadata" "name" "uid" "resourceVersion" "type" '
        b'"object" "ADDED" "MODIFIED" "DELETED" "BOOKMARK" "ERROR" "Ready" "False" "::1" "0.0.0.0" "IPv6" "*" '
        b'"ready" "terminating" "deletionTimestamp" "labels" "annotations" "extproc/cordon" \\ud800 \\u0000 \xff '
        b"{ } : ,",
        b"\n",
        b"\n0",
        b"\n1",
    ),
    max_bytes=4096,
)
