"""Which objects to follow: one collection of the Kubernetes API."""

from __future__ import annotations

from urllib.parse import quote

from msgspec import Struct


class Resource(Struct, frozen=True):
    """One collection."""

    group: str
    """"" is the core group."""
    version: str
    plural: str
    namespace: str | None
    """None: cluster-scoped, or of all namespaces."""
    kind: type[Struct]
    """What an object decodes to; it has `metadata: ObjectMeta`."""
    label_selector: str = ""
    field_selector: str = ""

    @property
    def path(self) -> str:
        """Of the URL.  Names are escaped: some come from objects that others write."""
        base = f"/apis/{quote(self.group, safe='')}" if self.group else "/api"
        scope = "" if self.namespace is None else f"/namespaces/{quote(self.namespace, safe='')}"
        return f"{base}/{quote(self.version, safe='')}{scope}/{quote(self.plural, safe='')}"

    def path_of(self, name: str, subresource: str = "") -> str:
        path = f"{self.path}/{quote(name, safe='')}"
        return f"{path}/{subresource}" if subresource else path

    @property
    def selectors(self) -> dict[str, str]:
        """Query parameters that narrow a list or watch."""
        given = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: value for name, value in given.items() if value}

    @property
    def title(self) -> str:
        """As kubectl names it: `pods`, `inferencepools.inference.networking.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def full_title(self) -> str:
        """With the version, as kubectl takes it too: `inferencepools.v1.inference.networking.k8s.io`."""
        return f"{self.plural}.{self.version}.{self.group}" if self.group else self.plural

    @property
    def scope(self) -> str:
        return "cluster-wide" if self.namespace is None else f"in namespace {self.namespace}"

    def __str__(self) -> str:
        return f"{self.full_title} {self.scope}"
