"""What the authors of model objects are told in their `status`, and what the log is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from ..config.schema import ObjectiveConfig
from .model_claims import Claim, Listing, Refusal
from .model_objects import ACCEPTED, Condition, Key, ModelObject, Verdict

OVERRIDDEN = "OverriddenByFile"
MAX_LISTED = 5
"""Of what a text lists: a rewrite of thousands of rules would pass the 32,768 characters of a condition's message."""


class Judgement(Struct, gc=False):
    """What came of one object."""

    source: ModelObject
    granted: list[Claim | ObjectiveConfig]
    refused: list[Refusal]


def verdicts(judgements: Mapping[Key, Judgement], listings: Mapping[str, Listing]) -> tuple[Verdict, ...]:
    """One an object, in the order of *judgements*."""
    return tuple(_verdict(judgement, listings) for judgement in judgements.values())


def reports(refusals: Iterable[Refusal]) -> tuple[str, ...]:
    """One line for each, but what the file overrides: there, one a name."""
    lines: list[str] = []
    overridden: dict[str, list[str]] = {}
    for refusal in refusals:
        if refusal.reason == OVERRIDDEN:
            overridden.setdefault(refusal.text, []).append(str(refusal.source))
        else:
            lines.append(f"{refusal.source}: {refusal}")
    lines += [f"{text} over {_listed(dict.fromkeys(s), ', ')}" for text, s in overridden.items()]
    return tuple(lines)


def _verdict(judgement: Judgement, listings: Mapping[str, Listing]) -> Verdict:
    source, refused = judgement.source, judgement.refused
    texts = [*_granted(judgement, listings), *map(str, refused)]
    status, reason = ("True", ACCEPTED) if judgement.granted else ("False", refused[0].reason)
    generation = source.metadata.generation
    condition = Condition(ACCEPTED, status, reason, _listed(texts, "; "), generation)
    return Verdict(source.identity, generation, condition, source.conditions)


def _granted(judgement: Judgement, listings: Mapping[str, Listing]) -> Iterator[str]:
    for each in judgement.granted:
        if isinstance(each, ObjectiveConfig):
            yield f"priority {each.priority} in pool `{each.pool}` for requests whose trusted header names it"
            continue
        listing = listings[each.name]
        where = f"{each.where}: " if each.where else ""
        if listing.rewrite is not None and listing.model is each:
            yield f"{where}model `{each.name}` in pool `{each.pool}`, with the targets of {listing.rewrite.source}"
        elif each.reserved:
            yield f"{where}the name `{each.name}` is reserved; requests for it are refused"
        else:
            yield f"{where}model `{each.name}` in pool `{each.pool}`"


def _listed(texts: Iterable[str], separator: str) -> str:
    given = list(texts)
    more = len(given) - MAX_LISTED
    shown = given[:MAX_LISTED] + ([f"and {more} more"] if more > 0 else [])
    return separator.join(shown)
