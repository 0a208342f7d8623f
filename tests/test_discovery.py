"""What the cluster tells becomes members in force at once, and log lines that can be read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from cluster_talk import talking
from fleets import NOW, fleet
from kube_api import KubeApi
from kube_objects import inference_pool, pod
from msgspec import convert

from extproc import discovery
from extproc.discovery import Discovery
from extproc.kube.objects import Pod
from extproc.member import Member
from extproc.metrics import Metrics
from extproc.telemetry import Telemetry

CLUSTER = "pools: [{name: p, kubernetes: {inference_pool: vllm}}]"


class Discovered:
    """A discovery that no server is asked for, and what it logs."""

    def __init__(self) -> None:
        self.fleet = fleet(CLUSTER)
        capture = structlog.testing.LogCapture()
        self.lines: list[Any] = capture.entries
        log = structlog.wrap_logger(None, processors=[capture])
        telemetry = Telemetry(Metrics(self.fleet, lambda: NOW, "0"), log)
        self.changes = 0
        self.discovery = Discovery(None, self.fleet, telemetry, lambda: NOW, self._changed, lambda: None)

    def _changed(self) -> None:
        self.changes += 1

    def tell(self, count: int) -> None:
        members = tuple(Member(f"10.0.0.{number}:80") for number in range(count))
        self.discovery.kube_members("p", members)


def line(endpoints: int, changes: int) -> dict[str, Any]:
    return {
        "event": "pool_members",
        "log_level": "info",
        "pool": "p",
        "endpoints": endpoints,
        "changes": changes,
    }


async def test_many_changes_of_a_pool_are_in_force_each_at_once_and_two_log_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "TELL_S", 0.02)
    told = Discovered()
    for count in range(1, 51):
        told.tell(count)
        assert told.fleet.size("p") == count
    assert told.changes == 50
    assert told.lines == [line(1, 1)]
    await asyncio.sleep(0.1)
    assert told.lines == [line(1, 1), line(50, 49)]
    told.tell(7)  # after a while of quiet, at once again
    assert told.lines == [line(1, 1), line(50, 49), line(7, 1)]


async def test_events_that_come_together_are_told_as_one_change_in_the_same_turn_of_the_loop() -> None:
    async with KubeApi() as api:
        pods = [pod(f"vllm-{number}", f"10.0.0.{number}", uid=f"u{number}") for number in range(1, 4)]
        api.put(*pods, inference_pool("vllm"))
        async with talking(api, CLUSTER) as talk:
            await talk.until("p", *(f"10.0.0.{number}:8000" for number in range(1, 4)))
            told = len(talk.told.tellings)
            ear = talk.cluster._pools["p"]._ears["pods"]
            assert ear.feed is not None
            for each in pods[:2]:
                terminating = each | {
                    "metadata": each["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}
                }
                ear.changed(ear.feed.resource, convert(terminating, Pod))
            await asyncio.sleep(0)
            assert talk.told.tellings[told:] == [("p", ["10.0.0.3:8000"])]
