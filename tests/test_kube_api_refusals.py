"""The API server that plays Kubernetes: who may come in, what is refused, and what goes wrong."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from kube_api import KubeApi
from kube_api.talk import MODELS, PODS, Talk, talking
from kube_objects import pod

CONFIG_MAPS = "/api/v1/namespaces/llm/configmaps"
POOLS = "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/llm/inferencepools"


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    async with talking(KubeApi()) as one:
        yield one


def names(document: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in document["items"]]


@pytest.mark.parametrize(
    ("path", "refused", "message"),
    [
        (
            PODS,
            ("list", "pods"),
            'pods is forbidden: User "system:serviceaccount:llm:extproc" cannot list resource "pods" in API group '
            '"" in the namespace "llm"',
        ),
        (
            "/api/v1/nodes/a",
            ("*", "nodes"),
            'nodes "a" is forbidden: User "system:serviceaccount:llm:extproc" cannot get resource "nodes" in API '
            'group "" at the cluster scope',
        ),
        (
            MODELS + "/qwq/status",
            ("get", "inferencemodels/status"),
            'inferencemodels.inference.networking.x-k8s.io "qwq" is forbidden: User '
            '"system:serviceaccount:llm:extproc" cannot get resource "inferencemodels/status" in API group '
            '"inference.networking.x-k8s.io" in the namespace "llm"',
        ),
    ],
)
async def test_a_refusal_names_verb_and_resource(
    talk: Talk, path: str, refused: tuple[str, str], message: str
) -> None:
    talk.api.forbid(*refused)
    status, document = await talk.get(path)
    assert (status, document["reason"], document["message"]) == (403, "Forbidden", message)
    talk.api.allow(*refused)
    assert (await talk.get(path))[0] in (200, 404)


async def test_a_refusal_for_one_namespace_leaves_the_others(talk: Talk) -> None:
    talk.api.forbid("list", "pods", "llm")
    assert (await talk.get(PODS))[0] == 403
    assert (await talk.get(PODS.replace("/llm/", "/default/")))[0] == 200


async def test_who_may_not_is_told_so_even_of_what_is_not_installed() -> None:
    async with talking(KubeApi(crds=[])) as talk:
        talk.api.forbid("list", "inferencemodels")
        assert (await talk.get(MODELS))[0] == 403


async def test_only_known_tokens_are_let_in(talk: Talk) -> None:
    talk.api.tokens = {"old", "new"}
    answers = [
        (await talk.send("GET", PODS, headers={"Authorization": f"Bearer {token}"}))[0]
        for token in ("old", "new", "other")
    ]
    assert answers == [200, 200, 401]
    status, document = await talk.get(PODS)
    nobody = 'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" '
    assert (status, document["reason"]) == (403, "Forbidden")
    assert document["message"] == nobody + 'in the namespace "llm"'


async def test_who_asks_for_one_object_by_its_name_is_refused_by_that_name(talk: Talk) -> None:
    talk.api.forbid("list", "inferencemodels")
    _status, document = await talk.get(MODELS, fieldSelector="metadata.name=qwq")
    assert document["message"].startswith(
        'inferencemodels.inference.networking.x-k8s.io "qwq" is forbidden: '
    )
    assert document["details"]["name"] == "qwq"


@pytest.mark.parametrize("query", [{"limit": "x"}, {"watch": "1", "timeoutSeconds": "x"}])
async def test_a_number_that_is_none_is_a_bad_request(talk: Talk, query: dict[str, str]) -> None:
    status, document = await talk.get(PODS, **query)
    assert (status, document["reason"]) == (400, "BadRequest")
    assert document["message"] == 'strconv.ParseInt: parsing "x": invalid syntax'


async def test_requests_are_written_down(talk: Talk) -> None:
    await talk.get(PODS, limit="1")
    await talk.get("/api/v1/nodes")
    (one,) = talk.api.asked("GET", "/pods", limit="1")
    assert (one.method, one.path, one.query) == ("GET", PODS, {"limit": "1"})
    assert len(talk.api.requests) == 2


async def test_failures_meet_the_next_requests_and_say_when_to_come_back(talk: Talk) -> None:
    talk.api.fail_next(1, 429, retry_after_s=2, path="/pods")
    assert (await talk.get("/api/v1/nodes"))[0] == 200
    async with talk.session.get(talk.api.url + PODS) as response:
        document = await response.json()
        assert (response.status, response.headers["Retry-After"]) == (429, "2")
        assert (document["reason"], document["details"]) == ("TooManyRequests", {"retryAfterSeconds": 2})
    assert (await talk.get(PODS))[0] == 200


async def test_lists_can_be_wrong(talk: Talk) -> None:
    talk.api.put(pod("a"), pod("b"))
    talk.api.break_next_list("null_items")
    assert (await talk.get(PODS))[1]["items"] is None
    talk.api.break_next_list("null_item")
    assert (await talk.get(PODS))[1]["items"][1] is None
    talk.api.break_next_list("truncated")
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        await talk.get(PODS)
    talk.api.break_next_list("cut")
    with pytest.raises(aiohttp.ClientPayloadError):
        await talk.get(PODS)
    assert names((await talk.get(PODS))[1]) == ["a", "b"]


async def test_a_black_hole_answers_when_it_is_gone(talk: Talk) -> None:
    talk.api.black_hole()
    with pytest.raises(TimeoutError):
        await talk.send("GET", PODS, timeout=aiohttp.ClientTimeout(total=0.05))
    talk.api.black_hole(False)
    assert (await talk.get(PODS))[0] == 200


async def test_it_stops_and_starts_on_the_same_port_with_the_same_objects(talk: Talk) -> None:
    talk.api.put(pod("a"))
    await talk.api.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await talk.get(PODS)
    await talk.api.start()
    assert names((await talk.get(PODS))[1]) == ["a"]


async def test_tls_takes_the_certificates_of_its_authority_and_refuses_those_who_have_none(
    tmp_path: Path,
) -> None:
    async with talking(KubeApi(host="::1", tls=True)) as talk:
        talk.api.tokens = set()
        assert talk.api.authority
        trusting = ssl.create_default_context(cadata=talk.api.authority.pem.decode())
        assert (await talk.send("GET", PODS, ssl=trusting))[0] == 403
        pair = talk.api.authority.client()
        (tmp_path / "client.pem").write_bytes(pair.certificate + pair.key)
        known = ssl.create_default_context(cadata=talk.api.authority.pem.decode())
        known.load_cert_chain(tmp_path / "client.pem")
        assert (await talk.send("GET", PODS, ssl=known))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await talk.get(PODS)


async def test_a_kubeconfig_says_where_and_who(tmp_path: Path) -> None:
    async with KubeApi(tls=True) as api:
        path = api.kubeconfig(tmp_path / "config", token_file=tmp_path / "token", namespace="own")
        config = yaml.safe_load(path.read_text())
        assert config["contexts"][1] == {
            "name": "test",
            "context": {"cluster": "test", "user": "tester", "namespace": "own"},
        }
        assert config["clusters"][1]["cluster"]["server"] == api.url
        assert config["users"][1]["user"] == {"tokenFile": str(tmp_path / "token")}


async def test_a_service_account_is_rotated_at_one_stroke(tmp_path: Path) -> None:
    async with KubeApi(tls=True) as api:
        environment = api.service_account(tmp_path, "first")
        assert environment == {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(api.port),
        }
        directory = (tmp_path / "token").resolve().parent
        api.service_account(tmp_path, "second")
        assert [(tmp_path / name).read_text() for name in ("token", "namespace")] == ["second", "llm"]
        assert (tmp_path / "token").resolve().parent != directory
        assert api.authority
        assert (tmp_path / "ca.crt").read_bytes() == api.authority.pem
