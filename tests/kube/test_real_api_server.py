"""Attached to a real kube-apiserver over a real etcd, as any of them: the played one proves only what we believe.

EXTPROC_KUBE_APISERVER=/path/to/kube-apiserver EXTPROC_ETCD=/path/to/etcd pytest -m kube tests/kube
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from attached_service import PORT, config_of, vllm_pod, world
from kube_objects import (
    inference_model,
    inference_objective,
    model_rewrite,
    node,
    rewrite_rule,
)
from real_cluster import Object, RealCluster, Refused

API_SERVER, ETCD = os.environ.get("EXTPROC_KUBE_APISERVER", ""), os.environ.get("EXTPROC_ETCD", "")
CRDS = Path(__file__).parent / "crds"
GUIDE = Path(__file__).parent.parent / "data" / "guide"
GROUPS = ("inference.networking.x-k8s.io", "llm-d.ai")
BACK_S = 45.0
"""After an outage the service waits for up to 30 s before it asks again (`Timings.max_pause_s`)."""
ZONE = "topology.kubernetes.io/zone"

pytestmark = [
    pytest.mark.kube,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        not (shutil.which(API_SERVER) and shutil.which(ETCD)),
        reason="no API server: set EXTPROC_KUBE_APISERVER and EXTPROC_ETCD to the programs",
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealCluster]:
    """For all tests: each has a namespace of its own."""
    async with RealCluster(API_SERVER, ETCD, tmp_path_factory.mktemp("cluster")) as started:
        crds = [yaml.safe_load(file.read_text()) for file in sorted(CRDS.glob("*.yaml"))]
        await started.install(*crds)
        yield started


async def test_pods_are_members_from_ready_to_terminating(cluster: RealCluster, tmp_path: Path) -> None:
    pods = [vllm_pod("life", number, ready=number != 3) for number in (1, 2, 3)]
    async with world(cluster, tmp_path, "life", *pods) as attached:
        await attached.until_members(1, 2)
        await cluster.patch(pods[2], {"status": attached.pod(3)["status"]}, "status")
        await attached.until_members(1, 2, 3)
        await cluster.create(attached.pod(4))
        await attached.until_members(1, 2, 3, 4)

        await cluster.delete(pods[0])  # as kubectl does: it has 30 s, and nobody here says that it ended
        assert "deletionTimestamp" in (await cluster.get(pods[0]))["metadata"]
        await attached.until_members(2, 3, 4)
        await cluster.delete(pods[0], grace_s=0)

        await cluster.patch(pods[1], {"metadata": {"finalizers": ["example.com/drain"]}})
        await cluster.delete(pods[1], grace_s=0)
        await attached.until_members(3, 4)
        await cluster.patch(pods[1], {"metadata": {"finalizers": None}})
        with pytest.raises(Refused):
            await cluster.get(pods[1])
        await cluster.create(attached.pod(1))  # of the old name, with another uid
        await attached.until_members(1, 3, 4)


async def test_a_pod_is_cordoned_by_its_annotation_and_left_out_by_its_labels(
    cluster: RealCluster, tmp_path: Path
) -> None:
    pods = [vllm_pod("cordon", number) for number in (1, 2)]
    async with world(cluster, tmp_path, "cordon", *pods) as attached:
        await attached.until_members(1, 2)
        await cluster.patch(pods[0], {"metadata": {"annotations": {"extproc/cordon": "true"}}})
        await attached.until_members(2)
        await cluster.patch(pods[0], {"metadata": {"annotations": {"extproc/cordon": None}}})
        await attached.until_members(1, 2)
        await cluster.patch(pods[1], {"metadata": {"labels": {"app": "other"}}})
        await attached.until_members(1)
        await cluster.patch(pods[1], {"metadata": {"labels": {"app": "vllm"}}})
        await attached.until_members(1, 2)


async def test_a_pool_that_selects_others_has_others(cluster: RealCluster, tmp_path: Path) -> None:
    pods = [vllm_pod("select", 1), vllm_pod("select", 2, labels={"app": "new"})]
    async with world(cluster, tmp_path, "select", *pods) as attached:
        await attached.until_members(1)
        pool: Object = {"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool"}
        pool |= {"metadata": {"name": "vllm", "namespace": "select"}}
        ports = [{"number": PORT}, {"number": PORT + 1}]
        await cluster.patch(pool, {"spec": {"selector": {"matchLabels": {"app": "new"}}}})
        await attached.until_members(2)
        await cluster.patch(pool, {"spec": {"targetPorts": ports}})

        async def ports_told() -> bool:
            return sorted(await attached.members()) == [f"127.0.1.2:{port['number']}" for port in ports]

        await attached.until(ports_told)


async def test_conditions_are_written_to_every_kind_and_the_lease_is_given_up_at_the_end(
    cluster: RealCluster, tmp_path: Path
) -> None:
    models = [
        inference_model("qwq", model="qwq", targets={"qwq-32b": 100}, namespace="models"),
        model_rewrite(rules=[rewrite_rule(["a"], {"b": 1})], namespace="models"),
        model_rewrite("new", rules=[rewrite_rule(["c"], {"d": 1})], namespace="models", group="llm-d.ai"),
        inference_objective("first", namespace="models"),
        inference_objective("second", namespace="models", group="llm-d.ai"),
    ]
    lost = inference_model("lost", model="lost", pool="another", namespace="models")
    async with world(cluster, tmp_path, "models", vllm_pod("models", 1), *models, lost) as attached:
        for model in models:
            assert await attached.until(lambda m=model: attached.verdict(m)) == ("True", "Accepted", 1)
        assert await attached.verdict(lost) is None  # of a pool that is not ours
        (lease,) = await attached.leases()
        assert lease["spec"].keys() >= {"holderIdentity", "acquireTime", "renewTime"}

        second = inference_model("second", model="qwq", targets={"x": 1}, namespace="models")
        await cluster.create(second)  # in the same second, perhaps: then the names decide
        assert await attached.until(lambda: attached.verdict(second)) == ("False", "ModelNameInUse", 1)
        assert attached.log("kubernetes_write_failed") == []
    (lease,) = await attached.leases()
    assert "holderIdentity" not in lease["spec"]


async def test_labels_of_nodes_are_carried_over(cluster: RealCluster, tmp_path: Path) -> None:
    machine = node("node-b", labels={ZONE: "z1"})
    config = config_of("nodes", node_labels=[ZONE])
    await cluster.create(machine)
    pods = [vllm_pod("nodes", 1, node="node-b")]
    async with world(cluster, tmp_path, "nodes", *pods, config=config) as attached:

        async def zone() -> Any:
            return (await attached.members()).get(f"127.0.1.1:{PORT}", {}).get(ZONE)

        assert await attached.until(zone) == "z1"
        await cluster.patch(machine, {"metadata": {"labels": {ZONE: "z2"}}})

        async def moved() -> bool:
            return await zone() == "z2"

        await attached.until(moved)


async def test_the_guides_model_is_admitted_and_its_pool_where_no_picker_is_asked_for(
    cluster: RealCluster, tmp_path: Path
) -> None:
    """Upstream's v1alpha1 wants an extensionRef, which the guide's pool does not have."""
    pool, model = (
        yaml.safe_load((GUIDE / f"inference-{kind}.yaml").read_text()) for kind in ("pool", "model")
    )
    pool["metadata"]["namespace"] = model["metadata"]["namespace"] = "guide"
    source = {"inference_pool": pool["metadata"]["name"], "namespace": "guide"}
    config = {"pools": [{"name": "p", "kubernetes": source}]}
    pods = [vllm_pod("guide", 1, labels={"app": "qwq-32b"})]
    told = {**pool, "spec": {**pool["spec"], "extensionRef": {"name": "extproc"}}}
    async with world(cluster, tmp_path, "guide", *pods, model, config=config, pool=told) as attached:
        await attached.until_members(1)
        assert await attached.until(lambda: attached.verdict(model)) == ("True", "Accepted", 1)
        with pytest.raises(Refused, match=r"spec\.extensionRef: Required value"):
            await cluster.create({**pool, "metadata": {**pool["metadata"], "name": "word-by-word"}})


async def test_while_the_api_server_is_away_the_last_known_pods_hold_and_later_all_that_it_missed_comes(
    cluster: RealCluster, tmp_path: Path
) -> None:
    pods = [vllm_pod("away", number) for number in (1, 2)]
    async with world(cluster, tmp_path, "away", *pods) as attached:
        await attached.until_members(1, 2)
        async with cluster.another():
            await cluster.stop()
            await attached.until(lambda: attached.state_is("pods", "lost"))
            await cluster.delete(pods[0], grace_s=0)
            await cluster.create(attached.pod(3))
            await cluster.compact()
            assert (await attached.members()).keys() == {f"127.0.1.{number}:{PORT}" for number in (1, 2)}
            await cluster.start()
        await attached.until_members(2, 3, within_s=BACK_S)
        await attached.until(lambda: attached.state_is("pods", "synced"))
    asked = [(line["verb"], line["objectRef"]["resource"]) for line in cluster.asked_by("away")]
    lists = [each for each in asked if each == ("list", "pods")]
    assert len(lists) == 2  # what it was told to go on from was too old


async def test_the_printed_rights_suffice_and_none_is_too_much(cluster: RealCluster, tmp_path: Path) -> None:
    """But for `get`, which by custom goes with list and watch.  Of EndpointSlices 1.20 has no v1 to be watched."""
    config = config_of("rights", node_labels=[ZONE])
    config["pools"].append({"name": "s", "kubernetes": {"service": "vllm", "namespace": "rights"}})
    objects = [vllm_pod("rights", 1), *every_model("rights")]
    async with world(cluster, tmp_path, "rights", *objects, config=config, ready=False) as attached:
        await attached.until_members(1)
        for model in every_model("rights"):
            await attached.until(lambda m=model: attached.verdict(m))
        await attached.until(lambda: attached.state_is("nodes", "synced"))
    asked = cluster.asked_by("rights")
    assert {line["responseStatus"]["code"] for line in asked} <= {200, 201, 404}
    used = {right_used(line["objectRef"], line["verb"]) for line in asked}
    granted = await granted_in(cluster, "rights")
    assert used <= granted
    unused = {right for right in granted - used if right[2] != "get"}
    assert unused <= {("discovery.k8s.io", "endpointslices", "watch")}


def every_model(namespace: str) -> list[Object]:
    rules = [rewrite_rule(["a"], {"b": 1})]
    return [
        inference_model("qwq", model="qwq", targets={"qwq-32b": 100}, namespace=namespace),
        *(model_rewrite(rules=rules, namespace=namespace, group=group) for group in GROUPS),
        *(inference_objective("first", namespace=namespace, group=group) for group in GROUPS),
    ]


Right = tuple[str, str, str]


def right_used(ref: Object, verb: str) -> Right:
    parts = (ref["resource"], *([ref["subresource"]] if "subresource" in ref else []))
    return (ref.get("apiGroup", ""), "/".join(parts), verb)


async def granted_in(cluster: RealCluster, namespace: str) -> set[Right]:
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    roles = [
        await cluster.request("GET", f"{rbac}/namespaces/{namespace}/roles/extproc"),
        await cluster.request("GET", f"{rbac}/clusterroles/{namespace}-extproc"),
    ]
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


async def test_a_right_that_is_refused_is_named_as_the_role_must_have_it(
    cluster: RealCluster, tmp_path: Path
) -> None:
    keep = lambda right: right["kind"] not in ("Role", "RoleBinding")  # noqa: E731
    async with world(
        cluster, tmp_path, "refused", vllm_pod("refused", 1), ready=False, keep=keep
    ) as attached:
        await attached.until(lambda: attached.state_is("inferencepools", "forbidden"))
        user = "system:serviceaccount:refused:extproc"
        assert await attached.says(
            "cannot list inferencepools.inference.networking.k8s.io in namespace refused: 403: "
            f'inferencepools.inference.networking.k8s.io "vllm" is forbidden: User "{user}" cannot list resource '
            '"inferencepools" in API group "inference.networking.k8s.io" in the namespace "refused" '
            '(the Role needs apiGroups: ["inference.networking.k8s.io"], resources: ["inferencepools"], '
            'verbs: ["list"])'
        )


async def test_a_token_that_is_not_taken_is_said_and_the_next_one_is_taken_up(
    cluster: RealCluster, tmp_path: Path
) -> None:
    forged = "eyJhbGciOiJSUzI1NiJ9.e30.AAAA"
    pods = [vllm_pod("token", 1)]
    async with world(cluster, tmp_path, "token", *pods, token=forged, ready=False) as attached:
        said = "cannot list inferencepools.inference.networking.k8s.io in namespace token: 401: Unauthorized"
        await attached.until(lambda: attached.says(said))
        attached.token_file.write_text(await cluster.token("token", "extproc"))
        await attached.until_members(1)
