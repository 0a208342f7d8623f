"""From what the Kubernetes API tells to the members of pools: InferencePools, Services, selectors, nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from cluster_talk import talking
from kube_api import KubeApi
from kube_objects import endpoint, endpoint_slice, inference_pool, node, pod, service

from extproc.member import Member

POOL = "pools: [{name: p, kubernetes: {inference_pool: vllm}}]"
SERVICE = "pools: [{name: p, kubernetes: {service: vllm}}]"
SELECTOR = "pools: [{name: p, kubernetes: {selector: {app: vllm}, port: [8000, 8001]}}]"
A, B = "10.0.0.1:8000", "10.0.0.2:8000"
APP = {"app": "vllm"}


@pytest.fixture
async def api() -> AsyncIterator[KubeApi]:
    async with KubeApi() as served:
        yield served


def two_pods(api: KubeApi) -> None:
    api.put(pod("vllm-0", "10.0.0.1", labels=APP), pod("vllm-1", "10.0.0.2", labels=APP))


@pytest.mark.parametrize("version", ["v1", "v1alpha2", "v1alpha1"])
async def test_an_inference_pool_of_any_version_is_the_pods_that_it_selects(
    api: KubeApi, version: str
) -> None:
    two_pods(api)
    api.put(pod("other", "10.0.0.3", labels={"app": "other"}))
    api.put(inference_pool("vllm", version=version, selector=APP))
    async with talking(api, POOL) as talk:
        await talk.until("p", A, B)
        assert talk.told.tellings == [("p", [A, B])]
        api.terminate("llm", "vllm-0")
        await talk.until("p", B)


async def test_a_pool_whose_selector_changes_keeps_its_members_until_the_others_are_listed(
    api: KubeApi,
) -> None:
    two_pods(api)
    api.put(pod("new", "10.0.0.3", labels={"app": "new"}), inference_pool("vllm", selector=APP))
    async with talking(api, POOL) as talk:
        await talk.until("p", A, B)
        api.put(inference_pool("vllm", selector={"app": "new"}, ports=[9000]))
        await talk.until("p", "10.0.0.3:9000")
        assert talk.told.tellings == [("p", [A, B]), ("p", ["10.0.0.3:9000"])]
        api.put(inference_pool("vllm", selector={"app": "nobody"}))
        await talk.until("p")


async def test_a_pool_that_is_not_there_has_no_members_and_says_so_until_it_comes(api: KubeApi) -> None:
    two_pods(api)
    async with talking(api, POOL) as talk:
        await talk.until("p")
        assert talk.told.problems == {"p": "there is no InferencePool vllm in namespace llm"}
        missing = ["pool p: there is no InferencePool vllm in namespace llm"]
        await api.until(lambda: talk.cluster.waiting() == missing)
        assert talk.cluster.notes() == missing
        api.put(inference_pool("vllm", selector=APP))
        await talk.until("p", A, B)
        assert (talk.told.problems, talk.cluster.waiting()) == ({"p": ""}, [])
        api.delete("inferencepools.inference.networking.k8s.io", "llm", "vllm")
        await talk.until("p")


async def test_without_any_crd_of_inference_pools_it_is_the_same() -> None:
    async with KubeApi(crds=[]) as bare, talking(bare, POOL) as talk:
        await talk.until("p")
        assert talk.told.problems == {"p": "there is no InferencePool vllm in namespace llm"}
        two_pods(bare)
        bare.install("inferencepools.inference.networking.x-k8s.io", "v1alpha1")
        bare.put(inference_pool("vllm", version="v1alpha1", selector=APP))
        await talk.until("p", A, B)


async def test_a_pool_that_selects_every_pod_selects_none(api: KubeApi) -> None:
    two_pods(api)
    api.put(inference_pool("vllm", version="v1alpha2", selector={}))
    async with talking(api, POOL) as talk:
        await talk.until("p")
        assert talk.told.problems == {"p": "InferencePool vllm: its selector is empty, which selects nothing"}


@pytest.mark.parametrize("fault", [{"targetPorts": [{"number": "eighty"}]}, {"selector": {}}])
async def test_a_pool_that_says_nothing_usable_any_more_keeps_its_endpoints_and_follows_its_pods(
    api: KubeApi, fault: dict[str, Any]
) -> None:
    two_pods(api)
    api.put(inference_pool("vllm", selector=APP))
    async with talking(api, POOL) as talk:
        await talk.until("p", A, B)
        broken = inference_pool("vllm", selector=APP)
        broken["spec"] |= fault
        api.put(broken)
        await api.until(lambda: talk.told.problems.get("p"))
        api.delete("pods", "llm", "vllm-0")
        await talk.until("p", B)
        assert talk.told.problems["p"].startswith("InferencePool vllm")
        api.put(inference_pool("vllm", selector=APP, ports=[9000]))
        await talk.until("p", "10.0.0.2:9000")
        assert talk.told.problems["p"] == ""


async def test_a_pool_that_is_missing_keeps_nobody_from_being_ready_who_has_another(api: KubeApi) -> None:
    two_pods(api)
    api.put(inference_pool("vllm", selector=APP))
    async with talking(api, POOL.replace("]", ", {name: q, kubernetes: {inference_pool: typo}}]")) as talk:
        await talk.until("p", A, B)
        await talk.until("q")
        await api.until(lambda: talk.cluster.waiting() == [])
    async with talking(
        api, POOL.replace("vllm}", "typo}").replace("]", ", {name: q, endpoints: []}]")
    ) as talk:
        await talk.until("p")
        await api.until(lambda: talk.cluster.waiting() == [])


async def test_where_lists_are_allowed_and_watches_are_not_it_is_listed_now_and_then(api: KubeApi) -> None:
    two_pods(api)
    api.forbid("watch", "pods")
    async with talking(api, SELECTOR.replace("[8000, 8001]", "8000")) as talk:
        await talk.until("p", A, B)
        api.delete("pods", "llm", "vllm-0")
        await talk.until("p", B)
        missing = 'resources: ["pods"], verbs: ["watch"]'
        await api.until(
            lambda: missing in "".join(talk.cluster.notes())
        )  # not so for a moment after each list


async def test_why_a_pool_is_empty_is_said(api: KubeApi) -> None:
    api.put(
        inference_pool("vllm", selector=APP),
        pod("a", "10.0.0.1", labels=APP, ready=False),
        pod("b", "10.0.0.2", labels=APP, ready=False),
        pod("c", "10.0.0.3", labels=APP, annotations={"extproc/cordon": ""}),
    )
    async with talking(api, POOL) as talk:
        await talk.until("p")
        assert talk.cluster.notes() == ["pool p: it has no endpoints (1 cordoned, 2 not ready)"]
        api.put(pod("a", "10.0.0.1", labels=APP))
        await talk.until("p", A)
        assert talk.cluster.notes() == []


async def test_a_selector_with_two_ports_makes_two_endpoints_of_a_pod(api: KubeApi) -> None:
    api.put(pod("vllm-0", "10.0.0.1", labels=APP))
    async with talking(api, SELECTOR) as talk:
        await talk.until("p", A, "10.0.0.1:8001")


async def test_a_cordoned_pod_gets_no_new_request_until_it_is_uncordoned(api: KubeApi) -> None:
    two_pods(api)
    api.put(inference_pool("vllm", selector=APP))
    async with talking(api, POOL) as talk:
        await talk.until("p", A, B)
        api.put(pod("vllm-0", "10.0.0.1", labels=APP, annotations={"extproc/cordon": ""}))
        await talk.until("p", B)
        (told,) = talk.cluster.describe()["pools"]
        assert [(each.name, each.address, each.reason) for each in told["excluded"]] == [
            ("vllm-0", A, "cordoned")
        ]
        api.put(pod("vllm-0", "10.0.0.1", labels=APP, annotations={"extproc/cordon": "false"}))
        await talk.until("p", A, B)


async def test_labels_of_nodes_are_carried_over_where_asked(api: KubeApi) -> None:
    zone = "topology.kubernetes.io/zone"
    api.put(pod("vllm-0", "10.0.0.1", labels=APP, node="node-a"), inference_pool("vllm", selector=APP))
    api.put(node("node-a", labels={zone: "b"}))
    text = POOL.replace("vllm}", f"vllm, node_labels: [{zone}]}}")
    async with talking(api, text) as talk:
        await talk.until("p", A)
        assert talk.told.pools["p"][0].labels[zone] == "b"
        api.put(node("node-a", labels={zone: "c"}))
        await api.until(lambda: talk.told.pools["p"][0].labels[zone] == "c")


async def test_where_nodes_may_not_be_watched_their_labels_are_missing_and_it_is_said(api: KubeApi) -> None:
    two_pods(api)
    api.put(inference_pool("vllm", selector=APP))
    api.forbid("list", "nodes")
    async with talking(api, POOL.replace("vllm}", "vllm, node_labels: [zone]}")) as talk:
        await talk.until("p", A, B)
        (note,) = talk.cluster.notes()
        assert 'resources: ["nodes"], verbs: ["list"]' in note


async def test_a_service_is_its_endpoint_slices_with_the_labels_of_its_pods(api: KubeApi) -> None:
    api.put(
        pod("vllm-0", "10.0.0.1", labels=APP | {"version": "v1"}, uid="u0"), service("vllm", selector=APP)
    )
    api.put(
        endpoint_slice(endpoints=[endpoint("10.0.0.1", pod="vllm-0", uid="u0"), endpoint("10.0.0.9", pod="")])
    )
    async with talking(api, SERVICE) as talk:
        await api.until(lambda: len(talk.addresses()) == 2)
        by_address = {each.address: each for each in talk.told.pools["p"]}
        assert by_address[A].labels["version"] == "v1"
        assert by_address["10.0.0.9:8000"].labels == {}
        api.terminate("llm", "vllm-0")  # the pod's own news come before its slice's
        await talk.until("p", "10.0.0.9:8000")


async def test_a_service_works_without_the_right_to_watch_pods(api: KubeApi) -> None:
    api.put(pod("vllm-0", "10.0.0.1", labels=APP, uid="u0"), service("vllm", selector=APP))
    api.put(endpoint_slice(endpoints=[endpoint("10.0.0.1", pod="vllm-0", uid="u0")]))
    api.forbid("list", "pods")
    async with talking(api, SERVICE) as talk:
        await talk.until("p", A)
        assert talk.told.pools["p"] == (Member(A, {}, "u0"),)


@pytest.mark.parametrize(("plural", "text"), [("pods", SELECTOR), ("endpointslices", SERVICE)])
async def test_what_a_pool_cannot_do_without_is_waited_for(api: KubeApi, plural: str, text: str) -> None:
    two_pods(api)
    api.put(service("vllm", selector=APP), endpoint_slice(endpoints=[endpoint("10.0.0.1", pod="vllm-0")]))
    api.forbid("list", plural)
    async with talking(api, text) as talk:
        await api.until(lambda: "forbidden" in "".join(talk.cluster.waiting()))
        (reason,) = talk.cluster.waiting()
        assert reason.startswith(f"pool p: its endpoints were not listed yet: cannot list {plural}")
        assert f'resources: ["{plural}"], verbs: ["list"]' in reason
        assert talk.told.pools == {}
        api.allow("list", plural)
        await api.until(lambda: talk.addresses() and talk.cluster.waiting() == [])


async def test_a_lost_api_server_leaves_the_last_known_set_in_force_and_says_so(api: KubeApi) -> None:
    two_pods(api)
    api.put(inference_pool("vllm", selector=APP))
    async with talking(api, POOL) as talk:
        await talk.until("p", A, B)
        await api.stop()
        await api.until(
            lambda: any("pods in namespace llm: no contact" in note for note in talk.cluster.notes())
        )
        assert talk.addresses() == [A, B]
        api.delete("pods", "llm", "vllm-0")
        await api.start()
        await talk.until("p", B)
        await api.until(lambda: talk.cluster.notes() == [])


async def test_a_config_that_comes_follows_what_is_new_and_goes_on_with_what_was(api: KubeApi) -> None:
    two_pods(api)
    api.put(inference_pool("vllm", selector=APP))
    async with talking(api, POOL) as talk:
        await talk.until("p", A, B)
        lists = len(api.asked("GET", "/pods", limit="100"))
        talk.follow(POOL.replace("]", ", {name: q, kubernetes: {selector: {app: vllm}, port: 9000}}]"))
        await talk.until("q", "10.0.0.1:9000", "10.0.0.2:9000")
        assert len(api.asked("GET", "/pods", limit="100")) == lists + 1
        talk.follow("pools: [{name: q, kubernetes: {selector: {app: vllm}, port: 9000}}]")
        await api.until(lambda: api.watching.get("/api/v1/namespaces/llm/pods") == 1)
        api.delete("pods", "llm", "vllm-0")
        await talk.until("q", "10.0.0.2:9000")
        assert talk.addresses("p") == [A, B]  # nobody follows it any more


async def test_an_object_that_cannot_be_read_is_told_of_and_harms_no_other(api: KubeApi) -> None:
    two_pods(api)
    api.put(inference_pool("vllm", selector=APP))
    async with talking(api, POOL) as talk:
        await talk.until("p", A, B)
        broken = pod("vllm-0", "10.0.0.1", labels=APP)
        broken["status"]["conditions"] = "all well"
        api.put(broken)
        await talk.until("p", B)
        assert talk.told.unreadable == ["vllm-0"]


async def test_of_a_pool_that_several_api_groups_have_the_newest_counts_whoever_answers_first(
    api: KubeApi,
) -> None:
    api.put(pod("vllm-0", "10.0.0.1", labels=APP), pod("old", "10.0.0.3", labels={"app": "old"}))
    api.put(inference_pool("vllm", version="v1alpha2", selector={"app": "old"}))
    api.put(inference_pool("vllm", selector=APP))
    api.fail_next(20, 503, method="GET", path="/apis/inference.networking.k8s.io/v1")
    async with talking(api, POOL) as talk:
        await talk.until("p", A)
        assert talk.told.tellings == [("p", [A])]


async def test_a_pool_that_may_not_be_read_is_waited_for(api: KubeApi) -> None:
    two_pods(api)
    api.put(inference_pool("vllm", selector=APP))
    api.forbid("list", "inferencepools")
    async with talking(api, POOL) as talk:
        await api.until(lambda: "forbidden" in "".join(talk.cluster.waiting()))
        assert talk.told.pools == {}
        api.allow("list", "inferencepools")
        await talk.until("p", A, B)


async def test_pods_of_a_selector_that_was_replaced_are_watched_no_longer(api: KubeApi) -> None:
    two_pods(api)
    api.put(inference_pool("vllm", selector=APP))
    async with talking(api, POOL) as talk:
        await talk.until("p", A, B)
        for app in ("x", "y", "z"):
            api.put(inference_pool("vllm", selector={"app": app}))
            await talk.until("p")
            api.put(inference_pool("vllm", selector=APP))
            await talk.until("p", A, B)
        await api.until(lambda: api.watching.get("/api/v1/namespaces/llm/pods") == 1)


async def test_a_service_that_gains_a_second_port_keeps_its_endpoints_and_the_operator_is_told(
    api: KubeApi,
) -> None:
    api.put(service("vllm", selector={}), endpoint_slice(endpoints=[endpoint("10.0.0.1")]))
    async with talking(api, SERVICE) as talk:
        await talk.until("p", A)
        both = {"http": 8000, "metrics": 9090}
        api.put(
            endpoint_slice(endpoints=[endpoint("10.0.0.1"), endpoint("10.0.0.2", pod="vllm-1")], ports=both)
        )
        problem = 'the Service has several ports: http (8000), metrics (9090); say which one with "port:"'
        await api.until(lambda: talk.told.problems.get("p"))
        assert talk.told.problems == {"p": problem}
        assert talk.addresses() == [A]
        api.put(endpoint_slice(endpoints=[endpoint("10.0.0.2", pod="vllm-1")]))
        await talk.until("p", B)
        assert talk.told.problems == {"p": ""}


async def test_a_service_that_is_not_there_is_told_of_until_it_comes(api: KubeApi) -> None:
    async with talking(api, SERVICE) as talk:
        await talk.until("p")
        await api.until(lambda: talk.cluster.notes() == ["pool p: there is no such Service"])
        api.put(service("vllm", selector={}), endpoint_slice(endpoints=[endpoint("10.0.0.1")]))
        await talk.until("p", A)
        await api.until(lambda: talk.cluster.notes() == [])


async def test_a_service_that_is_scaled_to_zero_has_no_endpoints_and_no_problem(api: KubeApi) -> None:
    api.put(service("vllm", selector={}), endpoint_slice(endpoints=[endpoint("10.0.0.1")]))
    async with talking(api, SERVICE) as talk:
        await talk.until("p", A)
        api.put(endpoint_slice(endpoints=[], ports={}))
        await talk.until("p")
        assert talk.told.problems.get("p", "") == ""


async def test_what_was_known_of_pods_holds_when_a_service_no_longer_selects_them(api: KubeApi) -> None:
    api.put(pod("vllm-0", "10.0.0.1", labels=APP, uid="u0"), service("vllm", selector=APP))
    api.put(endpoint_slice(endpoints=[endpoint("10.0.0.1", pod="vllm-0", uid="u0")]))
    async with talking(api, SERVICE) as talk:
        await talk.until("p", A)
        api.put(service("vllm", selector={}))
        await api.until(lambda: not api.watching.get("/api/v1/namespaces/llm/pods"))
        assert [each.labels["app"] for each in talk.told.pools["p"]] == ["vllm"]
