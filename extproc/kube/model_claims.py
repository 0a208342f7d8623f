"""What one InferenceModel, InferenceModelRewrite or InferenceObjective asks for, looked at by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from ..config.schema import ANY_MODEL, Criticality, ModelConfig, ObjectiveConfig, TargetConfig
from ..model_name import is_usable
from .model_objects import InferenceModel, InferenceModelRewrite, InferenceObjective, ModelObject

MAX_TARGETS = 100
"""Of one model: each request's draw walks them all.  InferenceModel's schema allows 10, InferenceModelRewrite's any
number."""
MAX_WEIGHT = 1_000_000
"""As both schemas have it."""
MIN_PRIORITY, MAX_PRIORITY = -(2**31), 2**31 - 1
"""int32, as llm-d's schema has it."""
Targets = tuple[TargetConfig, ...]


class Claim(Struct, frozen=True, gc=False):
    """Requests for a model are to be served like this."""

    source: ModelObject
    pool: str
    """Ours."""
    name: str
    """Of the model; ANY_MODEL: those that nobody else claims."""
    targets: Targets
    """Empty: the model itself."""
    where: str = ""
    """Of what its object says: `rules[1]`; empty: all of it."""
    criticality: Criticality | None = None
    reserved: bool = False
    """Nobody serves it."""


class Refusal(Struct, frozen=True, gc=False):
    """What an object asks for and does not get."""

    source: ModelObject
    reason: str
    """CamelCase, as a condition has it."""
    text: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


class Listing(Struct, gc=False):
    """Who has a model's name: the first of each kind."""

    pool: str
    model: Claim | None = None
    rewrite: Claim | None = None

    @property
    def claims(self) -> list[Claim]:
        """The one that decides over targets first."""
        return [claim for claim in (self.rewrite, self.model) if claim is not None]

    def take(self, claim: Claim) -> Claim | None:
        """None: *claim* has what it asks for; else who has it already."""
        if claim.pool != self.pool:
            return self.claims[0]
        if isinstance(claim.source, InferenceModel):
            self.model, holder = self.model or claim, self.model
        else:
            self.rewrite, holder = self.rewrite or claim, self.rewrite
        return holder

    def config(self) -> ModelConfig:
        ruling = self.claims[0]
        return ModelConfig(
            name=ruling.name,
            pool=self.pool,
            criticality=self.model.criticality if self.model else None,
            targets=list(ruling.targets) or None,
            reserved=ruling.reserved,
        )


def of_model(model: InferenceModel, pool: str) -> Claim | Refusal:
    """The claim of *model*, whose pool is our *pool*."""
    spec = model.spec
    if fault := _name_fault(spec.model_name):
        return Refusal(model, "UnusableName", f"modelName {fault}")
    criticality = _CRITICALITIES.get(spec.criticality or "")
    if spec.criticality and criticality is None:
        known = ", ".join(_CRITICALITIES)
        return Refusal(model, "InvalidCriticality", f"criticality {spec.criticality!r} is none of {known}")
    given = [(target.name, target.weight) for target in spec.target_models]
    if fault := _targets_fault("targetModels", given):
        return Refusal(model, "InvalidTargets", fault)
    reserved = bool(given) and not any(weight is None or weight > 0 for _, weight in given)
    targets = () if reserved else _targets(given)
    return Claim(model, pool, spec.model_name, targets, "", criticality, reserved)


def of_rewrite(rewrite: InferenceModelRewrite, pool: str) -> Iterator[Claim | Refusal]:
    """The claims of *rewrite*, whose pool is our *pool*: one for each match of each rule, in order."""
    for index, rule in enumerate(rewrite.spec.rules):
        where = f"rules[{index}]"
        given = [(target.model_rewrite, target.weight) for target in rule.targets]
        if not given or not any(weight is None or weight > 0 for _, weight in given):
            text = (
                "the weights are all 0; the rule is skipped" if given else "no targets; the rule is skipped"
            )
            yield Refusal(rewrite, "NoTargets", text, where)
            continue
        if fault := _targets_fault("targets", given):
            yield Refusal(rewrite, "InvalidTargets", fault, where)
            continue
        targets = _targets(given)
        if not rule.matches:
            yield Claim(rewrite, pool, ANY_MODEL, targets, where)
        for number, match in enumerate(rule.matches):
            at = f"{where}.matches[{number}]"
            if match.model.type != "Exact":
                text = f"model.type {match.model.type!r} is unknown; Exact is"
                yield Refusal(rewrite, "UnsupportedMatch", text, at)
            elif fault := _name_fault(match.model.value):
                yield Refusal(rewrite, "UnusableName", f"model.value {fault}", at)
            else:
                yield Claim(rewrite, pool, match.model.value, targets, at)


def of_objective(objective: InferenceObjective, pool: str) -> ObjectiveConfig | Refusal:
    """What *objective*, whose pool is our *pool*, offers."""
    priority = objective.spec.priority or 0
    if not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        text = f"priority {priority} is not {MIN_PRIORITY}..{MAX_PRIORITY}"
        return Refusal(objective, "InvalidPriority", text)
    return ObjectiveConfig(objective.metadata.name, priority, pool)


_CRITICALITIES = {each.value: each for each in Criticality}


def _targets(given: Sequence[tuple[str, int | None]]) -> Targets:
    return tuple(TargetConfig(name, weight) for name, weight in given)


def _name_fault(name: str) -> str | None:
    if not name:
        return "is missing"
    if not is_usable(name):
        return "has more than 256 bytes or control characters"
    if name == ANY_MODEL:
        return f"is `{ANY_MODEL}`, which no model can be called"
    return None


def _targets_fault(field: str, given: Sequence[tuple[str, int | None]]) -> str | None:
    if len(given) > MAX_TARGETS:
        return f"{field}: {len(given)} of them; at most {MAX_TARGETS} are allowed"
    names, weighted = set(), 0
    for index, (name, weight) in enumerate(given):
        if not is_usable(name):
            return f"{field}[{index}]: the name has 1..256 bytes and no control characters"
        if name in names:
            return f"{field}[{index}]: {name!r} stands twice"
        if weight is not None and not 0 <= weight <= MAX_WEIGHT:
            return f"{field}[{index}]: weight {weight} is not 0..{MAX_WEIGHT}"
        names.add(name)
        weighted += weight is not None
    if weighted not in (0, len(given)):
        return f"{field}: give every target a weight, or none"
    return None
