"""Objects as a cluster shows them (`kubectl get -o yaml --show-managed-fields`), with what nobody here reads.

Pods are in `pods`, the Inference Extension's kinds in `inference`; all can be had here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .inference import (
    accepted,
    inference_model,
    inference_objective,
    inference_pool,
    model_rewrite,
    rewrite_rule,
)
from .meta import (
    CREATED,
    NAMESPACE,
    SLICE_CONTROLLER,
    VLLM_LABELS,
    Object,
    condition,
    metadata,
    owned_by,
    padded,
    uid_of,
)
from .pods import pod

__all__ = [
    "accepted",
    "config_map",
    "endpoint",
    "endpoint_slice",
    "inference_model",
    "inference_objective",
    "inference_pool",
    "lease",
    "model_rewrite",
    "node",
    "padded",
    "pod",
    "rewrite_rule",
    "service",
    "service_port",
    "uid_of",
]


def endpoint_slice(
    name: str = "vllm-x7k2p",
    *,
    service: str = "vllm",
    endpoints: Sequence[Object] = (),
    ports: Mapping[str, int] | None = None,
    address_type: str = "IPv4",
    namespace: str = NAMESPACE,
    labels: Mapping[str, str] | None = None,
) -> Object:
    """A slice of a Service, as the EndpointSlice controller writes it; `endpoints` by `endpoint`."""
    own = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": SLICE_CONTROLLER}
    meta = metadata(name, namespace, labels=own | dict(labels or {}), managers=("kube-controller-manager",))
    meta["generateName"] = service + "-"
    meta["annotations"] = {"endpoints.kubernetes.io/last-change-trigger-time": CREATED}
    meta["ownerReferences"] = [owned_by("v1", "Service", service)]
    numbered = {"http": 8000} if ports is None else ports
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": address_type,
        "endpoints": list(endpoints),
        "ports": [{"name": name, "port": number, "protocol": "TCP"} for name, number in numbered.items()],
    }


def endpoint(
    ip: str = "10.0.0.1",
    pod: str = "vllm-0",
    *,
    ready: bool = True,
    serving: bool | None = None,
    terminating: bool = False,
    node: str = "node-a",
    zone: str | None = "eu-central-1a",
    namespace: str = NAMESPACE,
    uid: str = "",
) -> Object:
    """One endpoint of a slice. A terminating one is not ready, but serves as long as its probe succeeds."""
    conditions = {"ready": ready and not terminating, "serving": ready if serving is None else serving}
    target = {"kind": "Pod", "name": pod, "namespace": namespace, "uid": uid or uid_of(pod)}
    one = {"addresses": [ip], "conditions": conditions | {"terminating": terminating}, "nodeName": node}
    return one | {"targetRef": target} | ({"zone": zone} if zone else {})


def service(
    name: str = "vllm",
    *,
    selector: Mapping[str, str] | None = VLLM_LABELS,
    ports: Sequence[Object] | None = None,
    namespace: str = NAMESPACE,
    cluster_ip: str = "10.96.12.7",
    families: Sequence[str] = ("IPv4",),
) -> Object:
    """A ClusterIP Service (cluster_ip "None": headless)."""
    spec: Object = {
        "clusterIP": cluster_ip,
        "clusterIPs": [cluster_ip],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": list(families),
        "ipFamilyPolicy": "SingleStack" if len(families) == 1 else "PreferDualStack",
        "ports": list(ports) if ports is not None else [service_port()],
    }
    spec |= {"selector": dict(selector)} if selector is not None else {}
    spec |= {"sessionAffinity": "None", "type": "ClusterIP"}
    meta = metadata(name, namespace, labels={"app": name})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": spec,
        "status": {"loadBalancer": {}},
    }


def service_port(port: int = 80, target: int | str = "http", name: str = "http") -> Object:
    return {"name": name, "port": port, "protocol": "TCP", "targetPort": target}


def node(name: str = "node-a", *, labels: Mapping[str, str] | None = None, ready: bool = True) -> Object:
    """A GPU node with the labels that clouds give."""
    own = {
        "beta.kubernetes.io/arch": "amd64",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "g6e.12xlarge",
        "nvidia.com/gpu.product": "NVIDIA-L40S",
        "topology.kubernetes.io/region": "eu-central-1",
        "topology.kubernetes.io/zone": "eu-central-1a",
    }
    capacity = {"cpu": "48", "memory": "384Gi", "nvidia.com/gpu": "4", "pods": "110"}
    status = {
        "addresses": [
            {"address": "192.168.1.10", "type": "InternalIP"},
            {"address": name, "type": "Hostname"},
        ],
        "allocatable": capacity,
        "capacity": capacity,
        "conditions": [condition("Ready", ready)],
        "nodeInfo": {"architecture": "amd64", "kubeletVersion": "v1.33.1", "operatingSystem": "linux"},
    }
    meta = metadata(
        name, None, labels=own | dict(labels or {}), managers=("kubelet", "kube-controller-manager")
    )
    spec = {
        "podCIDR": "10.0.0.0/24",
        "podCIDRs": ["10.0.0.0/24"],
        "providerID": f"aws:///eu-central-1a/{name}",
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": spec, "status": status}


def lease(
    name: str = "extproc",
    *,
    holder: str | None = "extproc-7d4b9c8f6d-abcde",
    renewed: str = "2026-05-04T10:00:00.123456Z",
    acquired: str = "2026-05-04T09:00:00.000001Z",
    lasts_s: int = 15,
    transitions: int = 0,
    namespace: str = NAMESPACE,
) -> Object:
    """A Lease as leader election writes it; its times have microseconds. Holder None: given back."""
    spec: Object = {"acquireTime": acquired, "leaseDurationSeconds": lasts_s, "leaseTransitions": transitions}
    spec |= {"holderIdentity": holder} if holder is not None else {}
    spec["renewTime"] = renewed
    meta = metadata(name, namespace, managers=("extproc",))
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def config_map(
    name: str = "extproc", data: Mapping[str, str] | None = None, *, namespace: str = NAMESPACE
) -> Object:
    meta = metadata(name, namespace)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": dict(data or {})}
