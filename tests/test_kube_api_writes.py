"""The API server that plays Kubernetes: objects that are created, updated, patched and deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from kube_api import KubeApi
from kube_api.talk import LEASES, MODELS, PODS, Talk, talking, watching
from kube_objects import accepted, config_map, inference_model, inference_pool, lease, pod

CONFIG_MAPS = "/api/v1/namespaces/llm/configmaps"
POOLS = "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/llm/inferencepools"


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    async with talking(KubeApi()) as one:
        yield one


async def test_creation_gives_uid_and_generation_and_takes_no_status(talk: Talk) -> None:
    status, made = await talk.post(
        MODELS, inference_model("qwq", uid="mine", status={"conditions": [accepted()]})
    )
    assert (status, made["metadata"]["generation"], "status" in made) == (201, 1, False)
    assert made["metadata"]["uid"] not in ("", "mine")
    assert talk.api.get("inferencemodels", "llm", "qwq") == made


async def test_creation_of_what_is_there_is_a_conflict(talk: Talk) -> None:
    talk.api.put(lease())
    status, document = await talk.post(LEASES, lease())
    assert status == 409
    assert document == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'leases.coordination.k8s.io "extproc" already exists',
        "reason": "AlreadyExists",
        "details": {"name": "extproc", "group": "coordination.k8s.io", "kind": "leases"},
        "code": 409,
    }


async def test_creation_in_a_namespace_that_is_not_there_is_not_found(talk: Talk) -> None:
    status, document = await talk.post(LEASES.replace("/llm/", "/none/"), lease(namespace="none"))
    assert (status, document["message"]) == (404, 'namespaces "none" not found')


async def test_an_update_on_an_old_revision_is_a_conflict(talk: Talk) -> None:
    old = talk.api.put(lease(holder="a"))
    talk.api.put(lease(holder="b"))
    status, document = await talk.put(LEASES + "/extproc", old)
    message = (
        'Operation cannot be fulfilled on leases.coordination.k8s.io "extproc": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    assert (status, document["reason"], document["message"]) == (409, "Conflict", message)
    patch = {
        "metadata": {"resourceVersion": old["metadata"]["resourceVersion"]},
        "spec": {"holderIdentity": "c"},
    }
    assert (await talk.patch(LEASES + "/extproc", patch))[0] == 409
    assert talk.api.get("leases", "llm", "extproc")["spec"]["holderIdentity"] == "b"


async def test_an_update_of_an_object_that_was_made_anew_is_a_conflict(talk: Talk) -> None:
    old = talk.api.put(lease())
    talk.api.delete("leases", "llm", "extproc")
    new = talk.api.put(lease())
    old["metadata"]["resourceVersion"] = new["metadata"]["resourceVersion"]
    status, document = await talk.put(LEASES + "/extproc", old)
    assert (status, document["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition" in document["message"]


async def test_leases_and_custom_objects_are_not_updated_blindly_and_config_maps_are(talk: Talk) -> None:
    talk.api.put(lease(), config_map(data={"a": "1"}))
    status, document = await talk.put(LEASES + "/extproc", lease(holder="b"))
    assert (status, document["reason"]) == (422, "Invalid")
    assert document["message"].endswith(
        "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
    )
    status, document = await talk.put(CONFIG_MAPS + "/extproc", config_map(data={"a": "2"}))
    assert (status, document["data"]) == (200, {"a": "2"})


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ({"renewTime": "2026-05-04T10:00:00.123456Z"}, 200),
        ({"renewTime": "2026-05-04T10:00:00Z"}, 400),
        ({"renewTime": "2026-05-04T10:00:00.123Z"}, 400),
        ({"leaseDurationSeconds": 0}, 422),
        ({"holderIdentity": ""}, 422),
        ({"holderIdentity": None}, 200),
    ],
)
async def test_a_lease_is_checked(talk: Talk, spec: dict[str, Any], status: int) -> None:
    talk.api.put(lease())
    assert (await talk.patch(LEASES + "/extproc", {"spec": spec}))[0] == status


async def test_a_merge_patch_changes_removes_and_keeps(talk: Talk) -> None:
    talk.api.put(config_map(data={"a": "1", "b": "2", "c": "3"}))
    _status, document = await talk.patch(CONFIG_MAPS + "/extproc", {"data": {"a": "9", "b": None}})
    assert document["data"] == {"a": "9", "c": "3"}


async def test_status_is_written_through_its_subresource_only_and_nothing_else_is(talk: Talk) -> None:
    before = talk.api.put(inference_model("qwq"))
    conditions = {"conditions": [accepted()]}
    assert await talk.patch(MODELS + "/qwq", {"status": conditions}) == (200, before)
    both = {"status": conditions, "spec": {"modelName": "other"}}
    _status, told = await talk.patch(MODELS + "/qwq/status", both)
    assert (told["status"], told["spec"]) == (conditions, before["spec"])
    assert told["metadata"]["generation"] == before["metadata"]["generation"]
    assert int(told["metadata"]["resourceVersion"]) == int(before["metadata"]["resourceVersion"]) + 1
    _status, told = await talk.patch(
        MODELS + "/qwq", {"status": {"conditions": []}, "spec": {"modelName": "new"}}
    )
    assert (told["status"], told["spec"]["modelName"]) == (conditions, "new")
    assert told["metadata"]["generation"] == before["metadata"]["generation"] + 1
    told["status"] = {"conditions": [accepted("False", "NoMatch")]}
    told["spec"] = {}
    status, again = await talk.put(MODELS + "/qwq/status", told)
    assert (status, again["status"], again["spec"]["modelName"]) == (200, told["status"], "new")
    assert await talk.get(MODELS + "/qwq/status") == (200, again)


async def test_a_status_field_that_the_schema_does_not_have_is_dropped(talk: Talk) -> None:
    talk.api.put(inference_pool("p", version="v1alpha2"))
    status, told = await talk.patch(POOLS + "/p/status", {"status": {"conditions": [accepted()]}})
    assert (status, told.get("status")) == (200, {})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"reason": None}, "status.conditions.reason: Required value"),
        ({"observedGeneration": -1}, "status.conditions.observedGeneration: Invalid value"),
        ({"reason": "no such pool"}, 'Invalid value: "no such pool"'),
        ({"status": "true"}, 'Unsupported value: "true"'),
        ({"lastTransitionTime": "yesterday"}, 'Invalid value: "yesterday"'),
    ],
)
async def test_a_condition_is_checked(talk: Talk, fault: dict[str, Any], message: str) -> None:
    talk.api.put(inference_model("qwq"))
    condition = {field: value for field, value in (accepted() | fault).items() if value is not None}
    status, document = await talk.patch(MODELS + "/qwq/status", {"status": {"conditions": [condition]}})
    assert (status, document["reason"]) == (422, "Invalid")
    assert message in document["message"]


async def test_a_running_pod_that_is_deleted_terminates_until_its_kubelet_says_it_is_gone(talk: Talk) -> None:
    talk.api.put(pod("a"), pod("b", node=None))
    _status, told = await talk.send("DELETE", PODS + "/a")
    assert told["metadata"]["deletionGracePeriodSeconds"] == 30
    assert (
        talk.api.get("pods", "llm", "a")["metadata"]["deletionTimestamp"]
        == told["metadata"]["deletionTimestamp"]
    )
    await talk.send("DELETE", PODS + "/b")
    await talk.send("DELETE", PODS + "/a", json={"gracePeriodSeconds": 0})
    assert talk.api.objects("pods") == []


async def test_a_time_of_grace_may_become_shorter_and_a_watch_is_told(talk: Talk) -> None:
    talk.api.put(pod("a"))
    async with watching(talk, await talk.revision()) as watch:
        for options in ({}, {"gracePeriodSeconds": 60}, {"gracePeriodSeconds": 0}):
            await talk.send("DELETE", PODS + "/a", json=options)
        await talk.api.until(lambda: len(watch.told) == 3)
    assert watch.told == [("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_what_has_a_finalizer_goes_when_it_is_taken_away(talk: Talk) -> None:
    model = inference_model("qwq")
    model["metadata"]["finalizers"] = ["ours"]
    talk.api.put(model)
    await talk.send("DELETE", MODELS + "/qwq")
    assert "deletionTimestamp" in talk.api.get("inferencemodels", "llm", "qwq")["metadata"]
    await talk.patch(MODELS + "/qwq", {"metadata": {"finalizers": None}})
    assert talk.api.objects("inferencemodels") == []
