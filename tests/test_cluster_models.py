"""From InferenceModels, rewrites and objectives of a cluster to the config in force, and back to their statuses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cluster_talk import talking
from kube_api import KubeApi
from kube_objects import (
    inference_model,
    inference_objective,
    inference_pool,
    model_rewrite,
    pod,
    rewrite_rule,
)

from extproc.config.schema import Criticality, ModelConfig, ObjectiveConfig, TargetConfig
from extproc.kube.models import Merged, merge

POOL = "pools: [{name: p, kubernetes: {inference_pool: vllm}}]"
MODELS = "inferencemodels.inference.networking.x-k8s.io"
THEN = "2026-01-01T00:00:00Z"
QWQ = ModelConfig("qwq", "p", criticality=Criticality.CRITICAL, targets=[TargetConfig("qwq-32b", 100)])


@pytest.fixture
async def api() -> AsyncIterator[KubeApi]:
    async with KubeApi() as served:
        served.put(inference_pool("vllm", selector={"app": "vllm"}), pod("vllm-0", labels={"app": "vllm"}))
        yield served


async def test_models_of_the_cluster_come_with_the_pool_and_change_with_their_objects(api: KubeApi) -> None:
    api.put(inference_model("a", model="qwq", targets={"qwq-32b": 100}))
    async with talking(api, POOL) as talk:
        await api.until(lambda: talk.merged().models == [QWQ])
        api.put(inference_model("a", model="qwq", targets={"qwq-32b": 90, "qwq-32b-v2": 10}))
        await api.until(lambda: [t.weight for t in talk.merged().models[0].targets or []] == [90, 10])
        api.delete(MODELS, "llm", "a")
        await api.until(lambda: talk.merged().models == [])


async def test_many_changes_at_once_are_told_as_one(api: KubeApi) -> None:
    async with talking(api, POOL) as talk:
        await api.until(lambda: talk.told.model_changes == 1)
        api.put(*(inference_model(f"m{n}", model=f"m{n}") for n in range(50)))
        await api.until(lambda: len(talk.merged().models) == 50)
        assert talk.told.model_changes <= 4


async def test_objects_of_other_namespaces_and_pools_are_another_pickers(api: KubeApi) -> None:
    api.put(inference_model("a", namespace="other"), inference_model("b", pool="another"))
    async with talking(api, POOL) as talk:
        await api.until(lambda: talk.told.model_changes)
        assert talk.merged().models == []
        assert talk.conditions("inferencemodels", "b") == {}


async def test_rewrites_and_objectives_of_both_groups_count(api: KubeApi) -> None:
    api.put(
        model_rewrite("r", rules=[rewrite_rule(["fast"], {"qwq-7b": 1})], group="llm-d.ai"),
        model_rewrite("s", rules=[rewrite_rule([], {"qwq-32b": None})]),
        inference_objective("batch", priority=-5, group="llm-d.ai"),
        inference_objective("premium", priority=5),
    )
    async with talking(api, POOL) as talk:
        await api.until(lambda: talk.told.model_changes)
        merged = talk.merged()
        assert {m.name: [t.model for t in m.targets or []] for m in merged.models} == {
            "*": ["qwq-32b"],
            "fast": ["qwq-7b"],
        }
        assert sorted(merged.objectives, key=lambda each: each.name) == [
            ObjectiveConfig("batch", -5, "p"),
            ObjectiveConfig("premium", 5, "p"),
        ]


async def test_a_model_of_the_file_wins_and_the_log_says_so_once(api: KubeApi) -> None:
    api.put(inference_model("a", model="qwq", targets={"qwq-32b": 100}))
    async with talking(api, POOL + "\nmodels: [{name: qwq, pool: p}]") as talk:
        await api.until(lambda: talk.told.model_changes)
        assert talk.merged() == talk.merged() == talk.config
        (report,) = talk.told.reports
        assert "qwq" in report
        await api.until(
            lambda: talk.conditions("inferencemodels", "a").get("Accepted") == ("False", "OverriddenByFile")
        )


async def test_each_object_is_told_in_its_status_whether_it_counts(api: KubeApi) -> None:
    api.put(
        inference_model("first", model="qwq", created="2026-01-01T00:00:00Z"),
        inference_model("second", model="qwq", created="2026-01-02T00:00:00Z"),
        inference_objective("batch", priority=-5),
    )
    async with talking(api, POOL) as talk:
        await api.until(lambda: talk.told.model_changes)
        talk.merged()
        await api.until(lambda: "Accepted" in talk.conditions("inferencemodels", "second"))
        await api.until(lambda: "Accepted" in talk.conditions("inferenceobjectives", "batch"))
        assert talk.conditions("inferencemodels", "first")["Accepted"] == ("True", "Accepted")
        assert talk.conditions("inferencemodels", "second")["Accepted"] == ("False", "ModelNameInUse")
        assert talk.conditions("inferenceobjectives", "batch")["Accepted"] == ("True", "Accepted")


async def test_of_two_replicas_one_writes_and_when_it_ends_the_other_does(api: KubeApi) -> None:
    api.put(inference_model("a", model="qwq"))
    async with talking(api, POOL) as first:
        await api.until(lambda: first.told.model_changes and first.merged())
        await api.until(lambda: first.cluster.leading)
        async with talking(api, POOL) as second:
            await api.until(lambda: second.told.model_changes and second.merged())
            assert not second.cluster.leading
            (lease,) = api.objects("leases")
            assert lease["metadata"]["name"].startswith("extproc-")
    (lease,) = api.objects("leases")
    assert not lease["spec"].get("holderIdentity")
    async with talking(api, POOL) as third:
        await api.until(lambda: third.told.model_changes and third.merged())
        await api.until(lambda: third.cluster.leading)


async def test_routers_of_other_pools_stand_for_another_lease(api: KubeApi) -> None:
    api.put(
        inference_pool("other", selector={"app": "x"}),
        inference_model("a"),
        inference_model("b", pool="other"),
    )
    async with talking(api, POOL) as one, talking(api, POOL.replace("vllm", "other")) as two:
        await api.until(lambda: one.told.model_changes and one.merged() and one.cluster.leading)
        await api.until(lambda: two.told.model_changes and two.merged() and two.cluster.leading)


async def test_without_the_right_to_write_statuses_the_models_count_all_the_same(api: KubeApi) -> None:
    api.put(inference_model("a", model="qwq", targets={"qwq-32b": 100}))
    api.forbid("get", "leases")
    async with talking(api, POOL) as talk:
        await api.until(lambda: talk.told.model_changes and talk.merged().models == [QWQ])
        await api.until(lambda: talk.told.failed_writes)
        ((reason, detail),) = talk.told.failed_writes
        assert reason == "forbidden"
        assert 'apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get"]' in detail


async def test_a_status_that_is_written_is_no_change_of_models(api: KubeApi) -> None:
    api.put(inference_model("a", model="qwq", targets={"qwq-32b": 100}))
    async with talking(api, POOL) as talk:
        await api.until(lambda: talk.told.model_changes == 1 and talk.merged())
        await api.until(lambda: "Accepted" in talk.conditions("inferencemodels", "a"))
        await api.until(lambda: talk.cluster._models._restated)  # it has come back
        api.put(inference_model("b", model="other"))
        await api.until(lambda: len(talk.merged().models) == 2)
        assert talk.told.model_changes == 2


async def test_a_status_that_changes_during_a_merge_is_the_one_that_counts(
    api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    merging, go_on = threading.Event(), threading.Event()

    def merge_slowly(*args: Any) -> Merged:
        merging.set()
        assert go_on.wait(10)
        return merge(*args)

    monkeypatch.setattr("extproc.kube.cluster_models.merge", merge_slowly)
    api.put(inference_model("a", model="qwq"))
    async with talking(api, POOL) as talk:
        await asyncio.to_thread(merging.wait, 10)
        seen = api.get("inferencemodels", "llm", "a")["metadata"]["resourceVersion"]
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Fine",
            "message": "",
            "lastTransitionTime": THEN,
        }
        for number in range(3):
            api.put(
                inference_model("a", model="qwq", status={"conditions": [ready | {"message": str(number)}]})
            )
        known = api.get("inferencemodels", "llm", "a")["metadata"]["resourceVersion"]
        assert known != seen
        await api.until(lambda: talk.cluster._models._restated)
        await api.until(
            lambda: known in [o.metadata.resource_version for o in talk.cluster._models._restated.values()]
        )
        assert len(talk.cluster._models._restated) <= 2  # the object, in each version of the API
        go_on.set()
        await api.until(lambda: talk.told.model_changes and talk.merged())
        await api.until(lambda: "Accepted" in talk.conditions("inferencemodels", "a"))
        assert talk.conditions("inferencemodels", "a")["Ready"] == ("True", "Fine")
        assert len(api.asked("PATCH", "/inferencemodels")) == 1  # not first upon what was merged


async def test_requests_are_routed_while_models_are_merged(
    api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    merging, routed = threading.Event(), threading.Event()

    def merge_slowly(*args: Any) -> Merged:
        merging.set()
        assert routed.wait(10), "the event loop stood still"
        return merge(*args)

    monkeypatch.setattr("extproc.kube.cluster_models.merge", merge_slowly)
    api.put(inference_model("a", model="qwq", targets={"qwq-32b": 100}))
    async with talking(api, POOL) as talk:
        await asyncio.to_thread(merging.wait, 10)
        assert talk.cluster.waiting() == ["models were not listed yet"]
        routed.set()
        await api.until(lambda: talk.told.model_changes and talk.merged().models == [QWQ])
        assert talk.cluster.waiting() == []


async def test_a_config_that_comes_during_a_merge_is_merged_instead(
    api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    merging, go_on = threading.Event(), threading.Event()

    def merge_slowly(*args: Any) -> Merged:
        merging.set()
        assert go_on.wait(10)
        return merge(*args)

    api.put(inference_model("a", model="qwq", targets={"qwq-32b": 100}))
    monkeypatch.setattr("extproc.kube.cluster_models.merge", merge_slowly)
    async with talking(api, POOL) as talk:
        await asyncio.to_thread(merging.wait, 10)
        talk.follow(POOL + "\nmodels: [{name: mine, pool: p}]")
        go_on.set()
        await api.until(lambda: talk.told.model_changes)
        assert [model.name for model in talk.merged().models] == ["mine", "qwq"]


async def test_objects_that_bring_about_a_bug_are_reported_and_keep_nobody_from_serving(
    api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*args: Any) -> Merged:
        raise RuntimeError("a bug")

    monkeypatch.setattr("extproc.kube.cluster_models.merge", stumble)
    monkeypatch.setattr("extproc.kube.cluster.FAULT_PAUSE_S", 0.01)
    async with talking(api, POOL) as talk:
        await api.until(lambda: talk.told.faults and talk.cluster.waiting() == [])
        monkeypatch.setattr("extproc.kube.cluster_models.merge", merge)
        api.put(inference_model("a", model="qwq", targets={"qwq-32b": 100}))
        await api.until(lambda: talk.told.model_changes and talk.merged().models == [QWQ])
        talk.told.faults.clear()


async def test_models_of_another_namespace_come_even_where_a_kind_is_forbidden_there(api: KubeApi) -> None:
    api.put(
        inference_pool("vllm", namespace="two", selector={"app": "vllm"}),
        inference_model("a", model="first"),
        inference_model("b", model="second", namespace="two"),
    )
    api.forbid("list", "inferenceobjectives", namespace="two")
    api.fail_next(
        6, 503, method="GET", path="/namespaces/two/inferenceobjectives"
    )  # it is the last to be known
    async with talking(api, POOL) as talk:
        await api.until(lambda: [model.name for model in talk.merged().models] == ["first"])
        talk.follow(POOL.replace("vllm}", "vllm, namespace: two}"))
        await api.until(lambda: [model.name for model in talk.merged().models] == ["second"])


async def test_models_are_waited_for_unless_they_cannot_be_had(api: KubeApi) -> None:
    api.fail_next(40, 503, method="GET", path="/inferencemodels")
    async with talking(api, POOL) as talk:
        await talk.until("p", "10.0.0.1:8000")
        (reason,) = talk.cluster.waiting()
        assert reason.startswith("models were not listed yet")
        await api.until(lambda: talk.cluster.waiting() == [])
    async with KubeApi(crds=["inferencepools.inference.networking.k8s.io"]) as bare:
        bare.put(inference_pool("vllm", selector={"app": "vllm"}))
        async with talking(bare, POOL) as talk:
            await bare.until(lambda: talk.told.model_changes and talk.cluster.waiting() == [])
            assert talk.cluster.notes() == ["pool p: it has no endpoints (no pods)"]
    api.forbid("list", "inferencemodels")
    async with talking(api, POOL) as talk:
        await api.until(lambda: talk.told.model_changes and talk.cluster.waiting() == [])
        assert 'resources: ["inferencemodels"], verbs: ["list"]' in talk.cluster.notes()[0]
