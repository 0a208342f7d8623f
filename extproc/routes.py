"""What a config says of the models that clients write: who serves them, and how much they matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from .canary import Target
from .config.schema import ANY_MODEL, Config, ModelConfig, PoolConfig
from .mirror import Mirror
from .request import Headers
from .scheduling.profile import Profile
from .tiers import Demand

OBJECTIVE_HEADERS = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
"""Name an objective; the first is the newer name, and wins.  Only those that the config trusts count."""


class Route(Struct, frozen=True):
    """One entry of a config's models, resolved."""

    model: ModelConfig
    targets: tuple[Target, ...]
    """Those with a share; one whose weight is 0 never serves.  Empty: what the client writes."""
    priority: int
    sticky_header: str | None
    barred_tiers: frozenset[str]
    mirrors: tuple[Mirror, ...]

    def targets_for(self, model: str | None) -> Sequence[Target]:
        """Of requests that write *model*: those with a share."""
        return self.targets or (Target(model or ""),)

    def all_targets_for(self, model: str | None) -> Sequence[Target]:
        """With those that have no share; none of a reserved name."""
        return () if self.model.reserved else self.model.targets or self.targets_for(model)


def drawable(route: Route | None, model: str | None) -> Sequence[Target]:
    """What a request that writes *model* can be drawn; *route* is None where the config has nothing to say of it."""
    return route.targets_for(model) if route else (Target(model or ""),)


def resolve(model: ModelConfig) -> Route:
    itself = model.targets is None and model.name == ANY_MODEL
    return Route(
        model=model,
        targets=() if itself else tuple(t for t in model.effective_targets if t.share > 0),
        priority=model.effective_priority,
        sticky_header=model.sticky.header.lower() if model.sticky else None,
        barred_tiers=model.barred_tiers,
        mirrors=model.effective_mirrors,
    )


class Routes:
    """The models of one config."""

    def __init__(self, config: Config) -> None:
        routes = [resolve(model) for model in config.models]
        self.listed = {route.model.name: route for route in routes if route.model.name != ANY_MODEL}
        """By name."""
        self.any_model = next((route for route in routes if route.model.name == ANY_MODEL), None)
        """For models that are not listed; None: they go on as they came."""

    def __iter__(self) -> Iterator[Route]:
        yield from self.listed.values()
        if self.any_model is not None:
            yield self.any_model

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def of(self, model: str | None) -> Route | None:
        """What holds for requests that write *model*.  Nobody can write ANY_MODEL and mean it: it is not listed."""
        return self.any_model if model is None else self.listed.get(model, self.any_model)


class Objectives:
    """The priorities that requests can ask for by a trusted header."""

    def __init__(self, config: Config) -> None:
        trusted = {header.lower() for header in config.trusted_headers}
        self._headers = tuple(h for h in OBJECTIVE_HEADERS if h in trusted) if config.objectives else ()
        self._priorities: dict[tuple[str, str], int] = {}
        for objective in sorted(config.objectives, key=lambda each: each.pool is not None):
            for pool in [objective.pool] if objective.pool else [pool.name for pool in config.pools]:
                self._priorities[objective.name, pool] = objective.priority

    def priority(self, pool: str, headers: Headers) -> int | None:
        """What *headers* ask for in *pool*; None where they name no objective, or one that is not there."""
        for header in self._headers:
            if name := headers.get(header):
                return self._priorities.get((name, pool))
        return None


def target_name(model: str | None, target: Target) -> str:
    """What the model server is asked for; "" where the client names no model: such a request goes on untouched."""
    return "" if model is None else target.model


def demands(config: Config, pool: str) -> Iterator[Demand]:
    """Where the requests that *pool* gets can go."""
    routes = Routes(config)
    if config.default_pool_name == pool and routes.any_model is None:
        yield Demand()
    for route in routes:
        if route.model.pool != pool or route.model.reserved:
            continue
        for target in route.targets_for(""):
            yield Demand(tuple(sorted(target.labels.items())), route.barred_tiers)


def reads_prompts(config: Config, pool: PoolConfig, profiles: Mapping[str, Profile]) -> bool:
    """Whether prompts matter to *pool*: to a profile that a request can get there, or to its queue's order."""
    if pool.queue is not None:
        return True
    names = {
        pool.profile,
        *(model.profile or pool.profile for model in config.models if model.pool == pool.name),
    }
    in_use = profiles.values() if pool.profile_header else [profiles[name] for name in names]
    return any(profile.reads_prompts for profile in in_use)
