"""Where the API server is and how it knows us: from inside a pod, or from a kubeconfig."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from extproc.errors import ConfigError, Fault
from extproc.token_file import REREAD_S, TokenFile

from .failures import MAX_DETAIL, Unavailable

if TYPE_CHECKING:
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts `token`, `ca.crt` and `namespace`."""
DEFAULT_NAMESPACE = "default"
LOAD_TIMEOUT_S = 30.0
"""Of an exec plugin: some talk to a cloud, none waits for a human here."""


class Access(Struct, frozen=True):
    """How to reach the API server.  Holds no secret that could be printed."""

    host: str
    """`https://10.96.0.1:443`, without a slash at its end; may have a path."""
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    """To check the certificate against, where that is not the host's name."""
    proxy: str | None = None


class Credentials(Protocol):
    """Where the API server is and how it knows us."""

    namespace: str
    """Our own."""

    async def access(self) -> tuple[Access, str | None]:
        """Where to, and the `Authorization` header; read again as these change.  Raises Unavailable."""

    def refused(self) -> None:
        """The server did not take these, or we not its certificate: read everything again next time."""


def find_credentials(
    kubeconfig: Path | None = None,
    context: str | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.monotonic,
) -> Credentials:
    """Those of *kubeconfig*, else of $KUBECONFIG, else of the pod that we are in, else of ~/.kube/config.

    Raises ConfigError where there are none, or a kubeconfig is faulty.
    """
    home = Path(environ.get("HOME", "")) / ".kube" / "config"
    if kubeconfig is not None:
        return KubeConfig(str(kubeconfig), context, clock)
    if environ.get("KUBECONFIG"):
        return KubeConfig(environ["KUBECONFIG"], context, clock)
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return InCluster(environ, clock=clock)
    if home.is_file():
        return KubeConfig(str(home), context, clock)
    raise _fault(
        "no credentials: not in a pod (KUBERNETES_SERVICE_HOST), no --kubeconfig, $KUBECONFIG or " + str(home)
    )


class InCluster:
    """The service account of our pod.

    By hand, not by the client library: that is three files, the library costs 38 MB and 0.3 s.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        directory: Path = SERVICE_ACCOUNT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT") or "443"
        self._host = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._directory = directory
        self._token = TokenFile(str(directory / "token"))
        self._clock = clock
        self._access: Access | None = None
        self.namespace = _own_namespace(directory / "namespace")

    async def access(self) -> tuple[Access, str | None]:
        try:
            if self._access is None:
                self._access = Access(self._host, _tls_context(str(self._directory / "ca.crt")))
            return self._access, f"Bearer {self._token.token(self._clock())}"
        except (OSError, ValueError) as error:
            raise Unavailable(f"service account: {error}") from None

    def refused(self) -> None:
        self._token.refused()
        self._access = None


class KubeConfig:
    """A context of one kubeconfig file, or of several joined by colons."""

    def __init__(self, paths: str, context: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._context = context
        self._clock = clock
        self._loader: KubeConfigLoader | None = _loader(paths, context)
        self._loaded: tuple[Access, str | None] | None = None
        self._loaded_at = 0.0
        self._loading = asyncio.Lock()
        self.namespace = _context_namespace(self._loader)

    async def access(self) -> tuple[Access, str | None]:
        async with self._loading:  # one plugin at a time
            if self._loaded is None or self._clock() - self._loaded_at >= REREAD_S:
                self._loaded = await self._load()
                self._loaded_at = self._clock()
            return self._loaded

    def refused(self) -> None:
        self._loader = self._loaded = None

    async def _load(self) -> tuple[Access, str | None]:
        from kubernetes_asyncio.client import Configuration

        try:
            if self._loader is None:
                self._loader = _loader(self._paths, self._context)
            found = Configuration()
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                await self._loader.load_and_set(found)
            return _access(found), _header(found)
        except TimeoutError:
            raise Unavailable(
                f"kubeconfig {self._paths}: no credentials within {LOAD_TIMEOUT_S:g} s"
            ) from None
        except Exception as error:  # the library raises whatever a faulty file makes it stumble over
            raise Unavailable(f"kubeconfig {self._paths}: {_words(error)}") from None


def _loader(paths: str, context: str | None) -> KubeConfigLoader:
    """Reads the files.  Raises ConfigError."""
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader, KubeConfigMerger

    try:
        merged = KubeConfigMerger(paths).config
        if merged is None:
            raise _fault(f"kubeconfig {paths}: no such file")
        return KubeConfigLoader(merged, context, config_base_path=None)
    except ConfigError:
        raise
    except Exception as error:  # see _load
        raise _fault(f"kubeconfig {paths}: {_words(error)}") from None


def _context_namespace(loader: KubeConfigLoader) -> str:
    chosen = loader.current_context or {}
    return str(chosen.get("context", {}).get("namespace") or DEFAULT_NAMESPACE)


def _access(found: Configuration) -> Access:
    """Raises OSError, ValueError."""
    host = str(found.host)
    if not host.startswith(("https://", "http://")):
        raise ValueError(f"server {host!r} is no http or https URL")
    if host.startswith("http://"):
        return Access(host, proxy=found.proxy)
    tls = _tls_context(found.ssl_ca_cert)
    if found.cert_file:
        tls.load_cert_chain(found.cert_file, found.key_file)
    if not found.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return Access(host, tls, found.tls_server_name, found.proxy)


def _header(found: Configuration) -> str | None:
    header = found.api_key.get("BearerToken")
    if header is None:
        return None
    scheme, _, secret = header.partition(" ")
    secret = secret.strip()  # files end in a newline
    if not secret or not all(0x21 <= ord(char) <= 0x7E for char in secret):
        raise ValueError("the token is not one line of visible ASCII")
    return f"{scheme} {secret}"


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Verifies the server by *ca_file*, else by the system's authorities.  Raises OSError."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # an SSLError too: the file's name is not in it
        raise OSError(f"{ca_file}: {error.strerror or error}") from None
    # On by default from Python 3.13; many clusters' authorities lack the key identifier that it asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _own_namespace(path: Path) -> str:
    try:
        return path.read_text().strip() or DEFAULT_NAMESPACE
    except OSError:
        return DEFAULT_NAMESPACE


def _words(error: Exception) -> str:
    """What the library says, up to the first brace: it quotes whole entries of the file, tokens too."""
    text = " ".join(str(error).split("{", 1)[0].split())
    return f"{type(error).__name__}: {text[:MAX_DETAIL]}"


def _fault(text: str) -> ConfigError:
    return ConfigError([Fault("kubernetes", text)])
