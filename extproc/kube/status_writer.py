"""Writes conditions to the `status` of objects, those that differ, while we are the one that writes."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, structs, to_builtins

from .client import KubeClient
from .failures import Conflict, Forbidden, KubeError, NotFound
from .model_objects import Condition, Identity, ModelObject, Verdict
from .resource import Resource

MAX_MESSAGE = 32768
"""Of a condition's message, by the schema of metav1.Condition."""


class WriteTimings(Struct, frozen=True):
    """Seconds."""

    between_s: float = 0.1
    """Ten writes a second: after an upgrade thousands may differ, and etcd is not ours alone."""
    again_s: float = 60.0
    """An object whose write failed is left alone that long; where we may not write, the whole resource is."""
    repeat_s: float = 10.0
    """Between two successful writes to one object: where somebody else insists on other words, it is no duel."""
    look_s: float = 1.0
    """How often it is looked whether we lead by now, or something may be tried again."""


TIMINGS = WriteTimings()
Subject = tuple[str, str, str, str, str]
"""Group, plural, namespace, name, uid: an object, whatever its state."""


class StatusWriter:
    """Give it the verdicts with `update`; `run` writes them.

    What was written comes back by the watch, as a newer object whose conditions are as wanted: until then the object
    is left alone.
    """

    def __init__(
        self,
        client: KubeClient,
        leading: Callable[[], bool],
        clock: Callable[[], float],
        on_error: Callable[[Resource, str, str], object],
        timings: WriteTimings = TIMINGS,
    ) -> None:
        self._client = client
        self._leading = leading
        self._clock = clock
        self._on_error = on_error
        self._timings = timings
        self._verdicts: dict[Subject, Verdict] = {}
        self._wanted: dict[Subject, Verdict] = {}
        """Those that an object does not have yet."""
        self._tried: dict[Subject, str] = {}
        """The resourceVersion that was written upon; the same one again would be a conflict."""
        self._not_before: dict[Subject, float] = {}
        self._refused: dict[tuple[str, str, str], float] = {}
        """(group, plural, namespace) where we may not write, and until when."""
        self._told: set[tuple[str, str, str]] = set()
        self._news = asyncio.Event()

    def update(self, verdicts: Sequence[Verdict]) -> None:
        """All that are wanted: of others, nothing is remembered."""
        self._verdicts = {_subject(verdict.object): verdict for verdict in verdicts}
        self._wanted = {subject: verdict for subject, verdict in self._verdicts.items() if _differs(verdict)}
        for remembered in (self._tried, self._not_before):
            for subject in remembered.keys() - self._verdicts.keys():
                del remembered[subject]
        self._news.set()

    def restated(self, obj: ModelObject) -> None:
        """*obj* is as it was judged, but for its conditions."""
        subject = _subject(obj.identity)
        verdict = self._verdicts.get(subject)
        if verdict is None or verdict.object.version != obj.version:
            return  # what the API tells in another version comes in this one, too
        verdict = structs.replace(verdict, object=obj.identity, current=obj.conditions)
        self._verdicts[subject] = verdict
        if _differs(verdict):
            self._wanted[subject] = verdict
            self._news.set()
        else:
            self._wanted.pop(subject, None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._news.clear()
            for subject in list(self._wanted):
                verdict = self._due(subject)
                if verdict is not None:
                    await self._write(subject, verdict)
                    await asyncio.sleep(self._timings.between_s)
            try:
                async with asyncio.timeout(self._timings.look_s):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _due(self, subject: Subject) -> Verdict | None:
        """What to write to it now, if anything: asked before each write, as all of it may have changed meanwhile."""
        verdict, now = self._wanted.get(subject), self._clock()
        if verdict is None or not self._leading():
            return None
        if self._tried.get(subject) == verdict.object.resource_version:
            return None
        later = max(self._not_before.get(subject, now), self._refused.get(subject[:3], now))
        return verdict if later <= now else None

    async def _write(self, subject: Subject, verdict: Verdict) -> None:
        target = verdict.object
        resource = Resource(target.group, target.version, target.plural, target.namespace, ModelObject)
        try:
            await self._client.patch_status(resource, target.name, status_patch(verdict, _now()))
        except (Conflict, NotFound):  # it has changed, or is gone, or its CRD has no status
            self._tried[subject] = target.resource_version
        except Forbidden as error:
            self._refused[subject[:3]] = self._clock() + self._timings.again_s
            self._tell_once(subject[:3], resource, error)
        except KubeError as error:
            self._not_before[subject] = self._clock() + self._timings.again_s
            self._on_error(resource, error.reason, error.detail)
        else:
            self._tried[subject] = target.resource_version
            self._not_before[subject] = self._clock() + self._timings.repeat_s
            self._told.discard(subject[:3])

    def _tell_once(self, where: tuple[str, str, str], resource: Resource, error: KubeError) -> None:
        if where not in self._told:
            self._told.add(where)
            self._on_error(resource, error.reason, error.detail)


def status_patch(verdict: Verdict, now: str) -> dict[str, Any]:
    """A merge patch that sets the wanted condition and keeps the others.

    A merge patch replaces a list as a whole; by the resourceVersion it fails where somebody else has changed it.
    `lastTransitionTime` is when the condition's status changed, not when it was written.
    """
    wanted, now_has = verdict.condition, _current(verdict)
    same = now_has is not None and now_has.status == wanted.status
    since = (now_has.last_transition_time if now_has and same else None) or now
    written = structs.replace(wanted, message=wanted.message[:MAX_MESSAGE], last_transition_time=since)
    others = [condition for condition in verdict.current if condition.type != wanted.type]
    return {
        "metadata": {"resourceVersion": verdict.object.resource_version},
        "status": {"conditions": [_json(condition) for condition in (*others, written)]},
    }


def _json(condition: Condition) -> dict[str, Any]:
    return {name: value for name, value in to_builtins(condition).items() if value is not None}


def _differs(verdict: Verdict) -> bool:
    wanted, now_has = verdict.condition, _current(verdict)
    if now_has is None:
        return True
    return structs.replace(
        wanted, message=wanted.message[:MAX_MESSAGE], last_transition_time=None
    ) != structs.replace(now_has, last_transition_time=None)


def _current(verdict: Verdict) -> Condition | None:
    return next((each for each in verdict.current if each.type == verdict.condition.type), None)


def _subject(of: Identity) -> Subject:
    return (of.group, of.plural, of.namespace, of.name, of.uid)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
