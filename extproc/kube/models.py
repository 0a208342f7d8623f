"""From a config file and a cluster's model objects to one config, and what to tell the objects' authors.

A name belongs to the file's entry, or else to the pool of its oldest claimant; there the oldest InferenceModel says
how much it matters, and what serves it unless an InferenceModelRewrite does: the first rule of the oldest.  The newer
API decides over targets, as it exists to do so; it has no criticality, which would be lost if it replaced the
InferenceModel.  A rule for any model counts where nobody claims a name.  Pure; linear in the objects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ..config.checks import check
from ..config.schema import ANY_MODEL, Config, ObjectiveConfig
from .model_claims import Claim, Listing, Refusal, of_model, of_objective, of_rewrite
from .model_objects import (
    LLM_D_GROUP,
    POOL_GROUPS,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    Key,
    Verdict,
)
from .model_verdicts import OVERRIDDEN, Judgement, reports, verdicts

YOUNGEST: Final = "~"
"""Sorts behind every RFC 3339 time: of an object that nobody has stored yet."""

AnyObject = InferenceModel | InferenceModelRewrite | InferenceObjective
Refusals = dict[Key, Refusal]


class PoolIdentity(Struct, frozen=True):
    """An InferencePool that one of our pools follows."""

    namespace: str
    name: str


class ModelObjects(Struct, frozen=True):
    """All that a cluster has, in any order."""

    models: Sequence[InferenceModel] = ()
    rewrites: Sequence[InferenceModelRewrite] = ()
    objectives: Sequence[InferenceObjective] = ()


class _Candidate(Struct, frozen=True, gc=False):
    """An object that speaks of one of our pools."""

    key: Key
    source: AnyObject
    pool: str
    """Ours."""

    @property
    def name(self) -> tuple[str, str, str]:
        """The same in both groups."""
        plural, _, namespace, name = self.key
        return plural, namespace, name

    @property
    def age(self) -> tuple[str, str, str, str]:
        plural, _, namespace, name = self.key
        return self.source.metadata.creation_timestamp or YOUNGEST, namespace, name, plural


class Merged(Struct, frozen=True):
    """What came of it; the same for the same objects, whatever their order."""

    config: Config
    verdicts: tuple[Verdict, ...]
    """One for each object that speaks of our pools."""
    reports: tuple[str, ...]
    """Lines for the log: what objects ask for and do not get."""
    refusals: tuple[Refusal, ...] = ()
    """The same, one by one."""


def merge(config: Config, pools: Mapping[str, PoolIdentity], objects: ModelObjects) -> Merged:
    """*config* with the models and objectives of *objects* that refer to one of *pools* (by our names for them).

    Objects of other pools are another picker's.  *config* is free of faults, and so is what comes out.
    """
    candidates = _candidates(config, pools, objects)
    refusals = _superseded(candidates)
    while True:
        merging = _Merging(config)
        for candidate in candidates:
            merging.judge(candidate, refusals.get(candidate.key))
        merged = merging.config()
        faulty = merging.faulty(merged)
        if not faulty:
            judgements = dict(sorted(merging.judgements.items()))
            refused = tuple(refusal for each in judgements.values() for refusal in each.refused)
            return Merged(merged, verdicts(judgements, merging.listings), reports(refused), refused)
        refusals |= faulty


def _candidates(config: Config, pools: Mapping[str, PoolIdentity], objects: ModelObjects) -> list[_Candidate]:
    """The oldest first."""
    names: dict[tuple[str, str], str] = {}
    for pool in config.pools:
        if identity := pools.get(pool.name):
            names.setdefault((identity.namespace, identity.name), pool.name)
    found: dict[Key, _Candidate] = {}
    sources: list[AnyObject] = [*objects.models, *objects.rewrites, *objects.objectives]
    for source in sources:
        ref = source.spec.pool_ref
        ours = names.get((source.metadata.namespace, ref.name))
        if ours is None or ref.kind != "InferencePool" or ref.group not in POOL_GROUPS:
            continue
        key = source.key
        twin = found.get(key)  # an API server that has an object in two versions tells it twice
        if twin is None or twin.source.version < source.version:
            found[key] = _Candidate(key, source, ours)
    return sorted(found.values(), key=lambda candidate: candidate.age)


def _superseded(candidates: Sequence[_Candidate]) -> Refusals:
    """Those that have moved to llm-d's group, where they are found again."""
    moved = {c.name for c in candidates if c.key[1] == LLM_D_GROUP}
    return {
        c.key: Refusal(c.source, "Superseded", f"the object of this name in {LLM_D_GROUP} counts instead")
        for c in candidates
        if moved and c.key[1] != LLM_D_GROUP and c.name in moved
    }


