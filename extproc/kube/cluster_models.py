"""The models of a cluster: from the objects that speak of them to the config, and back to their statuses.

Thousands of objects take a tenth of a second to merge.  So that happens in a thread, while this loop routes requests;
not for an object of which only the status changed, which we do ourselves to each; and with rests between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from ..config.schema import Config
from .ear import Report
from .feeds import Feed, Feeds
from .model_follower import ModelFollower
from .model_objects import Key, ModelObject
from .models import Merged, ModelObjects, PoolIdentity, merge
from .statuses import Statuses

SETTLE_S = 0.05
"""Changes within this time are one: a `kubectl apply` of a hundred is one new config, not a hundred."""
REST = 4.0
"""How many times as long as a merge took until the next begins: objects that change for ever cost a fifth of a core."""
MAX_REPORTED = 10_000
"""Reports that are remembered so as to be logged once."""


class _Known(Struct, frozen=True):
    """What was merged last, and what came of it."""

    config: Config
    merged: Merged


class ClusterModels:
    """Merges while `run` runs."""

    def __init__(
        self,
        feeds: Feeds,
        statuses: Statuses,
        clock: Callable[[], float],
        changed: Callable[[], None],
        report: Callable[[str], None],
        unreadable: Report,
    ) -> None:
        """*changed* is told when `merged` has other news; *report* of what an object asks for in vain, once."""
        self._feeds = feeds
        self._statuses = statuses
        self._clock = clock
        self._tell_changed = changed
        self._report = report
        self._unreadable = unreadable
        self._follower: ModelFollower | None = None
        self._config: Config | None = None
        self._identities: dict[str, PoolIdentity] = {}
        self._objects = ModelObjects()
        """As last told; another follower's, until the one in charge has told its own."""
        self._known: _Known | None = None
        self._taken = False
        """Whether what the follower in charge tells is in `_objects`."""
        self._restated: dict[tuple[Key, str], ModelObject] = {}
        """Since a merge began, by key and version."""
        self._reported: set[str] = set()
        self._news = asyncio.Event()

    def follow(self, config: Config, identities: Mapping[str, PoolIdentity]) -> None:
        """Follow the objects that speak of *identities*, InferencePools by our names for them."""
        self._config, self._identities = config, dict(identities)
        self._known = None
        namespaces = frozenset(identity.namespace for identity in identities.values())
        if self._follower is not None and self._follower.namespaces == namespaces:
            return
        if self._follower is not None:
            self._follower.stop()
            self._follower = None
        self._taken = False
        if namespaces:
            self._follower = ModelFollower(
                namespaces, self._feeds, self._news.set, self._heard_again, self._unreadable
            )

    def _heard_again(self, obj: ModelObject) -> None:
        self._restated[obj.key, obj.version] = obj
        self._statuses.restated(obj)

    def look(self) -> None:
        """A feed's state has changed: there may be nothing more to wait for."""
        if self._follower is not None and not self._taken:
            self._follower.look()

    def merged(self, config: Config) -> Merged:
        """*config*, the one that is followed, with the models of the cluster; their authors are told so."""
        if self._known is None or self._known.config is not config:
            self._restated.clear()
            self._known = _Known(config, merge(config, self._identities, self._current()))
        merged = self._known.merged
        self._statuses.write(
            merged.verdicts, [f"{each.namespace}/{each.name}" for each in self._identities.values()]
        )
        for obj in self._restated.values():
            self._statuses.restated(obj)
        for text in merged.reports:
            if text not in self._reported and len(self._reported) < MAX_REPORTED:
                self._reported.add(text)
                self._report(text)
        self._reported.intersection_update(merged.reports)
        return merged

    def _current(self) -> ModelObjects:
        """The objects as they are now, or as they were before they are all told of."""
        if self._follower is not None and self._follower.told:
            self._objects, self._taken = self._follower.objects(), True
        return self._objects

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(SETTLE_S)
            self._news.clear()
            started_at = self._clock()
            await self._merge()
            await asyncio.sleep(REST * (self._clock() - started_at))

    async def _merge(self) -> None:
        config, follower = self._config, self._follower
        if config is None or follower is None or not follower.told:
            return
        self._restated.clear()
        objects = follower.objects()
        try:
            merged = await asyncio.to_thread(merge, config, self._identities, objects)
        except Exception:
            self._taken = True  # a bug of ours: what objects brought it about must not keep us from serving
            raise
        if config is not self._config or follower is not self._follower:
            self._news.set()  # another config came meanwhile, which may count other objects
            return
        self._objects, self._taken = objects, True
        self._known = _Known(config, merged)
        self._tell_changed()

    def waiting(self) -> list[str]:
        """What is not known yet that requests need."""
        if self._follower is None or self._taken:
            return []
        detail = next((feed.status.detail for feed in self.feeds() if feed.status.detail), "")
        return [f"models were not listed yet{detail and f': {detail}'}"]

    def feeds(self) -> Iterator[Feed]:
        """All collections that are followed."""
        if self._follower is not None:
            yield from self._follower.feeds()
