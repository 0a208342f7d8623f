"""Where credentials come from: kubeconfig variants, plugins, the pod's service account."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kube_api.credentials import Authority, kubeconfig, write_kubeconfig, write_service_account

from extproc.errors import ConfigError
from extproc.kube.credentials import InCluster, KubeConfig, find_credentials
from extproc.kube.failures import Unavailable
from extproc.token_file import REREAD_S

URL = "http://127.0.0.1:1"


def config(path: Path, **parts: Any) -> Path:
    """A kubeconfig; `user`, `cluster`: what to add to these."""
    user, cluster = parts.pop("user", {}), parts.pop("cluster", {})
    content = kubeconfig(parts.pop("server", URL), None, **parts)
    content["users"][1]["user"] |= user
    content["clusters"][1]["cluster"] |= cluster
    write_kubeconfig(path, content)
    return path


def plugin(path: Path, answer: str) -> dict[str, Any]:
    """An exec plugin that counts its calls in *path*.calls and answers with this Python expression."""
    path.write_text(
        "import json, pathlib, sys\n"
        f"calls = pathlib.Path({str(path)!r} + '.calls')\n"
        "calls.write_text((calls.read_text() if calls.exists() else '') + '.')\n"
        "number = len(calls.read_text())\n"
        f"{answer}\n"
    )
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": sys.executable, "args": [str(path)]}}


PRINT = "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential', 'status': %s}))"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def header(credentials: Any) -> str | None:
    _, authorization = await credentials.access()
    assert authorization is None or isinstance(authorization, str)
    return authorization


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({}, None),
        ({"token": "secret"}, "Bearer secret"),
        ({"username": "me", "password": "pw"}, "Basic bWU6cHc="),
    ],
)
async def test_how_a_kubeconfig_knows_us(tmp_path: Path, user: dict[str, Any], expected: str | None) -> None:
    credentials = find_credentials(config(tmp_path / "config", user=user))
    assert (credentials.namespace, await header(credentials)) == ("llm", expected)
    access, _ = await credentials.access()
    assert (access.host, access.tls, access.server_name, access.proxy) == (URL, None, None, None)


async def test_a_token_file_is_read_again_after_a_while_and_when_refused(tmp_path: Path) -> None:
    token, clock = tmp_path / "token", Clock()
    token.write_text("one\n")
    credentials = KubeConfig(str(config(tmp_path / "config", token_file=token)), None, clock)
    assert await header(credentials) == "Bearer one"
    token.write_text("two\n")
    assert await header(credentials) == "Bearer one"
    clock.now += REREAD_S
    assert await header(credentials) == "Bearer two"
    token.write_text("three\n")
    credentials.refused()
    assert await header(credentials) == "Bearer three"


async def test_a_plugins_token_is_used_until_it_ends_or_is_refused(tmp_path: Path) -> None:
    clock = Clock()
    status = "{'token': f't{number}', 'expirationTimestamp': '2999-01-01T00:00:00Z'}"
    path = config(tmp_path / "config", user=plugin(tmp_path / "plugin.py", PRINT % status))
    credentials = KubeConfig(str(path), None, clock)
    assert await header(credentials) == "Bearer t1"
    clock.now += REREAD_S
    assert await header(credentials) == "Bearer t1"
    credentials.refused()
    assert await header(credentials) == "Bearer t2"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("sys.exit('no session, log in')", "exec: process returned 1. no session, log in"),
        ("print('hello')", "exec: failed to decode process output"),
        (PRINT % "{}", "exec"),
        (PRINT % "{'token': 'two\\nlines'}", "the token is not one line of visible ASCII"),
    ],
)
async def test_a_plugin_that_fails_is_quoted(tmp_path: Path, answer: str, words: str) -> None:
    path = config(tmp_path / "config", user=plugin(tmp_path / "plugin.py", answer))
    if words == "exec":  # neither token nor certificate: the server says the rest
        assert await header(find_credentials(path)) is None
        return
    with pytest.raises(Unavailable, match=words) as caught:
        await header(find_credentials(path))
    assert caught.value.detail.startswith(f"kubeconfig {path}: ")


async def test_another_context_and_a_context_without_namespace(tmp_path: Path) -> None:
    path = config(tmp_path / "config", namespace=None)
    assert find_credentials(path).namespace == "default"
    access, _ = await find_credentials(path, "nowhere").access()
    assert access.host == "https://nowhere.invalid"
    assert access.tls is not None


async def test_a_clusters_server_name_and_proxy(tmp_path: Path) -> None:
    cluster = {"tls-server-name": "kubernetes", "proxy-url": "http://proxy:3128"}
    access, _ = await find_credentials(
        config(tmp_path / "config", server="https://10.0.0.1", cluster=cluster)
    ).access()
    assert (access.host, access.server_name, access.proxy) == (
        "https://10.0.0.1",
        "kubernetes",
        "http://proxy:3128",
    )


async def test_where_credentials_are_looked_for(tmp_path: Path) -> None:
    given = config(tmp_path / "given", token="given")
    named = config(tmp_path / "named", token="named")
    (tmp_path / ".kube").mkdir()
    config(tmp_path / ".kube" / "config", token="home")
    environ = {"HOME": str(tmp_path)}
    assert await header(find_credentials(environ=environ)) == "Bearer home"
    environ |= {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    assert isinstance(find_credentials(environ=environ), InCluster)
    environ |= {"KUBECONFIG": f"{tmp_path / 'none'}:{named}"}
    assert await header(find_credentials(environ=environ)) == "Bearer named"
    assert await header(find_credentials(given, environ=environ)) == "Bearer given"


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "https://10.96.0.1:443"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://[fd00::1]:6443"),
    ],
)
async def test_the_server_of_a_pod(tmp_path: Path, environ: dict[str, str], host: str) -> None:
    write_service_account(tmp_path, "t", Authority().pem, "mine")
    credentials = InCluster(environ, tmp_path)
    access, authorization = await credentials.access()
    assert (access.host, authorization, credentials.namespace) == (host, "Bearer t", "mine")


def test_no_credentials_at_all_are_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^kubernetes: no credentials: not in a pod \(KUBERNETES_SERVICE_HOST\)"
    ):
        find_credentials(environ={"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("", ""),
        ("- 1", ""),
        ("{", ""),
        ("clusters: []", "Expected key"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_a_fault_of_the_configuration(
    tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=rf"^kubernetes: kubeconfig {path}: .*{words}"):
        find_credentials(path)


def test_a_context_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Expected object with name mine in .*/contexts list$"):
        find_credentials(config(tmp_path / "config"), "mine")


async def test_no_secret_is_in_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "config"
    user = {"token": "SECRET", "auth-provider": {"name": "oidc", "config": {"id-token": "SECRET"}}}
    credentials = find_credentials(config(path, user=user))
    with pytest.raises(Unavailable) as caught:
        await credentials.access()
    assert "SECRET" not in caught.value.detail
    path.write_text(path.read_text().replace("  user:\n", "  usr:\n"))
    with pytest.raises(ConfigError) as faulty:
        find_credentials(path)
    assert "SECRET" not in str(faulty.value)
    good = find_credentials(config(path, token="SECRET"))
    access, _ = await good.access()
    assert "SECRET" not in repr((good, access))


def test_the_big_library_is_imported_only_for_a_kubeconfig() -> None:
    code = "import sys, extproc.kube.client, extproc.kube.reflector; sys.exit('kubernetes_asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