class _Merging:
    """Takes the objects one by one, the oldest first."""

    def __init__(self, config: Config) -> None:
        self.listings: dict[str, Listing] = {}
        self.judgements: dict[Key, Judgement] = {}
        self._config = config
        self._models = {model.name for model in config.models}
        self._objectives = {(objective.name, objective.pool) for objective in config.objectives}
        self._offers: list[tuple[ObjectiveConfig, Key]] = []

    def judge(self, candidate: _Candidate, refusal: Refusal | None) -> None:
        """What comes of *candidate*; *refusal*: nothing."""
        judgement = self.judgements[candidate.key] = Judgement(candidate.source, [], [])
        for asked in (refusal,) if refusal else _asked(candidate.source, candidate.pool):
            if isinstance(asked, Claim):
                answer: Claim | ObjectiveConfig | Refusal = self._claim(asked)
            elif isinstance(asked, ObjectiveConfig):
                answer = self._offer(asked, candidate)
            else:
                answer = asked
            if isinstance(answer, Refusal):
                judgement.refused.append(answer)
            else:
                judgement.granted.append(answer)

    def _claim(self, claim: Claim) -> Claim | Refusal:
        what = "any model" if claim.name == ANY_MODEL else f"model `{claim.name}`"
        if claim.name in self._models:
            return Refusal(claim.source, OVERRIDDEN, f"the file's entry for {what} wins", claim.where)
        default = self._config.default_pool_name
        if claim.name == ANY_MODEL and claim.pool != default:
            goes = f"go to pool `{default}`" if default else "are refused"
            text = f"never reached: models that are not listed {goes}"
            return Refusal(claim.source, "NotReachable", text, claim.where)
        listing = self.listings.setdefault(claim.name, Listing(claim.pool))
        holder = listing.take(claim)
        if holder is not None:
            created = holder.source.metadata.creation_timestamp or "never stored"
            text = f"{what} is in use by {holder.source} (created: {created})"
            return Refusal(claim.source, "ModelNameInUse", text, claim.where)
        return claim

    def _offer(self, offer: ObjectiveConfig, by: _Candidate) -> ObjectiveConfig | Refusal:
        if (offer.name, offer.pool) in self._objectives or (offer.name, None) in self._objectives:
            return Refusal(by.source, OVERRIDDEN, f"the file's entry for objective `{offer.name}` wins")
        self._offers.append((offer, by.key))
        return offer

    def config(self) -> Config:
        """The file's models and objectives, then the cluster's, by name."""
        if not self.listings and not self._offers:
            return self._config
        self.listings = dict(sorted(self.listings.items()))
        self._offers.sort(key=lambda each: (each[0].name, each[0].pool or ""))
        return replace(
            self._config,
            models=[*self._config.models, *(listing.config() for listing in self.listings.values())],
            objectives=[*self._config.objectives, *(offer for offer, _ in self._offers)],
        )

    def faulty(self, merged: Config) -> Refusals:
        """What makes *merged* contradict itself: nothing, unless a check knows more than we do here."""
        origins = {
            "models": [[claim.source for claim in listing.claims] for listing in self.listings.values()],
            "objectives": [[self.judgements[key].source] for _, key in self._offers],
        }
        files = {"models": len(self._config.models), "objectives": len(self._config.objectives)}
        found: Refusals = {}
        for fault in check(merged):
            match = _PATH.match(fault.path)
            if match is None or int(match[2]) < files[match[1]]:
                continue  # the file's own
            for source in origins[match[1]][int(match[2]) - files[match[1]]]:
                found[source.key] = Refusal(source, "Invalid", f"{match[3]}: {fault.text}")
        return found


_PATH = re.compile(r"\$\.(models|objectives)\[(\d+)\]\.?(.*)")


def _asked(source: AnyObject, pool: str) -> Sequence[Claim | ObjectiveConfig | Refusal]:
    match source:
        case InferenceModel():
            return (of_model(source, pool),)
        case InferenceObjective():
            return (of_objective(source, pool),)
        case InferenceModelRewrite():
            return list(of_rewrite(source, pool)) or (Refusal(source, "NoTargets", "no rules"),)
