"""Following a collection: list, watch, resume, and what can go wrong with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kube_api import KubeApi
from kube_followers import PATIENT, PODS, QUICK, Heard, broken, converged, following, stored
from kube_objects import inference_pool, pod

from extproc.kube.objects import InferencePoolV1
from extproc.kube.reflector import Timings
from extproc.kube.resource import Resource

PATH = PODS.path
POOLS = Resource("inference.networking.k8s.io", "v1", "inferencepools", "llm", InferencePoolV1)
POOLS_CRD = "inferencepools.inference.networking.k8s.io"


def watched_from(api: KubeApi) -> list[str]:
    return [request.query["resourceVersion"] for request in api.asked("GET", PATH, watch="true")]


async def test_the_whole_list_is_told_first_and_then_what_changes() -> None:
    async with KubeApi() as api:
        api.put(pod("a"), pod("b"))
        async with following(api) as follows:
            assert follows.heard.told == ["listed a b"]
            api.put(pod("c"), pod("a", ip="10.0.0.9"))
            api.delete("pods", "llm", "b")
            await api.until(lambda: len(follows.heard.told) == 4)
            assert follows.heard.told[1:] == ["changed c", "changed a", "deleted b"]
            assert follows.heard.objects["a"].status.pod_ip == "10.0.0.9"
            assert (follows.status.state, follows.status.objects, follows.status.detail) == ("synced", 2, "")
            assert follows.heard.states == ["synced"]


async def test_an_empty_collection_is_told_too() -> None:
    async with KubeApi() as api, following(api) as follows:
        assert (follows.heard.told, follows.status.state) == (["listed "], "synced")


async def test_the_list_is_asked_for_as_it_is_now_and_in_pages() -> None:
    async with KubeApi() as api:
        api.put(*[pod(f"p{number:03}") for number in range(250)])
        async with following(api) as follows:
            lists = [request.query for request in api.asked("GET", PATH) if "watch" not in request.query]
            assert [query.get("limit") for query in lists] == ["100", "100", "100"]
            assert ["continue" in query for query in lists] == [False, True, True]
            assert not any("resourceVersion" in query for query in lists)
            assert follows.heard.uids == stored(api)


async def test_a_watch_asks_for_bookmarks_and_an_end_and_goes_on_from_the_list() -> None:
    async with KubeApi() as api:
        version = api.put(pod("a"))["metadata"]["resourceVersion"]
        async with following(api):
            [query] = [request.query for request in api.asked("GET", PATH, watch="true")]
            assert query == {
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": version,
                "timeoutSeconds": "1",
            }


async def test_a_watch_that_ends_is_resumed_from_the_last_event_without_a_list() -> None:
    async with KubeApi() as api, following(api, timings=PATIENT) as follows:
        version = api.put(pod("a"))["metadata"]["resourceVersion"]
        await converged(api, follows)
        api.end_watches()
        await api.until(lambda: len(watched_from(api)) == 2)
        assert (watched_from(api)[1], follows.heard.lists) == (version, 1)
        assert follows.heard.states == ["synced"]


async def test_a_watch_that_is_cut_is_resumed_from_the_last_bookmark() -> None:
    async with KubeApi() as api:
        api.put(pod("a"))
        async with following(api, timings=PATIENT) as follows:
            api.put(inference_pool())  # the revision moves on elsewhere
            api.bookmark()
            await api.until(lambda: "BOOKMARK" in follows.heard.events)
            api.drop_watches()
            await api.until(lambda: len(watched_from(api)) == 2)
            first, second = map(int, watched_from(api))
            assert second > first
            assert (follows.heard.lists, follows.heard.told) == (1, ["listed a"])


async def test_what_happened_while_nobody_watched_is_told_after_the_resumption() -> None:
    async with KubeApi() as api:
        api.put(pod("a"), pod("b"))
        async with following(api, timings=PATIENT) as follows:
            api.drop_watches()
            api.put(pod("c"))
            api.delete("pods", "llm", "a")
            await converged(api, follows)
            assert follows.heard.told == ["listed a b", "changed c", "deleted a"]


@pytest.mark.parametrize("form", ["event", "http"])
async def test_after_410_a_new_list_replaces_and_what_vanished_in_the_gap_is_gone(form: Any) -> None:
    async with KubeApi() as api:
        api.expired_as = form
        api.put(pod("a"), pod("b"))
        async with following(api, timings=PATIENT) as follows:
            api.drop_watches()
            api.delete("pods", "llm", "a")
            api.compact()
            await api.until(lambda: follows.heard.lists == 2)
            assert follows.heard.told == ["listed a b", "listed b"]
            assert follows.heard.reasons.count("gone") == 1
            assert follows.heard.states == ["synced"]
            assert follows.status.objects == 1


async def test_a_connection_that_says_nothing_is_given_up_and_its_events_are_not_lost() -> None:
    async with KubeApi() as api, following(api) as follows:
        api.hang_watches()
        api.put(pod("a"))
        await converged(api, follows)
        assert follows.heard.lists == 1
        [(reason, detail)] = follows.heard.errors
        assert (reason, detail) == ("unavailable", "cannot watch pods in namespace llm: no answer in time")


@pytest.mark.parametrize("fault", ["null_item", "null_items"])
async def test_a_list_with_null_in_it_is_taken_in(fault: Any) -> None:
    async with KubeApi() as api:
        api.put(pod("a"))
        api.break_next_list(fault)
        async with following(api) as follows:
            assert follows.heard.lists == 1
            assert follows.heard.errors == []


@pytest.mark.parametrize("fault", ["truncated", "cut", "not_json"])
async def test_a_list_that_cannot_be_read_is_asked_for_again(fault: Any) -> None:
    async with KubeApi() as api:
        api.put(pod("a"))
        api.break_next_list(fault, 2)
        async with following(api) as follows:
            assert follows.heard.told == ["listed a"]
            assert len(follows.heard.errors) == 2
            assert follows.heard.states == ["synced"]


async def test_before_the_first_list_nothing_is_told_and_nothing_counts_as_lost() -> None:
    async with KubeApi() as api:
        api.fail_next(3, 503)
        async with following(api, until="") as follows:
            await api.until(lambda: len(follows.heard.errors) == 2)
            assert (follows.heard.told, follows.status.state) == ([], "starting")
            assert follows.status.detail.startswith("cannot list pods in namespace llm: 503")
            await api.until(lambda: follows.status.state == "synced")
            assert follows.status.detail == ""


async def test_a_lost_server_leaves_the_last_known_set_and_is_found_again_on_its_port() -> None:
    async with KubeApi() as api:
        api.put(pod("a"))
        async with following(api) as follows:
            await api.stop()
            await api.until(lambda: follows.status.state == "lost")
            assert follows.heard.told == ["listed a"]
            assert "cannot watch pods in namespace llm: " in follows.status.detail
            await api.start()
            await api.until(lambda: follows.status.state == "synced")
            api.put(pod("b"))
            await converged(api, follows)
            assert follows.heard.states == ["synced", "lost", "synced"]
            assert follows.heard.lists == 1


async def test_a_server_that_wants_to_be_left_alone_is() -> None:
    async with KubeApi() as api:
        api.fail_next(1, 429, retry_after_s=1)
        async with following(api, until="") as follows:
            await api.until(lambda: follows.heard.errors)
            loop = asyncio.get_running_loop()
            refused_at = loop.time()
            await api.until(lambda: follows.heard.lists)
            assert loop.time() - refused_at > 0.8


async def test_a_collection_that_does_not_exist_is_empty_and_looked_for_again() -> None:
    async with KubeApi(crds=[]) as api, following(api, POOLS, until="") as follows:
        await api.until(lambda: len(api.requests) >= 3)
        assert (follows.heard.told, follows.heard.states) == (["listed "], ["absent"])
        assert follows.heard.errors[0][1].startswith(
            "cannot list inferencepools.inference.networking.k8s.io in namespace llm: 404: "
        )
        api.install(POOLS_CRD)
        api.put(inference_pool("p"))
        await api.until(lambda: "p" in follows.heard.objects)
        assert follows.heard.states == ["absent", "synced"]


async def test_objects_go_with_their_crd_but_not_by_the_first_404() -> None:
    async with KubeApi() as api:
        api.put(inference_pool("p"))
        async with following(api, POOLS) as follows:
            api.fail_next(3, 404)
            api.drop_watches()
            await api.until(lambda: follows.heard.reasons.count("not_found") == 3 and api.watching)
            assert set(follows.heard.objects) == {"p"}
            await asyncio.sleep(QUICK.absent_after_s)
            api.fail_next(1, 404)
            api.drop_watches()
            await api.until(lambda: follows.heard.reasons.count("not_found") == 4 and api.watching)
            assert "absent" not in follows.heard.states
            api.uninstall(POOLS_CRD)
            await api.until(lambda: follows.status.state == "absent")
            assert (follows.heard.objects, follows.status.objects) == ({}, 0)


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_what_the_role_lacks_is_named_and_tried_again(verb: str) -> None:
    async with KubeApi() as api:
        api.forbid(verb, "pods")
        async with following(api, until="") as follows:
            await api.until(lambda: len(follows.heard.errors) >= 3)
            assert follows.status.state == "forbidden"
            assert follows.heard.states[-1] == "forbidden"
            assert follows.status.detail.startswith(f"cannot {verb} pods in namespace llm: 403: ")
            assert follows.status.detail.endswith(
                f'(the Role needs apiGroups: [""], resources: ["pods"], verbs: ["{verb}"])'
            )
            api.allow(verb, "pods")
            await api.until(lambda: follows.status.state == "synced" and api.watching)


@pytest.mark.parametrize("where", ["listed", "changed", "deleted", "malformed"])
async def test_a_bug_in_the_listener_is_reported_and_the_collection_listed_again(where: str) -> None:
    async with KubeApi() as api:
        heard = Heard()
        heard.fail_on = where
        async with following(api, timings=PATIENT, heard=heard, until="") as follows:
            await api.until(lambda: api.watching)
            api.put(pod("a"), pod("b"), broken("c"))
            await api.until(lambda: {"a", "b"} <= set(heard.objects))
            api.delete("pods", "llm", "a")
            await api.until(lambda: heard.faults and set(heard.objects) == {"b"})
            assert [str(fault)[:10] for fault in heard.faults] == ["a bug at: "]
            await api.until(lambda: follows.status.state == "synced")
            assert heard.lists == 2


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_pause() -> None:
    async with KubeApi() as api:
        slow = Timings(first_pause_s=30.0, max_pause_s=30.0)
        async with following(api, timings=slow) as follows:
            for _ in range(3):
                api.end_watches()
                await asyncio.sleep(0.05)
            assert len(watched_from(api)) == 1
            assert follows.status.state == "synced"
