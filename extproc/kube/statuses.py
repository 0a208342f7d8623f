"""What the authors of model objects are told in their `status`: by one replica, the one that has the Lease."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence

from .client import KubeClient
from .lease import Election
from .model_objects import ModelObject, Verdict
from .resource import Resource
from .status_writer import StatusWriter


class Statuses:
    """Writes verdicts while `run` runs; `close` it."""

    def __init__(
        self,
        client: KubeClient,
        clock: Callable[[], float],
        rng: random.Random,
        on_error: Callable[[Resource, str, str], object],
    ) -> None:
        """*on_error* is told of failures; of those in a row only of the first."""
        self._client = client
        self._clock = clock
        self._rng = rng
        self._on_error = on_error
        self._writer = StatusWriter(client, lambda: self.leading, clock, on_error)
        self._election: Election | None = None
        self._elections: set[asyncio.Task[None]] = set()
        """The one, and those that end."""
        self._standing_for: list[str] = []

    def write(self, verdicts: Sequence[Verdict], pools: Iterable[str]) -> None:
        """All that are to be told, of the models of *pools* (`namespace/name`)."""
        self._writer.update(verdicts)
        named = sorted(pools)
        if verdicts and named != self._standing_for:
            self._standing_for = named
            self._stand(lease_name(named))

    def restated(self, obj: ModelObject) -> None:
        """*obj* asks for what it asked for before, and has other conditions."""
        self._writer.restated(obj)

    def _stand(self, lease: str) -> None:
        """For the one replica that writes."""
        self._step_down()
        self._election = Election(
            self._client,
            self._client.namespace,
            lease,
            f"{socket.gethostname()}_{secrets.token_hex(4)}",
            self._clock,
            self._rng,
            self._on_error,
        )
        self._elections.add(asyncio.create_task(self._election.run(), name=f"election {lease}"))

    def _step_down(self) -> None:
        self._election = None
        self._elections = {task for task in self._elections if not task.done()}
        for task in self._elections:
            task.cancel()

    @property
    def leading(self) -> bool:
        """Whether we are the replica that writes."""
        return self._election is not None and self._election.leading

    async def run(self) -> None:
        """Until cancelled."""
        await self._writer.run()

    async def close(self) -> None:
        """Give the Lease up."""
        self._step_down()
        await asyncio.gather(*self._elections, return_exceptions=True)


def lease_name(pools: Sequence[str]) -> str:
    """Of the Lease that routers of the same *pools* (`namespace/name`) stand for: others have another."""
    digest = hashlib.sha256("\n".join(pools).encode()).hexdigest()
    return f"extproc-{digest[:10]}"
