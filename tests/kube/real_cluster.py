"""A real kube-apiserver over a real etcd, on loopback: no scheduler, no kubelet, no controllers; tests play those."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from kube_api.credentials import HOSTS, Authority, kubeconfig, write_kubeconfig

from extproc.demo.process import ChildProcess

Object = dict[str, Any]
ADMIN = "the-admin's-token"
READY_S = 40.0
"""The API server makes its first objects; on a busy machine that takes ten seconds and more."""
BOUND_S = 20.0
_LOOK_S = 0.05
_CORE = {"Pod": "pods", "Node": "nodes", "Namespace": "namespaces", "ServiceAccount": "serviceaccounts"}
_CORE |= {"Service": "services", "ConfigMap": "configmaps"}
_CLUSTER_WIDE = {"Node", "Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
_AUDIT = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}
_AUDIT |= {"omitStages": ["RequestReceived"]}


class Refused(Exception):
    """The API server did not do what was asked; its Status."""

    def __init__(self, code: int, status: Any) -> None:
        super().__init__(code, status)
        self.code = code
        self.status = status


class RealCluster:
    """`async with RealCluster(apiserver, etcd, directory) as cluster:`; all methods act as the cluster's admin."""

    def __init__(self, apiserver: str, etcd: str, directory: Path) -> None:
        self._program = apiserver
        self._directory = directory
        self._authority = Authority()
        self._etcd_port, peer_port, self.port, self._other_port = _free_ports(4)
        self._url = f"https://127.0.0.1:{self.port}"
        self._etcd = ChildProcess("etcd", _etcd_argv(etcd, directory, self._etcd_port, peer_port), directory)
        self._server: ChildProcess | None = None
        self._starts = 0
        self._session: aiohttp.ClientSession | None = None
        self._write_files()

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context(cadata=self._authority.pem.decode())
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, force_close=True),
            headers={"Authorization": f"Bearer {ADMIN}"},
            timeout=aiohttp.ClientTimeout(total=BOUND_S),
        )
        try:
            self._etcd.start()
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()
        await asyncio.to_thread(self._etcd.stop)
        if self._session is not None:
            await self._session.close()

    # -- the server -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Until it says that it is ready; after `stop`, on the same port and with the same objects."""
        self._server = await self._started(self.port)

    async def stop(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)
            self._server = None

    @asynccontextmanager
    async def another(self) -> AsyncIterator[None]:
        """A second API server over the same etcd, of which only the admin knows, who talks to it meanwhile."""
        usual, self._url = self._url, f"https://127.0.0.1:{self._other_port}"
        server = await self._started(self._other_port)
        try:
            yield
        finally:
            self._url = usual
            await asyncio.to_thread(server.stop)

    async def _started(self, port: int) -> ChildProcess:
        self._starts += 1
        server = ChildProcess(f"kube-apiserver-{self._starts}", self._argv(port), self._directory)
        server.start()
        try:
            await self.until(lambda: self._is_ready(server, port), READY_S)
        except BaseException:
            server.stop()
            raise
        return server

    async def _is_ready(self, server: ChildProcess, port: int) -> bool:
        assert self._session is not None
        assert server.running, server.err.read_text()[-2000:]
        try:
            async with self._session.get(f"https://127.0.0.1:{port}/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def compact(self) -> None:
        """etcd forgets all revisions but the latest."""
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self._etcd_port}") as etcd:
            async with etcd.post("/v3/kv/range", json={"key": "AA=="}) as answer:
                revision = (await answer.json(content_type=None))["header"]["revision"]
            async with etcd.post("/v3/kv/compaction", json={"revision": revision}) as answer:
                assert answer.status == 200, await answer.text()

    def _argv(self, port: int) -> list[str]:
        there = self._directory
        return [
            self._program,
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={there}",
            f"--tls-cert-file={there / 'server.crt'}",
            f"--tls-private-key-file={there / 'server.key'}",
            f"--token-auth-file={there / 'tokens.csv'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--service-account-key-file={there / 'accounts.key'}",
            f"--service-account-signing-key-file={there / 'accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",  # it waits for a controller that gives accounts tokens
            f"--audit-policy-file={there / 'audit.yaml'}",
            f"--audit-log-path={there / f'audit-{self._starts}.log'}",
        ]

    def _write_files(self) -> None:
        there = self._directory
        pair = self._authority.issue("kube-apiserver", ExtendedKeyUsageOID.SERVER_AUTH, HOSTS)
        (there / "server.crt").write_bytes(pair.certificate)
        (there / "server.key").write_bytes(pair.key)
        key = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        (there / "accounts.key").write_bytes(key)
        (there / "tokens.csv").write_text(f'{ADMIN},admin,admin,"system:masters"\n')
        (there / "audit.yaml").write_text(json.dumps(_AUDIT))

    # -- its objects ----------------------------------------------------------------------------------------------

    async def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Any:
        """The answer's JSON, or text. Raises Refused."""
        assert self._session is not None
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        async with self._session.request(method, self._url + path, data=content, headers=headers) as answer:
            text = await answer.text()
            said = json.loads(text) if answer.content_type == "application/json" else text
            if answer.status >= 400:
                raise Refused(answer.status, said)
            return said

    async def create(self, *objects: Object) -> Object:
        """Each, and then its status where it has one; answers with the last."""
        made: Object = {}
        for obj in objects:
            made = await self.request("POST", collection(obj), obj)
            if obj.get("status") and obj["kind"] != "CustomResourceDefinition":
                path = f"{collection(obj)}/{obj['metadata']['name']}/status"
                made = await self.request("PUT", path, obj)
        return made

    async def get(self, obj: Object) -> Any:
        return await self.request("GET", path_of(obj))

    async def patch(self, obj: Object, patch: Object, subresource: str = "") -> Any:
        return await self.request("PATCH", path_of(obj, subresource), patch, "application/merge-patch+json")

    async def delete(self, obj: Object, grace_s: int | None = None) -> Any:
        options = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        return await self.request("DELETE", path_of(obj), options)

    async def install(self, *crds: Object) -> None:
        """Until they are served."""
        for crd in crds:
            await self.create(crd)
        for crd in crds:
            group, names = crd["spec"]["group"], crd["spec"]["names"]
            for version in crd["spec"]["versions"]:
                await self.until(lambda v=version, g=group, n=names: self._serves(g, v["name"], n["plural"]))

    async def _serves(self, group: str, version: str, plural: str) -> bool:
        try:
            await self.request("GET", f"/apis/{group}/{version}/{plural}")
        except Refused:
            return False
        return True

    async def token(self, namespace: str, account: str) -> str:
        """As the kubelet asks for it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        said = await self.request("POST", path, asked)
        token: str = said["status"]["token"]
        return token

    def kubeconfig(self, path: Path, token_file: Path, namespace: str = "llm") -> Path:
        url = f"https://127.0.0.1:{self.port}"
        write_kubeconfig(path, kubeconfig(url, self._authority, token_file=token_file, namespace=namespace))
        return path

    def asked_by(self, namespace: str) -> list[Object]:
        """The requests so far of our account in that namespace, from the audit logs of all servers."""
        logs = sorted(self._directory.glob("audit-*.log"))
        lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        account = f"system:serviceaccount:{namespace}:extproc"
        return [line for line in lines if line["user"].get("username") == account]

    async def until(self, condition: Callable[[], Any], timeout_s: float = BOUND_S) -> Any:
        """What *condition* answers once that is true."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            found = await condition()
            if found:
                return found
            assert loop.time() < deadline, f"never so; it was {found!r}"
            await asyncio.sleep(_LOOK_S)


def collection(obj: Object) -> str:
    """Where objects like this one are."""
    version, kind, namespace = obj["apiVersion"], obj["kind"], obj["metadata"].get("namespace", "default")
    plural = _CORE.get(kind) or (f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s")
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{base}/{plural}" if kind in _CLUSTER_WIDE else f"{base}/namespaces/{namespace}/{plural}"


def path_of(obj: Object, subresource: str = "") -> str:
    path = f"{collection(obj)}/{obj['metadata']['name']}"
    return f"{path}/{subresource}" if subresource else path


def _etcd_argv(etcd: str, directory: Path, port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    urls = [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
    peers = [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
    return [etcd, f"--data-dir={directory / 'etcd'}", *urls, *peers, f"--initial-cluster=default={peer}"]


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
