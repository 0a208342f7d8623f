"""Requests to the API server: what is sent, what is made of answers, TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kube_api import KubeApi
from kube_api.credentials import Authority
from kube_followers import PODS, Plain
from kube_objects import inference_model, lease, pod

from extproc.kube import client as client_module
from extproc.kube.client import KubeClient, Limits, Watch
from extproc.kube.credentials import InCluster, find_credentials
from extproc.kube.failures import (
    Action,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    Malformed,
    NotFound,
    Unauthorized,
    Unavailable,
    failure,
)
from extproc.kube.lease import Lease, LeaseMeta, LeaseSpec, lease_resource
from extproc.kube.model_objects import InferenceModel
from extproc.kube.objects import Pod
from extproc.kube.resource import Resource

LEASES = lease_resource("llm")
MODELS = Resource("inference.networking.x-k8s.io", "v1alpha2", "inferencemodels", "llm", InferenceModel)
STATUS = b'{"kind":"Status","message":"no\\n such  luck","code":1}'
LIST = Action("list", PODS)


async def names(client: KubeClient, resource: Resource = PODS) -> list[str]:
    found = [page.items async for page in client.pages(resource)]
    return [msgspec.json.decode(item)["metadata"]["name"] for items in found for item in items]


async def drained(watch: Watch) -> None:
    while await watch.read() is not None:
        pass


@asynccontextmanager
async def answering(answer: Any) -> AsyncIterator[KubeClient]:
    """A client of a server that answers everything so."""

    async def handle(_request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse = await answer(_request)
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server, KubeClient(Plain(str(server.make_url("")).rstrip("/"))) as client:
        yield client


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        (PODS, "/api/v1/namespaces/llm/pods"),
        (Resource("", "v1", "nodes", None, Pod), "/api/v1/nodes"),
        (MODELS, "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/llm/inferencemodels"),
        (Resource("", "v1", "pods", "../x?y", Pod), "/api/v1/namespaces/..%2Fx%3Fy/pods"),
    ],
)
def test_the_path_of_a_collection(resource: Resource, path: str) -> None:
    assert resource.path == path


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, Invalid),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, Invalid),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
        (302, Malformed),
    ],
)
def test_each_status_is_one_of_a_few_failures(code: int, kind: type[KubeError]) -> None:
    error = failure(LIST, code, STATUS)
    assert type(error) is kind
    assert error.detail.startswith(f"cannot list pods in namespace llm: {code}: no such luck")


@pytest.mark.parametrize(
    ("action", "rule"),
    [
        (
            Action("watch", Resource("", "v1", "nodes", None, Pod)),
            'cannot watch nodes cluster-wide: 403: no such luck (the ClusterRole needs apiGroups: [""], '
            'resources: ["nodes"], verbs: ["watch"])',
        ),
        (
            Action("patch", MODELS, "qwq", "status"),
            "cannot patch inferencemodels/status.inference.networking.x-k8s.io qwq in namespace llm: 403: no such luck "
            '(the Role needs apiGroups: ["inference.networking.x-k8s.io"], resources: ["inferencemodels/status"], '
            'verbs: ["patch"])',
        ),
    ],
)
def test_what_is_forbidden_is_said_as_the_rule_that_allows_it(action: Action, rule: str) -> None:
    assert str(failure(action, 403, STATUS)) == rule


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("3", 3.0), (None, 0.0), ("soon", 0.0), ("99999999999", 60.0), ("-1", 0.0), ("", 0.0)],
)
def test_how_long_the_server_wants_to_be_left_alone(given: str | None, seconds: float) -> None:
    assert failure(LIST, 429, STATUS, given).retry_after_s == seconds


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"", ""), (b"<html>\n oops", ": <html> oops"), (b"\xff\x00", ": ??"), (b"x" * 9999, ": " + "x" * 400)],
)
def test_an_errors_words_are_one_bounded_printable_line(body: bytes, words: str) -> None:
    assert (
        failure(LIST, 500, body).detail.replace("\ufffd", "?")
        == f"cannot list pods in namespace llm: 500{words}"
    )


async def test_objects_are_created_read_and_replaced_unless_somebody_was_faster() -> None:
    wanted = Lease(LeaseMeta("l", "llm"), LeaseSpec("me", 15))
    async with KubeApi() as api, KubeClient(Plain(api.url)) as client:
        with pytest.raises(NotFound):
            await client.get(LEASES, "l")
        made = await client.create(LEASES, "l", wanted)
        assert made.spec == wanted.spec
        with pytest.raises(Conflict):
            await client.create(LEASES, "l", wanted)
        renamed = Lease(made.metadata, LeaseSpec("you", 15))
        assert (await client.replace(LEASES, "l", renamed)).spec.holder_identity == "you"
        with pytest.raises(Conflict):
            await client.replace(LEASES, "l", renamed)
        assert (await client.get(LEASES, "l")).spec.holder_identity == "you"


async def test_an_invalid_object_is_told_as_the_server_says_it() -> None:
    async with KubeApi() as api, KubeClient(Plain(api.url)) as client:
        api.put(lease("l"))
        with pytest.raises(
            Invalid, match=r"^cannot update leases.coordination.k8s.io l in namespace llm: 422: .*resourceV"
        ):
            await client.replace(LEASES, "l", Lease(LeaseMeta("l", "llm")))


async def test_a_status_is_merged() -> None:
    async with KubeApi() as api, KubeClient(Plain(api.url)) as client:
        api.put(inference_model("qwq"))
        await client.patch_status(MODELS, "qwq", {"status": {"conditions": []}})
        [request] = api.asked("PATCH", "/inferencemodels/qwq/status")
        assert request.headers["Content-Type"] == "application/merge-patch+json"
        assert api.get("inferencemodels", "llm", "qwq")["status"] == {"conditions": []}


async def test_a_list_that_grew_too_old_between_two_pages_is_gone() -> None:
    async with KubeApi() as api, KubeClient(Plain(api.url), Limits(page_items=1)) as client:
        api.put(pod("a"), pod("b"))
        pages = client.pages(PODS)
        await anext(pages)
        api.compact()
        with pytest.raises(Gone):
            await anext(pages)


async def test_a_server_that_is_not_there_is_named() -> None:
    async with KubeApi() as api:
        url = api.url
    async with KubeClient(Plain(url)) as client:
        with pytest.raises(Unavailable) as refused:
            await names(client)
    said = f"cannot list pods in namespace llm: no connection to 127.0.0.1:{api.port}: Connect call failed "
    assert str(refused.value).startswith(said)


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    async with KubeApi() as api, KubeClient(Plain(api.url), Limits(request_s=0.1)) as client:
        api.black_hole()
        with pytest.raises(Unavailable, match=r"^cannot list pods in namespace llm: no answer in time$"):
            await names(client)
        with pytest.raises(Unavailable, match=r"^cannot watch pods in namespace llm: no answer in time$"):
            async with client.watch(PODS, "1", 30, 10.0):
                pass
        api.black_hole(False)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"items":[]}', b'{"metadata":{}}', b"[" * 9999, b'{"metadata":7}'],
)
async def test_what_is_no_list_is_malformed(body: bytes) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    async with answering(answer) as client:
        with pytest.raises(Malformed, match=r"^cannot list pods in namespace llm: "):
            await names(client)


async def test_a_redirect_is_not_followed() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})

    async with answering(answer) as client:
        with pytest.raises(Malformed, match=r"302 \(is this a Kubernetes API server\?\)$"):
            await names(client)


async def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_PAGE_BYTES", 100_000)
    monkeypatch.setattr(client_module, "MAX_LINE_BYTES", 100_000)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"x" * 10_000)
        return response

    async with answering(answer) as client:
        with pytest.raises(Malformed, match=r"an answer of more than 100000 bytes$"):
            await names(client)
        async with client.watch(PODS, "1", 30, 10.0) as watch:
            with pytest.raises(Malformed, match=r"a line of more than 100000 bytes$"):
                await drained(watch)


async def test_in_a_pod_the_service_account_is_used_and_its_token_read_again_when_refused(
    tmp_path: Path,
) -> None:
    async with KubeApi(tls=True) as api:
        api.put(pod("a"))
        api.tokens = {"first"}
        environ = api.service_account(tmp_path, "first\n", namespace="mine")
        async with KubeClient(InCluster(environ, tmp_path)) as client:
            assert (client.namespace, await names(client)) == ("mine", ["a"])
            api.tokens = {"second"}
            api.service_account(tmp_path, "second\n", namespace="mine")
            assert await names(client) == ["a"]
            assert [request.headers["Authorization"] for request in api.requests] == [
                "Bearer first",
                "Bearer first",
                "Bearer second",
            ]


async def test_a_token_that_stays_refused_is_said_to_be(tmp_path: Path) -> None:
    async with KubeApi(tls=True) as api:
        api.tokens = {"other"}
        async with KubeClient(InCluster(api.service_account(tmp_path, "old"), tmp_path)) as client:
            with pytest.raises(Unauthorized, match=r"^cannot list pods in namespace llm: 401: Unauthorized$"):
                await names(client)
            assert len(api.requests) == 1
            api.service_account(tmp_path, "other")
            assert await names(client) == []


async def test_a_new_authority_is_taken_up_from_its_file(tmp_path: Path) -> None:
    async with KubeApi(tls=True) as api:
        environ = api.service_account(tmp_path, "t")
        good = (tmp_path / "ca.crt").read_bytes()
        (tmp_path / "ca.crt").unlink()
        (tmp_path / "ca.crt").write_bytes(Authority().pem)
        async with KubeClient(InCluster(environ, tmp_path)) as client:
            with pytest.raises(
                Unavailable,
                match=rf"^cannot list pods in namespace llm: the certificate of 127.0.0.1:{api.port} does not hold: ",
            ):
                await names(client)
            (tmp_path / "ca.crt").write_bytes(good)
            assert await names(client) == []


async def test_a_service_account_that_is_incomplete_is_named(tmp_path: Path) -> None:
    async with KubeApi(tls=True) as api:
        environ = api.service_account(tmp_path, "t")
        (tmp_path / "ca.crt").unlink()
        async with KubeClient(InCluster(environ, tmp_path)) as client:
            with pytest.raises(Unavailable, match=r"^service account: .*ca\.crt: No such file"):
                await names(client)


async def test_tls_by_kubeconfig_with_a_client_certificate(tmp_path: Path) -> None:
    async with KubeApi(tls=True) as api:
        api.tokens = set()
        known = api.kubeconfig(tmp_path / "known", client_certificate=True)
        async with KubeClient(find_credentials(known)) as client:
            assert await names(client) == []


async def test_who_shows_no_credentials_is_told_that_and_not_what_a_role_lacks(tmp_path: Path) -> None:
    async with KubeApi(tls=True) as api:
        api.tokens = set()
        stranger = api.kubeconfig(tmp_path / "stranger")
        async with KubeClient(find_credentials(stranger)) as client:
            with pytest.raises(Forbidden) as refused:
                await names(client)
    assert str(refused.value) == (
        'cannot list pods in namespace llm: 403: pods is forbidden: User "system:anonymous" cannot list '
        'resource "pods" in API group "" in the namespace "llm" '
        "(it was shown no credentials: has the user in the kubeconfig any?)"
    )


async def test_tls_is_not_checked_where_the_kubeconfig_says_so(tmp_path: Path) -> None:
    async with KubeApi(tls=True) as api:
        insecure = api.kubeconfig(tmp_path / "config", insecure=True)
        async with KubeClient(find_credentials(insecure)) as client:
            assert await names(client) == []


@pytest.mark.parametrize(("name", "holds"), [("kubernetes", True), ("elsewhere", False)])
async def test_the_certificate_is_checked_against_the_name_in_the_kubeconfig(
    tmp_path: Path, name: str, holds: bool
) -> None:
    async with KubeApi(tls=True) as api:
        path = api.kubeconfig(tmp_path / "config")
        path.write_text(
            path.read_text().replace(
                "server: https://127", f"tls-server-name: {name}\n    server: https://127"
            )
        )
        async with KubeClient(find_credentials(path)) as client:
            if holds:
                assert await names(client) == []
            else:
                with pytest.raises(Unavailable, match=r"does not hold: Hostname mismatch.*'elsewhere'"):
                    await names(client)


async def test_requests_at_the_same_time_share_what_is_read(tmp_path: Path) -> None:
    async with KubeApi() as api:
        api.put(pod("a"))
        async with KubeClient(find_credentials(api.kubeconfig(tmp_path / "config"))) as client:
            assert await asyncio.gather(*(names(client) for _ in range(8))) == [["a"]] * 8
