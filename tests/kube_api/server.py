"""Plays Kubernetes' API server over real HTTP, and what can go wrong with it.

`async with KubeApi() as api:` listens in the test's own event loop. `api.put` and `api.delete` play everyone else
who writes to the cluster; the faults (`faults`) play its bad days.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from .credentials import Authority, kubeconfig, write_kubeconfig, write_service_account
from .http import Api
from .resources import Kind, Registry
from .store import Store, Stored
from .writes import Writes

BOUND_S = 20.0
"""How long a test waits for what must happen."""
_LOOK_S = 0.005
"""How often a test looks whether it happened."""
LARGEST_BODY_BYTES = 3 * 1024 * 1024
"""Kubernetes' own limit for one request."""


@dataclass(frozen=True)
class Request:
    """A request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class KubeApi(Api):
    """An API server on loopback.

    Args:
        host: "127.0.0.1" or "::1".
        window: changes of a collection that are remembered; older revisions get 410.
        crds: the CRDs that are installed ("inferencemodels.inference.networking.x-k8s.io"), None: all known.
        tls: serves https with a certificate of its own authority, and takes client certificates of it as
            credentials. With `tokens` set and empty, nothing else is taken.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        window: int = 2000,
        crds: list[str] | None = None,
        tls: bool = False,
    ) -> None:
        super().__init__(Registry(crds), Writes(Store(self._publish, window)))
        for namespace in ("default", "kube-system", "llm"):
            self.writes.ensure_namespace(namespace)
        self.host = host
        self.port = port
        self.requests: list[Request] = []
        self.authority = Authority() if tls else None
        self._tls = self.authority.server_context() if self.authority else None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens; after a `stop`, on the same port and with the same objects."""
        app = web.Application(client_max_size=LARGEST_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._logged)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        listener = socket.create_server(
            (self.host, self.port), family=socket.AF_INET6 if ":" in self.host else socket.AF_INET
        )
        self.port = listener.getsockname()[1]
        await web.SockSite(self._runner, listener, ssl_context=self._tls).start()

    async def stop(self) -> None:
        """Listens no more, and every connection breaks."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self.drop_watches()
        await runner.cleanup()

    async def _logged(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(
            Request(request.method, request.path, dict(request.query), dict(request.headers))
        )
        return await self.answer(request)

    def install(self, crd: str, *versions: str) -> None:
        """A CRD ("inferencemodels.inference.networking.x-k8s.io") is applied, with these or all versions."""
        self.registry.install(crd, *versions)

    def uninstall(self, crd: str, *versions: str) -> None:
        """A CRD is deleted, and with it its objects and watches; or only some versions are served no more."""
        kind = self.registry.uninstall(crd, *versions)
        if not self.registry.serves(kind):
            self.store.drop_kind(kind)
        for watch in [watch for watch in self.watches if watch.kind is kind]:
            if not self.registry.find(kind.group, watch.version, kind.plural):
                watch.end()

    def put(self, *objects: dict[str, Any]) -> dict[str, Any]:
        """Creates or replaces objects, status included; answers with the last one as it is stored now.

        What an object leaves out (uid, creationTimestamp, generation) is filled in; one with another uid than the
        object of that name is a new object. A put that changes nothing is no event.
        """
        stored: dict[str, Any] = {}
        for obj in objects:
            kind = self.registry.of_object(obj)
            version = obj["apiVersion"].rpartition("/")[2]
            stored = self.writes.place(kind, obj).typed(version)
        return stored

    def delete(self, resource: str, namespace: str, name: str) -> None:
        """Takes an object away at once. `resource`: "pods", "Pod", or with its group where two have that plural."""
        kind, _found = self._find(resource, namespace, name)
        self.store.remove(kind, namespace, name)

    def terminate(self, namespace: str, pod: str, grace_s: int = 30) -> None:
        """A pod is told to end: it has a deletionTimestamp until it is deleted."""
        _kind, stored = self._find("pods", namespace, pod)
        self.writes.mark_deleted(stored, grace_s)

    def get(self, resource: str, namespace: str, name: str) -> dict[str, Any]:
        """An object as it is stored now; LookupError where there is none."""
        kind, stored = self._find(resource, namespace, name)
        return stored.typed(kind.versions[0])

    def objects(self, resource: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        return [
            stored.typed(kind.versions[0])
            for kind in self.registry.named(resource)
            for stored in self.store.select(kind, lambda _obj: True)
        ]

    def _find(self, resource: str, namespace: str, name: str) -> tuple[Kind, Stored]:
        for kind in self.registry.named(resource):
            found = self.store.get(kind, namespace, name)
            if found:
                return kind, found
        raise LookupError(f"no {resource} {namespace}/{name}")

    def kubeconfig(
        self,
        path: Path,
        *,
        token: str | None = None,
        token_file: Path | None = None,
        client_certificate: bool = False,
        namespace: str | None = "llm",
        insecure: bool = False,
    ) -> Path:
        """Writes a kubeconfig that leads here, with these credentials; answers with its path."""
        client = self.authority.client() if client_certificate and self.authority else None
        config = kubeconfig(
            self.url,
            self.authority,
            token=token,
            token_file=token_file,
            client=client,
            namespace=namespace,
            insecure=insecure,
        )
        write_kubeconfig(path, config)
        return path

    def service_account(self, directory: Path, token: str, namespace: str = "llm") -> dict[str, str]:
        """Writes what a pod finds at /var/run/secrets/kubernetes.io/serviceaccount; answers with the environment
        that goes with it. Once more with another token: the kubelet rotates it."""
        write_service_account(directory, token, self.authority.pem if self.authority else b"", namespace)
        return {"KUBERNETES_SERVICE_HOST": self.host, "KUBERNETES_SERVICE_PORT": str(self.port)}

    async def until(self, condition: Callable[[], object], timeout_s: float = BOUND_S) -> None:
        """Waits until the condition is true; TimeoutError with the latest requests where it never is."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not condition():
            if loop.time() > deadline:
                latest = "\n".join(f"{one.method} {one.path} {one.query}" for one in self.requests[-10:])
                raise TimeoutError(f"never so; watching {self.watching}; latest requests:\n{latest}")
            await asyncio.sleep(_LOOK_S)

    def asked(self, method: str = "", path: str = "", **query: str) -> list[Request]:
        """The requests with this method, this in their path, and these query parameters."""
        return [
            one
            for one in self.requests
            if method in ("", one.method) and path in one.path and query.items() <= one.query.items()
        ]
