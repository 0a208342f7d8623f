"""Pods as a cluster shows them (`kubectl get -o yaml --show-managed-fields`), with what nobody here reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .meta import CREATED, NAMESPACE, VLLM_LABELS, Object, condition, hashed, metadata, owned_by


def pod(
    name: str = "vllm-0",
    ip: str | None = "10.0.0.1",
    *,
    namespace: str = NAMESPACE,
    labels: Mapping[str, str] = VLLM_LABELS,
    annotations: Mapping[str, str] | None = None,
    ips: Sequence[str] | None = None,
    ready: bool = True,
    phase: str = "Running",
    terminating: bool = False,
    ports: Mapping[str, int] | None = None,
    node: str | None = "node-a",
    uid: str | None = None,
    created: str = CREATED,
    host_network: bool = False,
) -> Object:
    """A vLLM pod of a Deployment. `ips` are all its addresses (dual stack), the first its primary one; `ports` are
    names and numbers of its container's ports; node None: not scheduled yet."""
    addresses = list(ips) if ips is not None else [ip] if ip else []
    meta = metadata(
        name,
        namespace,
        labels={**labels, "pod-template-hash": hashed("template")},
        annotations=annotations,
        uid=uid,
        created=created,
        managers=("kube-controller-manager", "kubelet"),
    )
    meta["generateName"] = name.rsplit("-", 1)[0] + "-"
    owner = name.rsplit("-", 1)[0]
    meta["ownerReferences"] = [owned_by("apps/v1", "ReplicaSet", owner + "-" + hashed("template"))]
    if terminating:
        meta |= {"deletionTimestamp": "2026-05-04T10:00:30Z", "deletionGracePeriodSeconds": 30}
    token = _token_volume(name)
    spec: Object = {
        "containers": [_container(ports if ports is not None else {"http": 8000}, token["name"])],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "serviceAccount": "default",
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30,
        "tolerations": _tolerations(),
        "volumes": [
            {"emptyDir": {"medium": "Memory", "sizeLimit": "30Gi"}, "name": "dshm"},
            token,
        ],
    }
    spec |= {"nodeName": node} if node else {}
    spec |= {"hostNetwork": True} if host_network else {}
    status = _pod_status(addresses, ready, phase, node)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}


def _container(ports: Mapping[str, int], token_volume: str) -> Object:
    probe = {"failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1}
    mounts = [
        {"mountPath": "/dev/shm", "name": "dshm"},
        {
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            "name": token_volume,
            "readOnly": True,
        },
    ]
    return {
        "args": [
            "vllm serve /models/QwQ-32B --port 8000 --served-model-name qwq-32b --tensor-parallel-size 4"
        ],
        "command": ["sh", "-c"],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}
        ],
        "image": "vllm/vllm-openai:v0.11.0",
        "imagePullPolicy": "IfNotPresent",
        "name": "vllm",
        "ports": [
            {"containerPort": number, "name": name, "protocol": "TCP"} for name, number in ports.items()
        ],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000, "scheme": "HTTP"}, **probe},
        "resources": {"limits": {"nvidia.com/gpu": "4"}, "requests": {"nvidia.com/gpu": "4"}},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
    }


def _tolerations() -> list[Object]:
    taints = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    return [
        {"effect": "NoExecute", "key": key, "operator": "Exists", "tolerationSeconds": 300} for key in taints
    ]


def _token_volume(name: str) -> Object:
    token = {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    ca = {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}}
    return {
        "name": "kube-api-access-" + hashed(name, 5),
        "projected": {"defaultMode": 420, "sources": [token, ca]},
    }


def _pod_status(addresses: Sequence[str], ready: bool, phase: str, node: str | None) -> Object:
    conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
    holds = {"Ready": ready, "ContainersReady": ready, "PodScheduled": node is not None}
    status: Object = {"conditions": [condition(name, holds.get(name, True)) for name in conditions]}
    if node and phase == "Running":
        status["containerStatuses"] = [_container_status(ready)]
        status |= {"hostIP": "192.168.1.10", "hostIPs": [{"ip": "192.168.1.10"}]}
    status["phase"] = phase
    if addresses:
        status |= {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
    return status | {"qosClass": "BestEffort", "startTime": CREATED}


def _container_status(ready: bool) -> Object:
    return {
        "containerID": "containerd://" + hashed("container", 64),
        "image": "docker.io/vllm/vllm-openai:v0.11.0",
        "imageID": "docker.io/vllm/vllm-openai@sha256:" + hashed("image", 64),
        "lastState": {},
        "name": "vllm",
        "ready": ready,
        "restartCount": 0,
        "started": True,
        "state": {"running": {"startedAt": CREATED}},
    }
