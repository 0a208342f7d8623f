"""Conditions in the status of objects: what differs is written, by the leader, gently."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kube_api import KubeApi
from kube_followers import Heard, Plain, following
from kube_objects import inference_model
from msgspec import structs

from extproc.kube.client import KubeClient
from extproc.kube.model_objects import Condition, InferenceModel, Verdict
from extproc.kube.objects import ObjectMeta
from extproc.kube.resource import Resource
from extproc.kube.status_writer import StatusWriter, WriteTimings, status_patch

MODELS = Resource("inference.networking.x-k8s.io", "v1alpha2", "inferencemodels", "llm", InferenceModel)
QUICK = WriteTimings(between_s=0.001, again_s=60.0, repeat_s=0.0, look_s=0.005)
NOW = "2026-11-22T06:00:00Z"
THEN = "2026-01-01T00:00:00Z"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def accepted(model: InferenceModel, message: str) -> Verdict:
    generation = model.metadata.generation
    condition = Condition("Accepted", "True", "Accepted", message, generation)
    return Verdict(model.identity, generation, condition, model.conditions)


class Judge(Heard):
    """Plays the rest of us: accepts every model that it hears of, and says so to the writer."""

    def __init__(self, message: str = "fine") -> None:
        super().__init__()
        self.message = message
        self.writer: StatusWriter | None = None
        self.restates = False
        """Judges nothing anew: says what the objects' conditions are now."""

    def verdicts(self) -> list[Verdict]:
        return [accepted(model, self.message) for model in self.objects.values()]

    def _tell(self, what: str) -> None:
        super()._tell(what)
        if self.restates and self.writer:
            self.writer.restated(self.objects[what.split()[1]])
        else:
            self.judge()

    def judge(self) -> None:
        if self.writer:
            self.writer.update(self.verdicts())


