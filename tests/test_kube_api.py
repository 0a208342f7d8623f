"""The API server that plays Kubernetes: what it stores and lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from kube_api import KubeApi
from kube_api.talk import MODELS, PODS, Talk, talking
from kube_objects import config_map, inference_model, inference_pool, pod

CONFIG_MAPS = "/api/v1/namespaces/llm/configmaps"
POOLS = "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/llm/inferencepools"


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    async with talking(KubeApi()) as one:
        yield one


def names(document: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in document["items"]]


async def test_a_stored_object_has_what_the_server_fills_in(talk: Talk) -> None:
    bare = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": "llm"},
        "spec": {"x": 1},
    }
    stored = talk.api.put(bare)
    assert sorted(stored["metadata"]) == [
        "creationTimestamp",
        "generation",
        "name",
        "namespace",
        "resourceVersion",
        "uid",
    ]
    assert await talk.get(PODS + "/a") == (200, stored)
    assert bare["metadata"] == {"name": "a", "namespace": "llm"}


async def test_items_of_a_list_of_a_built_in_kind_do_not_say_their_kind_and_those_of_a_custom_kind_do(
    talk: Talk,
) -> None:
    stored = talk.api.put(pod("vllm-0"))
    model = talk.api.put(inference_model("qwq"))
    _status, document = await talk.get(PODS)
    untyped = {field: value for field, value in stored.items() if field not in ("kind", "apiVersion")}
    revision = {"resourceVersion": str(talk.api.store.version)}
    assert document == {"kind": "PodList", "apiVersion": "v1", "metadata": revision, "items": [untyped]}
    _status, document = await talk.get(MODELS)
    assert document == {
        "kind": "InferenceModelList",
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "metadata": revision,
        "items": [model],
    }


async def test_a_revision_counts_every_write_everywhere_and_generation_only_changed_specifications(
    talk: Talk,
) -> None:
    first = talk.api.put(pod("vllm-0"))["metadata"]
    other = talk.api.put(config_map())["metadata"]
    ready = talk.api.put(pod("vllm-0", ready=False))["metadata"]
    changed = talk.api.put(pod("vllm-0", node="node-b"))["metadata"]
    start = int(first["resourceVersion"])
    assert [one["resourceVersion"] for one in (other, ready, changed)] == [str(start + n) for n in (1, 2, 3)]
    assert [one["generation"] for one in (first, ready, changed)] == [1, 1, 2]
    assert [one["uid"] for one in (ready, changed)] == [first["uid"]] * 2


async def test_a_write_that_changes_nothing_writes_nothing(talk: Talk) -> None:
    first = talk.api.put(pod("vllm-0"))
    assert talk.api.put(pod("vllm-0")) == first
    assert await talk.put(PODS + "/vllm-0", first) == (200, first)
    assert await talk.patch(PODS + "/vllm-0", {"metadata": {"labels": {"app": "vllm"}}}) == (200, first)


async def test_objects_of_one_custom_kind_are_served_in_each_of_its_versions(talk: Talk) -> None:
    talk.api.put(inference_pool("old", version="v1alpha1"), inference_pool("new", version="v1"))
    for version in ("v1alpha1", "v1alpha2"):
        _status, document = await talk.get(POOLS.replace("v1alpha2", version))
        said = [(item["apiVersion"], item["metadata"]["name"]) for item in document["items"]]
        assert said == [(f"inference.networking.x-k8s.io/{version}", "old")]


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("app=vllm", ["a", "b"]),
        ("app==vllm,track=canary", ["b"]),
        ("track!=canary", ["a", "c"]),
        ("track in (canary, stable)", ["b"]),
        ("track notin (canary)", ["a", "c"]),
        ("track", ["b"]),
        ("!track", ["a", "c"]),
        ("app in (vllm,other),!track", ["a", "c"]),
    ],
)
async def test_a_label_selector_chooses(talk: Talk, selector: str, chosen: list[str]) -> None:
    talk.api.put(
        pod("a"), pod("b", labels={"app": "vllm", "track": "canary"}), pod("c", labels={"app": "other"})
    )
    _status, document = await talk.get(PODS, labelSelector=selector)
    assert names(document) == chosen


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("metadata.name=a", ["a"]),
        ("metadata.name!=a", ["b", "c"]),
        ("spec.nodeName=node-b", ["b"]),
        ("status.phase=Pending,spec.nodeName=", ["c"]),
    ],
)
async def test_a_field_selector_chooses(talk: Talk, selector: str, chosen: list[str]) -> None:
    talk.api.put(pod("a"), pod("b", node="node-b"), pod("c", None, node=None, phase="Pending"))
    _status, document = await talk.get("/api/v1/pods", fieldSelector=selector)
    assert names(document) == chosen


async def test_a_field_that_kubernetes_does_not_select_by_is_refused(talk: Talk) -> None:
    status, document = await talk.get(CONFIG_MAPS, fieldSelector="spec.nodeName=a")
    message = 'Unable to find "configmaps" that match: field label not supported: spec.nodeName'
    assert (status, document["reason"], document["message"]) == (400, "BadRequest", message)


async def test_a_list_in_chunks_is_of_one_revision(talk: Talk) -> None:
    talk.api.put(*(pod(name) for name in "abcde"))
    _status, first = await talk.get(PODS, limit="2")
    talk.api.delete("pods", "llm", "d")
    talk.api.put(pod("f"))
    _status, second = await talk.get(PODS, limit="2", **{"continue": first["metadata"]["continue"]})
    _status, third = await talk.get(PODS, limit="2", **{"continue": second["metadata"]["continue"]})
    assert [names(chunk) for chunk in (first, second, third)] == [["a", "b"], ["c", "d"], ["e"]]
    assert [chunk["metadata"]["resourceVersion"] for chunk in (second, third)] == [
        first["metadata"]["resourceVersion"]
    ] * 2
    assert [chunk["metadata"].get("remainingItemCount") for chunk in (first, second, third)] == [3, 1, None]
    assert "continue" not in third["metadata"]


async def test_an_expired_continue_token_is_410_with_one_that_goes_on_inconsistently(talk: Talk) -> None:
    talk.api.put(*(pod(name) for name in "abc"))
    _status, first = await talk.get(PODS, limit="1")
    talk.api.compact()
    talk.api.put(pod("bb"))
    status, refused = await talk.get(PODS, limit="1", **{"continue": first["metadata"]["continue"]})
    assert (status, refused["kind"], refused["reason"], refused["code"]) == (410, "Status", "Expired", 410)
    _status, rest = await talk.get(PODS, **{"continue": refused["metadata"]["continue"]})
    assert names(rest) == ["b", "bb", "c"]


async def test_a_list_of_a_revision_that_is_not_yet_is_a_timeout_to_come_back_after(talk: Talk) -> None:
    current = talk.api.store.version
    status, document = await talk.get(PODS, resourceVersion=str(current + 100))
    assert (status, document["reason"], document["details"]["retryAfterSeconds"]) == (504, "Timeout", 1)
    assert document["message"] == f"Timeout: Too large resource version: {current + 100}, current: {current}"


async def test_a_large_list_comes_compressed_to_those_who_take_it(talk: Talk) -> None:
    talk.api.put(*(pod(f"vllm-{number}") for number in range(60)))
    async with talk.session.get(talk.api.url + PODS) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert len((await response.json())["items"]) == 60
    async with talk.session.get(talk.api.url + PODS, headers={"Accept-Encoding": "identity"}) as response:
        assert "Content-Encoding" not in response.headers


async def test_what_is_not_installed_is_a_plain_404_and_what_is_not_there_a_status() -> None:
    async with talking(KubeApi(crds=[])) as talk:
        assert await talk.get(MODELS) == (404, "404 page not found\n")
        assert await talk.get("/apis/apps/v1/deployments") == (404, "404 page not found\n")
        status, document = await talk.get("/api/v1/namespaces/llm/secrets")
        assert (status, document["message"]) == (404, "the server could not find the requested resource")
        status, document = await talk.get(PODS + "/none")
        assert (status, document["message"]) == (404, 'pods "none" not found')
        talk.api.install("inferencemodels.inference.networking.x-k8s.io", "v1alpha1")
        assert await talk.get(MODELS) == (404, "404 page not found\n")
        assert (await talk.get(MODELS.replace("v1alpha2", "v1alpha1")))[0] == 200


async def test_a_crd_that_is_deleted_takes_its_objects_along(talk: Talk) -> None:
    talk.api.put(inference_model("qwq"))
    talk.api.uninstall("inferencemodels.inference.networking.x-k8s.io")
    assert await talk.get(MODELS) == (404, "404 page not found\n")
    talk.api.install("inferencemodels.inference.networking.x-k8s.io")
    assert names((await talk.get(MODELS))[1]) == []
