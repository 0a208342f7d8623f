"""All figures of a run, as they are written to the JSON file and shown."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import msgspec
from msgspec import Struct

from extproc.benchmark.measures import Latency
from extproc.benchmark.statistics import paired_ratio

from .load import Load
from .plan import WAYS, Setting

CLEAR = 1.1
"""The simulator ranks two policies whose mean TTFTs differ by this factor; of others it says that they are alike."""
ALIKE = 1.05
"""So near to each other live, two policies contradict nothing: a repetition may well turn them round."""


class Figures(Struct, frozen=True, kw_only=True):
    """Of the calls sent after the warm-up, in the workload's own seconds."""

    calls: int
    failed_share: float
    """Refused, broken off, or without a first token to the end."""
    ttft: Latency
    tpot: Latency
    hit_ratio: float
    """Of the prompts' tokens; over all calls, those of the warm-up too, as the servers count them."""
    server_ttft_s: float
    """Mean, from the arrival at the server that was chosen, over all calls: what a policy is to answer for.  What HTTP,
    Envoy and the router take, which is not compressed, is in `ttft` only."""


class Result(Struct, frozen=True, kw_only=True):
    """One workload in one round, spread in one way."""

    workload: str
    round: int
    """Also the seed of its calls, which are the same for all policies of a round."""
    policy: str
    live: Figures
    simulated: Figures
    """The routing simulator's for the same calls."""
    replica_shares: tuple[float, ...]
    """Of all calls answered, live."""
    load: Load


class Pair(Struct, frozen=True, kw_only=True):
    """Two policies: how many times the other's mean TTFT one's is, over the rounds."""

    one: str
    other: str
    live: float
    simulated: float

    @property
    def clear(self) -> bool:
        """The simulator tells which is better."""
        return not 1 / CLEAR < self.simulated < CLEAR

    @property
    def contradicts(self) -> bool:
        """Live it is clearly the other."""
        live = self.live if self.simulated < 1 else 1 / self.live
        return self.clear and live > ALIKE

    @property
    def agrees(self) -> bool:
        return self.clear and (self.live < 1) == (self.simulated < 1)


class Verdict(Struct, frozen=True, kw_only=True):
    """Of one workload."""

    workload: str
    says: Literal["agrees", "disagrees", "cannot tell"]
    pairs: tuple[Pair, ...]
    too_slow: tuple[str, ...]
    """Why the machine was too slow in some runs."""


class Overhead(Struct, frozen=True, kw_only=True):
    """What a call costs beside the model server's own work, when nothing else goes on."""

    workload: str
    policy: str
    median_s: float
    """In real seconds; times the speed it is a part of each TTFT."""


class LiveReport(Struct, frozen=True, kw_only=True):
    settings: tuple[Setting, ...]
    cores: int
    wall_s: float
    results: tuple[Result, ...]
    overheads: tuple[Overhead, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def exit_status(self) -> int:
        """0: the ranking agrees everywhere; 1: it does not; 2: the machine was too slow to tell."""
        said = {verdict.says for verdict in self.verdicts}
        return 1 if "disagrees" in said else 2 if "cannot tell" in said else 0

    def json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


def verdict(workload: str, results: list[Result]) -> Verdict:
    """*results*: of this workload, every policy in the same rounds.  Policies are compared by mean TTFT."""
    policies = [way.name for way in WAYS]
    pairs = tuple(_pair(one, other, results) for one, other in combinations(policies, 2))
    slow = tuple(
        f"{result.policy}, round {result.round}: {result.load.too_slow}"
        for result in results
        if result.load.too_slow
    )
    failed = any(result.live.failed_share for result in results)
    sound = not failed and not any(pair.contradicts for pair in pairs)
    says: Literal["agrees", "disagrees", "cannot tell"]
    says = "agrees" if sound else "cannot tell" if slow else "disagrees"
    return Verdict(workload=workload, says=says, pairs=pairs, too_slow=slow)


def _pair(one: str, other: str, results: list[Result]) -> Pair:
    def ratio(live: bool) -> float:
        ours, theirs = (
            [(r.live if live else r.simulated).ttft.mean_s for r in results if r.policy == policy]
            for policy in (one, other)
        )
        return paired_ratio(ours, theirs).value

    return Pair(one=one, other=other, live=ratio(live=True), simulated=ratio(live=False))