class Scene:
    """A writer that runs, beside a watch that feeds it."""

    def __init__(self, api: KubeApi, timings: WriteTimings, judge: Judge) -> None:
        self.api = api
        self.leads = True
        self.clock = Clock()
        self.errors: list[tuple[str, str]] = []
        self.judge = judge
        self.client = KubeClient(Plain(api.url))
        self.writer = StatusWriter(
            self.client, lambda: self.leads, self.clock, lambda _of, *what: self.errors.append(what), timings
        )
        judge.writer = self.writer

    @property
    def writes(self) -> int:
        return len(self.api.asked("PATCH"))

    def conditions(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (
            self.api.get("inferencemodels", "llm", name).get("status", {}).get("conditions", [])
        )
        return found

    def model(self, name: str) -> dict[str, Any]:
        """A copy, to be changed and put."""
        return copy.deepcopy(self.api.get("inferencemodels", "llm", name))

    def accepted(self, name: str) -> dict[str, Any] | None:
        return next((each for each in self.conditions(name) if each["type"] == "Accepted"), None)


@asynccontextmanager
async def scene(api: KubeApi, timings: WriteTimings = QUICK, leads: bool = True) -> AsyncIterator[Scene]:
    judge = Judge()
    made = Scene(api, timings, judge)
    made.leads = leads
    async with following(api, MODELS, heard=judge):
        task = asyncio.create_task(made.writer.run())
        try:
            yield made
        finally:
            assert not task.done(), task
            task.cancel()
            await asyncio.wait([task])
            await made.client.close()


async def rest() -> None:
    """Time for what must not happen: a dozen turns of the writer."""
    await asyncio.sleep(0.1)


async def test_conditions_are_written_once_and_what_comes_back_is_as_wanted() -> None:
    async with KubeApi() as api:
        api.put(inference_model("a"), inference_model("b"))
        async with scene(api) as here:
            await api.until(lambda: here.accepted("a") and here.accepted("b"))
            await rest()
            assert here.writes == 2
            written = here.accepted("a")
            assert written == {
                "type": "Accepted",
                "status": "True",
                "reason": "Accepted",
                "message": "fine",
                "observedGeneration": 1,
                "lastTransitionTime": written and written["lastTransitionTime"],
            }


async def test_a_condition_that_somebody_took_away_is_written_again_without_a_new_judgement() -> None:
    async with KubeApi() as api:
        api.put(inference_model("a"))
        async with scene(api) as here:
            await api.until(lambda: here.accepted("a"))
            here.judge.restates = True
            api.put(inference_model("a", status={"conditions": []}))
            await api.until(lambda: here.writes == 2 and here.accepted("a"))
            await rest()
            assert here.writes == 2
            here.judge.restates = False
            here.judge.judge()
            await rest()
            assert here.writes == 2


def test_what_another_version_of_the_api_tells_of_an_object_is_left_to_this_one() -> None:
    old = InferenceModel(
        ObjectMeta("a", "llm", "u", "1"), api_version="inference.networking.x-k8s.io/v1alpha1"
    )
    new = structs.replace(old, api_version="inference.networking.x-k8s.io/v1alpha2")
    writer = StatusWriter(KubeClient(Plain("http://127.0.0.1:1")), lambda: True, Clock(), lambda *_: None)
    writer.update([accepted(new, "fine")])
    writer.restated(old)
    assert [verdict.object.version for verdict in writer._wanted.values()] == ["v1alpha2"]


async def test_only_the_leader_writes_and_it_stops_when_it_leads_no_more() -> None:
    async with KubeApi() as api:
        api.put(*[inference_model(f"m{number}") for number in range(30)])
        async with scene(api, leads=False) as here:
            await rest()
            assert here.writes == 0
            here.leads = True
            await api.until(lambda: here.writes >= 3)
            here.leads = False
            count = here.writes
            await rest()
            assert here.writes <= count + 1
            here.leads = True
            await api.until(lambda: all(here.accepted(f"m{number}") for number in range(30)))
            assert here.writes == 30


async def test_a_changed_object_is_judged_and_written_again() -> None:
    async with KubeApi() as api:
        api.put(inference_model("a"))
        async with scene(api) as here:
            await api.until(lambda: here.accepted("a"))
            model = here.model("a")
            model["spec"]["modelName"] = "other"
            api.put(model)
            await api.until(lambda: (here.accepted("a") or {})["observedGeneration"] == 2)
            await rest()
            assert here.writes == 2


async def test_a_conflict_waits_for_the_newer_object() -> None:
    async with KubeApi() as api:
        api.put(inference_model("a"))
        async with scene(api, leads=False) as here:
            [old] = here.judge.verdicts()
            model = here.model("a")
            here.judge.writer = None  # the watch is late
            api.put(model | {"metadata": model["metadata"] | {"labels": {"x": "y"}}})
            here.writer.update([old])
            here.leads = True
            await api.until(lambda: here.writes == 1)
            await rest()
            assert (here.writes, here.accepted("a"), here.errors) == (1, None, [])
            here.judge.writer = here.writer
            here.judge.judge()
            await api.until(lambda: here.accepted("a"))
            await rest()
            assert here.writes == 2


async def test_an_object_that_is_gone_or_has_no_status_is_left_alone() -> None:
    async with KubeApi() as api:
        api.put(inference_model("a"), inference_model("b"))
        api.fail_next(1, 404, method="PATCH")
        async with scene(api) as here:
            await api.until(lambda: here.writes >= 2)
            await rest()
            assert (here.writes, here.errors) == (2, [])


async def test_what_is_forbidden_is_said_once_and_tried_once_a_minute_for_all_objects() -> None:
    async with KubeApi() as api:
        api.put(inference_model("a"), inference_model("b"))
        api.forbid("patch", "inferencemodels/status")
        async with scene(api) as here:
            for minutes in range(3):
                await api.until(lambda expected=minutes + 1: here.writes == expected)
                await rest()
                assert here.writes == minutes + 1
                here.clock.now += 60.0
            [(reason, detail)] = here.errors
            assert reason == "forbidden"
            assert detail.endswith('resources: ["inferencemodels/status"], verbs: ["patch"])')
            api.allow("patch", "inferencemodels/status")
            here.clock.now += 60.0
            await api.until(lambda: here.accepted("a") and here.accepted("b"))


async def test_an_object_that_fails_is_tried_once_a_minute_and_harms_no_other() -> None:
    async with KubeApi() as api:
        api.put(inference_model("a"), inference_model("b"))
        api.fail_next(100, 500, method="PATCH", path="/a/")
        async with scene(api) as here:
            await api.until(lambda: here.accepted("b") and here.errors)
            await rest()
            here.judge.judge()
            await rest()
            assert here.writes == 2
            here.clock.now += 60.0
            await api.until(lambda: here.writes == 3)
            assert {reason for reason, _ in here.errors} == {"unavailable"}


async def test_where_somebody_else_insists_on_other_words_it_is_no_duel() -> None:
    async with KubeApi() as api:
        api.put(inference_model("a"))
        async with scene(api, structs.replace(QUICK, repeat_s=10.0)) as here:
            for seconds in range(3):
                await api.until(lambda expected=seconds + 1: here.writes == expected)
                theirs = here.model("a")
                theirs["status"]["conditions"][-1]["message"] = f"no {seconds}"
                api.put(theirs)
                await rest()
                assert here.writes == seconds + 1
                here.clock.now += 10.0


async def test_what_is_wanted_no_more_is_not_written() -> None:
    async with KubeApi() as api:
        api.put(inference_model("a"))
        async with scene(api, leads=False) as here:
            here.writer.update([])
            here.leads = True
            await rest()
            assert here.writes == 0


def judged(wanted: Condition, *current: Condition) -> Verdict:
    model = InferenceModel(metadata=ObjectMeta("a", "llm", "u", "77", 3))
    return structs.replace(accepted(model, "fine"), condition=wanted, current=current)


WANTED = Condition("Accepted", "True", "Accepted", "fine", 3)
OTHER = Condition("Programmed", "False", "Pending", "", None, THEN)
WRITTEN = {
    "type": "Accepted",
    "status": "True",
    "reason": "Accepted",
    "message": "fine",
    "observedGeneration": 3,
}
KEPT = {
    "type": "Programmed",
    "status": "False",
    "reason": "Pending",
    "message": "",
    "lastTransitionTime": THEN,
}


@pytest.mark.parametrize(
    ("current", "conditions"),
    [
        ((), [WRITTEN | {"lastTransitionTime": NOW}]),
        ((OTHER,), [KEPT, WRITTEN | {"lastTransitionTime": NOW}]),
        (
            (structs.replace(WANTED, status="False", last_transition_time=THEN),),
            [WRITTEN | {"lastTransitionTime": NOW}],
        ),
        (
            (structs.replace(WANTED, message="old", last_transition_time=THEN), OTHER),
            [KEPT, WRITTEN | {"lastTransitionTime": THEN}],
        ),
        ((structs.replace(WANTED, message="old"),), [WRITTEN | {"lastTransitionTime": NOW}]),
    ],
)
def test_a_patch_sets_one_condition_keeps_the_others_and_stands_on_a_version(
    current: tuple[Condition, ...], conditions: list[dict[str, Any]]
) -> None:
    assert status_patch(judged(WANTED, *current), NOW) == {
        "metadata": {"resourceVersion": "77"},
        "status": {"conditions": conditions},
    }


def test_a_message_is_as_long_as_its_schema_allows() -> None:
    long = structs.replace(WANTED, message="x" * 40_000)
    [written] = status_patch(judged(long), NOW)["status"]["conditions"]
    assert len(written["message"]) == 32768
