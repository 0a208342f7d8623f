"""Events of a watch: what is news, what is not, what cannot be read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from kube_api import KubeApi
from kube_followers import PATIENT, broken, converged, following
from kube_objects import pod

from extproc.kube.objects import Pod
from extproc.kube.resource import Resource


async def test_selectors_are_passed_on_and_what_leaves_them_is_gone_until_it_comes_back() -> None:
    resource = Resource("", "v1", "pods", "llm", Pod, "app=vllm", "spec.nodeName=node-a")
    async with KubeApi() as api:
        api.put(pod("a"), pod("other", labels={"app": "x"}), pod("far", node="node-b"))
        async with following(api, resource, PATIENT) as follows:
            assert follows.heard.told == ["listed a"]
            api.put(pod("a", labels={"app": "x"}))
            await api.until(lambda: follows.heard.told[1:] == ["deleted a"])
            api.put(pod("a"))
            await api.until(lambda: follows.heard.told[2:] == ["changed a"])


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_events_may_be_split_anywhere(size: int) -> None:
    async with KubeApi() as api:
        api.chunk_bytes = size
        async with following(api, timings=PATIENT) as follows:
            api.put(pod("a"), pod("b"))
            await converged(api, follows)


async def test_events_told_twice_are_told_once() -> None:
    async with KubeApi() as api:
        api.duplicates = 3
        async with following(api, timings=PATIENT) as follows:
            api.put(pod("a"))
            api.delete("pods", "llm", "a")
            api.put(pod("b"))
            await converged(api, follows)
            assert follows.heard.told == ["listed ", "changed a", "deleted a", "changed b"]


async def test_an_old_event_that_comes_after_the_deletion_does_not_resurrect() -> None:
    async with KubeApi() as api:
        api.put(pod("a"))
        async with following(api, timings=PATIENT) as follows:
            old = api.put(pod("a", ip="10.0.0.2"))
            api.delete("pods", "llm", "a")
            api.send_line(line("MODIFIED", old))
            api.put(pod("b"))
            await converged(api, follows)
            assert follows.heard.told == ["listed a", "changed a", "deleted a", "changed b"]


async def test_an_old_state_does_not_replace_a_newer_one() -> None:
    async with KubeApi() as api:
        old = api.put(pod("a"))
        async with following(api, timings=PATIENT) as follows:
            api.put(pod("a", ip="10.0.0.2"))
            api.send_line(line("MODIFIED", old))
            api.send_line(line("DELETED", old))
            api.put(pod("b"))
            await api.until(lambda: "b" in follows.heard.objects)
            assert follows.heard.objects["a"].status.pod_ip == "10.0.0.2"


async def test_a_new_object_of_the_same_name_replaces_and_the_old_ones_deletion_comes_too_late() -> None:
    async with KubeApi() as api:
        api.put(pod("a", uid="old"))
        async with following(api, timings=PATIENT) as follows:
            gone = api.get("pods", "llm", "a")
            api.drop_watches()
            api.put(pod("a", uid="new"))
            await converged(api, follows)
            api.send_line(line("DELETED", gone))
            api.put(pod("b"))
            await converged(api, follows)
            assert follows.heard.objects["a"].metadata.uid == "new"


async def test_events_of_several_objects_may_come_in_any_order() -> None:
    async with KubeApi() as api:
        api.put(pod("a"), pod("b"))
        async with following(api, timings=PATIENT) as follows:
            with api.reordered(seed=3):
                api.put(pod("c"), pod("a", ip="10.0.0.7"))
                api.delete("pods", "llm", "b")
                api.put(pod("d"))
            await converged(api, follows)


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\n",
        b'{"type":"MODIFIED"}\n',
        b'{"type":"UPSET","object":{}}\n',
        b'{"type":"ADDED","object":{"metadata":{}}}\n',
        b'{"type":"ADDED","object":7}\n',
        b'{"type":"ERROR","object":7}\n',
        b'{"type":"BOOKMARK","object":{"metadata":{}}}\n',
        b"\xff\xfe\n",
        b"[" * 5000 + b"\n",
    ],
)
async def test_a_line_that_is_no_event_makes_a_new_list(garbage: bytes) -> None:
    async with KubeApi() as api, following(api, timings=PATIENT) as follows:
        api.send_line(garbage)
        await api.until(lambda: follows.heard.lists == 2)
        [(reason, detail)] = follows.heard.errors
        assert reason == "malformed"
        assert detail.startswith("cannot watch pods in namespace llm: ")
        assert follows.heard.states == ["synced"]


async def test_a_pod_that_cannot_be_read_counts_as_absent_and_harms_no_other() -> None:
    async with KubeApi() as api:
        api.put(pod("a"), broken("b"), pod("c"))
        async with following(api, timings=PATIENT) as follows:
            assert follows.heard.told == ["listed a c", "malformed b"]
            assert follows.heard.unreadable == {
                "b": "Expected `object | null`, got `str` - at `$.status`",
            }
            api.put(broken("a"), pod("b"))
            await api.until(lambda: len(follows.heard.told) == 4)
            assert follows.heard.told[2:] == ["malformed a", "changed b"]
            assert (set(follows.heard.objects), follows.status.objects) == ({"b", "c"}, 2)
            api.delete("pods", "llm", "a")
            api.put(pod("d"))
            await api.until(lambda: "d" in follows.heard.objects)
            assert follows.heard.told[4:] == ["changed d"]


async def test_a_name_has_its_namespace_where_all_are_followed() -> None:
    async with KubeApi() as api:
        api.put(broken("b"))
        async with following(api, Resource("", "v1", "pods", None, Pod), PATIENT) as follows:
            assert set(follows.heard.unreadable) == {"llm/b"}


async def test_a_line_cut_in_the_middle_is_no_event_and_comes_again() -> None:
    async with KubeApi() as api, following(api, timings=PATIENT) as follows:
        api.drop_watches(mid_line=True)
        api.put(pod("a"))
        await converged(api, follows)
        assert (follows.heard.told, follows.heard.lists) == (["listed ", "changed a"], 1)


def line(type: str, obj: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"type": type, "object": obj}) + b"\n"
