"""The Inference Extension's objects as a cluster shows them, with the defaults that their CRDs fill in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .meta import CREATED, NAMESPACE, VLLM_LABELS, Object, metadata

GIE = "inference.networking.k8s.io"
GIE_X = "inference.networking.x-k8s.io"
ATTACH_TO = f"{GIE_X}/attach-to"


def inference_pool(
    name: str = "vllm",
    *,
    version: str = "v1",
    selector: Mapping[str, str] = VLLM_LABELS,
    ports: Sequence[int] = (8000,),
    picker: str | None = "extproc",
    attach_to: tuple[str, int] | None = None,
    namespace: str = NAMESPACE,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    uid: str | None = None,
    created: str = CREATED,
    status: Object | None = None,
) -> Object:
    """A pool of "v1", or of "v1alpha2" or "v1alpha1", which know one port. `picker`: the endpoint picker's Service;
    None: without one, as the ACK guide's pools are. `attach_to`: that guide's gateway name and port."""
    own = {ATTACH_TO: f"name: {attach_to[0]}\nport: {attach_to[1]}\n"} if attach_to else {}
    meta = metadata(
        name, namespace, labels=labels, annotations=own | dict(annotations or {}), uid=uid, created=created
    )
    spec = _pool_spec(version, selector, ports, picker)
    group = GIE if version == "v1" else GIE_X
    return _shown("InferencePool", f"{group}/{version}", meta, spec, status)


def _pool_spec(version: str, selector: Mapping[str, str], ports: Sequence[int], picker: str | None) -> Object:
    reference = {"failureMode": "FailClose", "group": "", "kind": "Service", "name": picker}
    if version == "v1":
        spec: Object = {"appProtocol": "http", "endpointPickerRef": reference | {"port": {"number": 9002}}}
        spec |= {
            "selector": {"matchLabels": dict(selector)},
            "targetPorts": [{"number": port} for port in ports],
        }
    else:
        numbered = {"portNumber": 9002} if version == "v1alpha2" else {"targetPortNumber": 9002}
        spec = {
            "extensionRef": reference | numbered,
            "selector": dict(selector),
            "targetPortNumber": ports[0],
        }
    if picker is None:
        spec = {field: value for field, value in spec.items() if not field.endswith("Ref")}
    return spec


def inference_model(
    name: str = "qwq",
    *,
    model: str = "qwq",
    targets: Mapping[str, int | None] | None = None,
    criticality: str | None = "Critical",
    pool: str = "vllm",
    version: str = "v1alpha2",
    namespace: str = NAMESPACE,
    uid: str | None = None,
    created: str = CREATED,
    status: Object | None = None,
) -> Object:
    """`targets` are model names and weights (None: without a weight); None: no targetModels at all."""
    spec: Object = {"modelName": model, "poolRef": {"group": GIE_X, "kind": "InferencePool", "name": pool}}
    spec |= {"criticality": criticality} if criticality else {}
    if targets is not None:
        weights = {target: {} if weight is None else {"weight": weight} for target, weight in targets.items()}
        spec["targetModels"] = [{"name": target} | weight for target, weight in weights.items()]
    meta = metadata(name, namespace, uid=uid, created=created)
    return _shown("InferenceModel", f"{GIE_X}/{version}", meta, spec, status)


def model_rewrite(
    name: str = "qwq",
    *,
    rules: Sequence[Object] = (),
    pool: str = "vllm",
    group: str = GIE_X,
    namespace: str = NAMESPACE,
    uid: str | None = None,
    created: str = CREATED,
    status: Object | None = None,
) -> Object:
    """Of "inference.networking.x-k8s.io" or "llm-d.ai"; `rules` by `rewrite_rule`."""
    spec = {"poolRef": {"group": GIE, "kind": "InferencePool", "name": pool}, "rules": list(rules)}
    meta = metadata(name, namespace, uid=uid, created=created)
    return _shown("InferenceModelRewrite", f"{group}/v1alpha2", meta, spec, status)


def rewrite_rule(models: Sequence[str] = (), targets: Mapping[str, int | None] | None = None) -> Object:
    """Requests for one of these models (none named: every one) go to these targets with these weights."""
    rule: Object = {}
    if models:
        rule["matches"] = [{"model": {"type": "Exact", "value": model}} for model in models]
    if targets is not None:
        weights = {target: {} if weight is None else {"weight": weight} for target, weight in targets.items()}
        rule["targets"] = [{"modelRewrite": target} | weight for target, weight in weights.items()]
    return rule


def inference_objective(
    name: str = "interactive",
    *,
    priority: int | None = 10,
    pool: str = "vllm",
    group: str = GIE_X,
    namespace: str = NAMESPACE,
    uid: str | None = None,
    created: str = CREATED,
    status: Object | None = None,
) -> Object:
    """Of "inference.networking.x-k8s.io" or "llm-d.ai"."""
    spec: Object = {"poolRef": {"group": GIE, "kind": "InferencePool", "name": pool}}
    spec |= {"priority": priority} if priority is not None else {}
    meta = metadata(name, namespace, uid=uid, created=created)
    return _shown("InferenceObjective", f"{group}/v1alpha2", meta, spec, status)


def _shown(kind: str, api_version: str, meta: Object, spec: Object, status: Object | None) -> Object:
    obj: Object = {"apiVersion": api_version, "kind": kind, "metadata": meta, "spec": spec}
    return obj | ({"status": status} if status is not None else {})


def accepted(
    status: str = "True",
    reason: str = "Accepted",
    message: str = "",
    generation: int = 1,
    since: str = CREATED,
) -> Object:
    """The condition that a controller writes."""
    return {
        "lastTransitionTime": since,
        "message": message,
        "observedGeneration": generation,
        "reason": reason,
        "status": status,
        "type": "Accepted",
    }
