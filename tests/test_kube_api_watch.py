"""The API server that plays Kubernetes: watches, and how they go wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kube_api import KubeApi
from kube_api.talk import MODELS, PODS, Talk, talking, watching
from kube_objects import config_map, inference_model, pod


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    async with talking(KubeApi()) as one:
        yield one


async def test_a_watch_tells_what_came_after_its_revision_and_nothing_from_before(talk: Talk) -> None:
    talk.api.put(pod("before"))
    revision = await talk.revision()
    added = talk.api.put(pod("a"))
    async with watching(talk, revision) as watch:
        changed = talk.api.put(pod("a", ready=False))
        talk.api.put(config_map(), inference_model())
        talk.api.delete("pods", "llm", "a")
        await talk.api.until(lambda: len(watch.events) == 3)
    deleted = changed | {"metadata": changed["metadata"] | {"resourceVersion": str(talk.api.store.version)}}
    assert watch.events == [
        {"type": "ADDED", "object": added},
        {"type": "MODIFIED", "object": changed},
        {"type": "DELETED", "object": deleted},
    ]


async def test_a_watch_of_a_namespace_tells_of_it_alone_and_a_watch_of_all_of_all(talk: Talk) -> None:
    revision = await talk.revision()
    async with watching(talk, revision) as one, watching(talk, revision, "/api/v1/pods") as every:
        talk.api.put(pod("elsewhere", namespace="default"), pod("here"))
        await talk.api.until(lambda: one.events and len(every.events) == 2)
    assert one.told == [("ADDED", "here")]
    assert every.told == [("ADDED", "elsewhere"), ("ADDED", "here")]


async def test_a_watch_without_a_revision_tells_first_what_is_there(talk: Talk) -> None:
    talk.api.put(pod("a"), pod("b", labels={"app": "other"}))
    async with watching(talk, "0", labelSelector="app=vllm") as watch:
        talk.api.put(pod("c"))
        await talk.api.until(lambda: len(watch.events) == 2)
    assert watch.told == [("ADDED", "a"), ("ADDED", "c")]


async def test_initial_events_end_with_a_bookmark_that_says_so(talk: Talk) -> None:
    talk.api.put(pod("a"))
    query = {
        "sendInitialEvents": "true",
        "allowWatchBookmarks": "true",
        "resourceVersionMatch": "NotOlderThan",
    }
    async with watching(talk, "", **query) as watch:
        await talk.api.until(lambda: len(watch.events) == 2)
    assert watch.told == [("ADDED", "a"), ("BOOKMARK", "")]
    assert watch.events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_what_begins_to_match_a_selector_is_added_and_what_ends_is_deleted_as_it_last_matched(
    talk: Talk,
) -> None:
    talk.api.put(pod("a", labels={"app": "other"}))
    revision = await talk.revision()
    async with watching(talk, revision, labelSelector="app=vllm") as watch:
        matched = talk.api.put(pod("a", labels={"app": "vllm"}))
        left = talk.api.put(pod("a", labels={"app": "other"}))
        talk.api.put(pod("a", ready=False, labels={"app": "other"}))
        talk.api.delete("pods", "llm", "a")
        talk.api.put(pod("end"))
        await talk.api.until(lambda: ("ADDED", "end") in watch.told)
    assert watch.told == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "end")]
    last = matched["metadata"] | {"resourceVersion": left["metadata"]["resourceVersion"]}
    assert watch.events[1]["object"] == matched | {"metadata": last}


async def test_another_uid_is_another_object(talk: Talk) -> None:
    talk.api.put(pod("a", uid="one"))
    revision = await talk.revision()
    talk.api.put(pod("a", uid="two"))
    async with watching(talk, revision) as watch:
        await talk.api.until(lambda: len(watch.events) == 2)
    assert [(event["type"], event["object"]["metadata"]["uid"]) for event in watch.events] == [
        ("DELETED", "one"),
        ("ADDED", "two"),
    ]


async def test_bookmarks_say_how_far_it_is_to_those_who_ask(talk: Talk) -> None:
    revision = await talk.revision()
    async with (
        watching(talk, revision, allowWatchBookmarks="true") as asked,
        watching(talk, revision) as other,
    ):
        talk.api.put(config_map())
        talk.api.bookmark()
        talk.api.put(pod("a"))
        await talk.api.until(lambda: len(asked.events) == 2 and other.events)
    bookmark = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": str(int(revision) + 1), "creationTimestamp": None},
        "spec": {"containers": None},
        "status": {},
    }
    assert asked.events[0] == {"type": "BOOKMARK", "object": bookmark}
    assert (asked.told[1:], other.told) == ([("ADDED", "a")], [("ADDED", "a")])


async def test_a_watch_ends_with_a_bookmark_when_its_time_is_up(talk: Talk) -> None:
    revision = await talk.revision()
    async with watching(talk, revision, timeoutSeconds="1", allowWatchBookmarks="true") as watch:
        await talk.api.until(lambda: watch.ended)
    assert (watch.ended, watch.told) == ("end", [("BOOKMARK", "")])
    assert talk.api.watching == {}


@pytest.mark.parametrize("told_as", ["event", "http"])
async def test_a_forgotten_revision_is_410(talk: Talk, told_as: str) -> None:
    talk.api.expired_as = "event" if told_as == "event" else "http"
    revision = await talk.revision()
    async with watching(talk, revision) as running:
        talk.api.compact()
        async with watching(talk, revision) as late:
            await talk.api.until(lambda: late.ended)
        talk.api.put(pod("a"))
        await talk.api.until(lambda: running.events)
    assert running.told == [("ADDED", "a")]
    said = late.events[0]["object"] if told_as == "event" else late.events[0]
    assert late.status == (200 if told_as == "event" else 410)
    assert said == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"too old resource version: {revision} ({int(revision) + 1})",
        "reason": "Expired",
        "code": 410,
    }


async def test_a_window_of_changes_is_remembered() -> None:
    async with talking(KubeApi(window=2)) as talk:
        revision = await talk.revision()
        talk.api.put(pod("a"), pod("b"))
        async with watching(talk, revision) as watch:
            await talk.api.until(lambda: len(watch.events) == 2)
        talk.api.put(pod("c"))
        async with watching(talk, revision) as watch:
            await talk.api.until(lambda: watch.ended)
        assert [(event["type"], event["object"]["code"]) for event in watch.events] == [("ERROR", 410)]


async def test_a_revision_that_is_not_yet_is_waited_for(talk: Talk) -> None:
    revision = await talk.revision()
    async with watching(talk, str(int(revision) + 1)) as watch:
        talk.api.put(pod("not told"), pod("told"))
        await talk.api.until(lambda: watch.events)
    assert watch.told == [("ADDED", "told")]


@pytest.mark.parametrize("mid_line", [False, True])
async def test_dropped_watches_break_without_an_end(talk: Talk, mid_line: bool) -> None:
    revision = await talk.revision()
    async with watching(talk, revision) as watch:
        talk.api.drop_watches(mid_line=mid_line)
        await talk.api.until(lambda: watch.ended)
    assert (watch.ended, watch.events) == ("ClientPayloadError", [])
    await talk.api.until(lambda: not talk.api.watching)


async def test_ended_watches_end_properly(talk: Talk) -> None:
    revision = await talk.revision()
    async with watching(talk, revision) as watch:
        talk.api.put(pod("a"))
        talk.api.end_watches()
        await talk.api.until(lambda: watch.ended)
    assert (watch.ended, watch.told) == ("end", [("ADDED", "a")])


async def test_a_hung_watch_is_open_and_silent_while_others_run(talk: Talk) -> None:
    revision = await talk.revision()
    async with watching(talk, revision) as hung:
        talk.api.hang_watches()
        async with watching(talk, revision) as other:
            talk.api.put(pod("a"))
            await talk.api.until(lambda: other.events)
            assert (hung.events, hung.ended, talk.api.watching) == ([], "", {PODS: 2})
        talk.api.resume_watches()
        await talk.api.until(lambda: hung.events)
    assert hung.told == [("ADDED", "a")]


async def test_a_hung_watch_that_the_client_gives_up_is_gone(talk: Talk) -> None:
    revision = await talk.revision()
    async with watching(talk, revision):
        talk.api.hang_watches()
    await talk.api.until(lambda: not talk.api.watching)


async def test_a_stop_breaks_watches_even_hung_ones(talk: Talk) -> None:
    revision = await talk.revision()
    async with watching(talk, revision) as hung, watching(talk, revision) as running:
        talk.api.hang_watches()
        await talk.api.stop()
        await talk.api.until(lambda: hung.ended and running.ended)
    assert (hung.ended, running.ended) == ("ClientPayloadError", "ClientPayloadError")


async def test_a_watch_that_does_not_read_is_ended(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kube_api.watch.MOST_PENDING", 3)
    revision = await talk.revision()
    async with watching(talk, revision) as watch:
        talk.api.hang_watches()
        talk.api.put(*(pod(name) for name in "abcde"))
        talk.api.resume_watches()
        await talk.api.until(lambda: watch.ended)
    assert (watch.ended, watch.events) == ("end", [])


async def test_events_come_twice_when_told_so(talk: Talk) -> None:
    talk.api.duplicates = 2
    revision = await talk.revision()
    async with watching(talk, revision) as watch:
        talk.api.put(pod("a"))
        await talk.api.until(lambda: len(watch.events) == 2)
    assert watch.events[0] == watch.events[1]


async def test_a_line_may_be_garbage(talk: Talk) -> None:
    revision = await talk.revision()
    async with watching(talk, revision) as watch:
        talk.api.send_line()
        talk.api.put(pod("a"))
        await talk.api.until(lambda: watch.events)
    assert (watch.garbage, watch.told) == ([b'{"type":"MODIFIED","object":{"kin\n'], [("ADDED", "a")])


async def test_a_crd_that_is_deleted_tells_its_watches_and_ends_them(talk: Talk) -> None:
    talk.api.put(inference_model("qwq"))
    revision = await talk.revision(MODELS)
    async with watching(talk, revision, MODELS) as watch:
        talk.api.uninstall("inferencemodels.inference.networking.x-k8s.io")
        await talk.api.until(lambda: watch.ended)
    assert (watch.told, watch.ended) == ([("DELETED", "qwq")], "end")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=12),
    seed=st.integers(0, 9),
    chunk_bytes=st.sampled_from([0, 97, 4000]),
)
async def test_whatever_the_order_and_the_splits_each_object_tells_its_own_story(
    writes: list[tuple[str, bool]], seed: int, chunk_bytes: int
) -> None:
    async with talking(KubeApi()) as talk:
        talk.api.chunk_bytes = chunk_bytes
        revision = await talk.revision()
        async with watching(talk, revision) as watch:
            with talk.api.reordered(seed):
                for name, ready in writes:
                    talk.api.put(pod(name, ready=ready))
            talk.api.put(config_map())
            talk.api.put(pod("end"))
            await talk.api.until(lambda: ("ADDED", "end") in watch.told)
        told: dict[str, list[int]] = defaultdict(list)
        for event in watch.events[:-1]:
            told[event["object"]["metadata"]["name"]].append(
                int(event["object"]["metadata"]["resourceVersion"])
            )
        assert told == {name: sorted(set(revisions)) for name, revisions in told.items()}
        assert {name: story[-1] for name, story in told.items()} == {
            one["metadata"]["name"]: int(one["metadata"]["resourceVersion"])
            for one in talk.api.objects("pods")
            if one["metadata"]["name"] != "end"
        }
