"""The kinds of object that the played API server knows, and what its discovery pages say of them.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/ and the CRDs of the Inference Extension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ALL_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
GIE_X = "inference.networking.x-k8s.io"


@dataclass(frozen=True)
class Kind:
    """One kind of object, in every version in which it may be served.

    Attributes:
        custom: by a CRD: its objects carry kind and apiVersion inside lists, and cannot be updated without a
            resourceVersion.
        status: it has the `/status` subresource.
        counted: `metadata.generation` counts the changes of its specification.
        blind_update: a PUT without resourceVersion overwrites.
    """

    group: str
    versions: tuple[str, ...]
    plural: str
    name: str
    namespaced: bool = True
    custom: bool = False
    status: bool = False
    counted: bool = False
    blind_update: bool = False
    short: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return (self.group, self.plural)

    @property
    def qualified(self) -> str:
        """As Kubernetes' messages write it: `pods`, `leases.coordination.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def api_version(self, version: str) -> str:
        return f"{self.group}/{version}" if self.group else version

    def status_fields(self, version: str) -> tuple[str, ...]:
        """What a custom kind's schema has in its status; anything else is dropped without a word."""
        if self.name != "InferencePool":
            return ("conditions",)
        return {"v1": ("parents",), "v1alpha2": ("parent",), "v1alpha1": ("conditions",)}[version]

    def discovered(self) -> list[dict[str, Any]]:
        """Its entries of an APIResourceList."""
        entry: dict[str, Any] = {
            "name": self.plural,
            "singularName": self.name.lower(),
            "namespaced": self.namespaced,
            "kind": self.name,
            "verbs": ALL_VERBS,
        }
        if self.short:
            entry["shortNames"] = list(self.short)
        status = entry | {
            "name": f"{self.plural}/status",
            "singularName": "",
            "verbs": ["get", "patch", "update"],
        }
        status.pop("shortNames", None)
        return [entry, status] if self.status else [entry]


def _custom(group: str, versions: tuple[str, ...], name: str, short: tuple[str, ...] = ()) -> Kind:
    plural = name.lower() + "s"
    return Kind(group, versions, plural, name, custom=True, status=True, counted=True, short=short)


BUILT_IN = (
    Kind("", ("v1",), "pods", "Pod", status=True, counted=True, blind_update=True, short=("po",)),
    Kind("", ("v1",), "services", "Service", status=True, blind_update=True, short=("svc",)),
    Kind(
        "",
        ("v1",),
        "namespaces",
        "Namespace",
        namespaced=False,
        status=True,
        blind_update=True,
        short=("ns",),
    ),
    Kind("", ("v1",), "nodes", "Node", namespaced=False, status=True, blind_update=True, short=("no",)),
    Kind("", ("v1",), "configmaps", "ConfigMap", blind_update=True, short=("cm",)),
    Kind("discovery.k8s.io", ("v1",), "endpointslices", "EndpointSlice", counted=True, blind_update=True),
    Kind("coordination.k8s.io", ("v1",), "leases", "Lease"),
)
CUSTOM = (
    _custom("inference.networking.k8s.io", ("v1",), "InferencePool", ("infpool",)),
    _custom(GIE_X, ("v1alpha2", "v1alpha1"), "InferencePool"),
    _custom(GIE_X, ("v1alpha2", "v1alpha1"), "InferenceModel"),
    _custom(GIE_X, ("v1alpha2",), "InferenceModelRewrite"),
    _custom(GIE_X, ("v1alpha2",), "InferenceObjective"),
    _custom("llm-d.ai", ("v1alpha2",), "InferenceModelRewrite"),
    _custom("llm-d.ai", ("v1alpha2",), "InferenceObjective"),
)


NAMESPACES = next(kind for kind in BUILT_IN if kind.name == "Namespace")


class Registry:
    """What is installed now: kinds, each with the versions that are served."""

    def __init__(self, crds: list[str] | None = None) -> None:
        self._kinds = {kind.key: kind for kind in BUILT_IN + CUSTOM}
        served = [*BUILT_IN, *(kind for kind in CUSTOM if crds is None or kind.qualified in crds)]
        self._served = {
            key: list(kind.versions) if kind in served else [] for key, kind in self._kinds.items()
        }

    def install(self, crd: str, *versions: str) -> None:
        """Serves these versions of a CRD (named `PLURAL.GROUP`), all known ones where none is given."""
        kind = self._named(crd)
        added = [version for version in versions or kind.versions if version not in self._served[kind.key]]
        self._served[kind.key] += added

    def uninstall(self, crd: str, *versions: str) -> Kind:
        """Serves these versions no more, or none at all where none is given."""
        kind = self._named(crd)
        gone = versions or kind.versions
        self._served[kind.key] = [version for version in self._served[kind.key] if version not in gone]
        return kind

    def serves(self, kind: Kind) -> bool:
        return bool(self._served[kind.key])

    def _named(self, crd: str) -> Kind:
        plural, _, group = crd.partition(".")
        return self._kinds[group, plural]

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        kind = self._kinds.get((group, plural))
        return kind if kind and version in self._served[kind.key] else None

    def of_object(self, obj: dict[str, Any]) -> Kind:
        """The kind that an object's own apiVersion and kind name; LookupError where it is not installed."""
        group, _, version = obj["apiVersion"].rpartition("/")
        for kind in self._kinds.values():
            if kind.name == obj["kind"] and kind.group == group and version in self._served[kind.key]:
                return kind
        raise LookupError(f"{obj['apiVersion']} {obj['kind']} is not installed")

    def named(self, name: str) -> list[Kind]:
        """The kinds that a test may mean by `pods`, `Pod`, or `inferencepools.inference.networking.k8s.io`."""
        kinds = [kind for kind in self._kinds.values() if name in (kind.plural, kind.name, kind.qualified)]
        if not kinds:
            raise LookupError(f"no kind is called {name}")
        return kinds

    def known_group(self, group: str, version: str) -> bool:
        return any(kind.group == group and version in self._served[kind.key] for kind in self._kinds.values())

    def resource_list(self, group: str, version: str) -> dict[str, Any]:
        kinds = [k for k in self._kinds.values() if k.group == group and version in self._served[k.key]]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/{version}" if group else version,
            "resources": [entry for kind in kinds for entry in kind.discovered()],
        }

    def group_list(self) -> dict[str, Any]:
        groups: dict[str, list[str]] = {}
        for kind in self._kinds.values():
            if kind.group:
                known = groups.setdefault(kind.group, [])
                known += [version for version in self._served[kind.key] if version not in known]
        described = [_group(name, versions) for name, versions in groups.items() if versions]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": described}

    def group(self, name: str) -> dict[str, Any] | None:
        groups = self.group_list()["groups"]
        found = next((group for group in groups if group["name"] == name), None)
        return {"kind": "APIGroup", "apiVersion": "v1", **found} if found else None


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    described = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": described, "preferredVersion": described[0]}
