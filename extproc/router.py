"""Decides where a request goes: which target of its model, which endpoint of the pool.  Pure: no I/O, no clock."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from . import canary, mirror
from .canary import Target
from .config.schema import Config, PoolConfig, QueueConfig
from .endpoint import Endpoint
from .errors import Reason, Rejected
from .model_name import MAX_BYTES, is_usable
from .pool import Pool
from .request import InferenceRequest
from .routes import Objectives, Route, Routes, demands, drawable, reads_prompts, target_name
from .scheduling.profile import DEFAULT, Choice, Profile
from .tiers import NOBODY, Tiers
from .work import Work

NO_TIERS: frozenset[str] = frozenset()
RETRY_AFTER_S = 1
"""When a refused client may try again: about what a queue of a few requests needs to move on."""


class Decision(Struct, frozen=True):
    """Where a request goes, and why."""

    model: str | None
    """What the client wrote; None where the request names no model."""
    target_model: str | None
    """What the model server is asked for."""
    pool: Pool
    endpoint: Endpoint
    fallbacks: tuple[Endpoint, ...]
    candidates: int
    """How many endpoints were eligible before the profile's filters."""
    choice: Choice
    work: Work
    """What it means to the endpoint."""
    target_fallback: bool = False
    """Another target was drawn first, and had no ready endpoint."""
    profile: str = DEFAULT
    unknown_profile: bool = False
    """A header asked for a profile that is not there."""
    tier: str | None = None
    """The endpoint's; None where the pool has no tiers."""
    mirror: str | None = None
    """Who gets a copy of the request."""

    @property
    def pin(self) -> str:
        """`ip:port[,ip:port…]`: the chosen endpoint, then the fallbacks."""
        return ",".join([self.endpoint.address, *(e.address for e in self.fallbacks)])


class Draw(Struct, frozen=True):
    """A request's target, and who could serve it."""

    route: Route | None
    """None: the config has nothing to say of its model."""
    pool: Pool
    target: Target
    endpoints: list[Endpoint]
    healthy: bool
    """Or else all of them are set aside."""
    tiers: Tiers | None
    """The pool's, if it has some."""
    barred: frozenset[str]
    """Tiers that must not serve it."""
    fell_back: bool
    """Another target was drawn first, and had no ready endpoint."""
    priority: int
    """> 0 is never refused for load alone, < 0 is shed first."""

    @property
    def excluded(self) -> frozenset[Endpoint]:
        """Members that must not serve it."""
        return self.tiers.excluded(self.barred) if self.tiers else NOBODY


class Router:
    """One config with the pools it speaks of.  A stream keeps the router that it began with."""

    def __init__(self, config: Config, pools: Mapping[str, Pool], loaded_at: float = 0.0) -> None:
        self.config = config
        self.loaded_at = loaded_at
        """When the config was put in force, in seconds since the epoch."""
        self.pools = pools
        self.routes = Routes(config)
        self._objectives = Objectives(config)
        self.sticky_headers = frozenset[str]().union(*(model.sticky_headers for model in config.models))
        """Headers that decide a target or a mirror; they go on to the model server."""
        self._pool_configs = {pool.name: pool for pool in config.pools}
        names = [DEFAULT, *(profile.name for profile in config.profiles)]
        self._profiles = {name: config.profile(name) for name in names}
        self.tiers = {
            pool.name: Tiers(pools[pool.name], pool.tiers, pool.spill, demands(config, pool.name))
            for pool in config.pools
            if pool.tiers
        }
        """Of the pools that have some."""
        self.reads_prompts = any(reads_prompts(config, pool, self._profiles) for pool in config.pools)
        """Whether a request's prompt matters to anybody."""
        self._default_pool = config.default_pool_name
        self._select_targets()

    def decide(self, request: InferenceRequest, now: float, rng: random.Random) -> Decision:
        """Where *request* goes, whether anybody has room or not; raises Rejected.  *now* in seconds (monotonic)."""
        return self.place(request, self.draw(request, now, rng), now, rng)

    def draw(self, request: InferenceRequest, now: float, rng: random.Random) -> Draw:
        """The first half of `decide`: the target."""
        route = self._route(request.model)
        pool = self.pools[route.model.pool] if route else self._default(request.model)
        return self._draw(route, pool, drawable(route, request.model), request, now, rng)

    def place(
        self,
        request: InferenceRequest,
        draw: Draw,
        now: float,
        rng: random.Random,
        free: Sequence[Endpoint] | None = None,
    ) -> Decision:
        """The second half: the endpoint, one of the draw's, or of those that are *free*.  Raises Rejected.

        Only critical work goes to an endpoint that is at its maximum, where no other will do.
        """
        pool, target = draw.pool, draw.target
        config, tiers = self._pool_configs[pool.name], self.tiers.get(pool.name)
        if draw.priority < 0:
            _shed(config, draw.endpoints, now)
        endpoints = pool.below_max(draw.endpoints) if free is None else free
        request.target_model = target_name(request.model, target)
        pool.match(request)
        profile, unknown_profile = self._profile(config, draw.route, request)
        try:
            choice = self._choose(config, profile, request, endpoints, now, rng)
        except Rejected:
            if free is not None:
                raise
            endpoints = draw.endpoints
            choice = self._choose(config, profile, request, endpoints, now, rng)
            if draw.priority <= 0:
                raise _at_maximum(pool) from None
        return Decision(
            model=request.model,
            target_model=request.target_model or None,
            pool=pool,
            endpoint=choice.endpoints[0],
            fallbacks=choice.endpoints[1:],
            candidates=len(endpoints),
            choice=choice,
            work=pool.work(request, choice.endpoints[0]),
            target_fallback=draw.fell_back,
            profile=profile.name,
            unknown_profile=unknown_profile,
            tier=tiers.name(choice.endpoints[0]) if tiers else None,
            mirror=_mirror(draw.route, request, rng),
        )

    def queue(self, pool: str) -> QueueConfig | None:
        """How requests wait for *pool*; None: they do not."""
        return self._pool_configs[pool].queue

    def model_names(self) -> list[str]:
        """What a client can write in `model`: the listed names, then what the default pool's endpoints list."""
        listed = self.routes.listed
        names = dict.fromkeys(listed)
        if self._default_pool is not None:
            for endpoint in self.pools[self._default_pool].endpoints:
                names.update(dict.fromkeys(endpoint.models))
        return [name for name in names if name not in listed or not listed[name].model.reserved]

    def model_label(self, model: str | None) -> str:
        """*model* as a metric label, from a closed set."""
        if model is None:
            return "none"
        return model if model in self.routes.listed else "other"

    def _select_targets(self) -> None:
        """Look up the targets' endpoints now: a reload may give endpoints other labels while streams are open
        that began with this config."""
        for route in self.routes:
            for target in route.targets:
                self.pools[route.model.pool].select(target.labels)

    def priority(self, request: InferenceRequest, route: Route | None, pool: Pool) -> int:
        """Of *request*, which *route* leads to *pool*: what a trusted header asks for, or else its model's."""
        asked = self._objectives.priority(pool.name, request.headers)
        if asked is not None:
            return asked
        return route.priority if route else 0

    def _route(self, model: str | None) -> Route | None:
        if model is not None and not is_usable(model):
            raise unusable_model()
        route = self.routes.of(model)
        if route is not None and route.model.reserved:
            raise Rejected(
                Reason.MODEL_NOT_FOUND,
                f"The model `{model}` is reserved: it has no valid target model.",
                param="model",
            )
        return route

    def _default(self, model: str | None) -> Pool:
        if self._default_pool is not None:
            return self.pools[self._default_pool]
        if model is None:
            raise Rejected(Reason.MODEL_NOT_FOUND, "The request names no model.", param="model")
        raise unknown_model(model)

    def _draw(
        self,
        route: Route | None,
        pool: Pool,
        targets: Sequence[Target],
        request: InferenceRequest,
        now: float,
        rng: random.Random,
    ) -> Draw:
        tiers = self.tiers.get(pool.name)
        never, priority = route.barred_tiers if route else NO_TIERS, self.priority(request, route, pool)
        barred = tiers.barred(never, request.headers) if tiers else NO_TIERS
        excluded = tiers.excluded(barred) if tiers else NOBODY
        poor: Draw | None = None
        left = list(targets)
        while left:
            target = _pick_target(route, left, request, rng)
            endpoints, healthy = pool.candidates(target.labels, request.subset, now, excluded)
            fell_back = len(left) < len(targets)
            draw = Draw(route, pool, target, endpoints, healthy, tiers, barred, fell_back, priority)
            if healthy:
                return draw
            if endpoints and poor is None:
                poor = draw
            left.remove(target)
        if poor is None:
            raise _nobody_ready(pool, barred)
        return poor

    def _choose(
        self,
        config: PoolConfig,
        profile: Profile,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        now: float,
        rng: random.Random,
    ) -> Choice:
        """Among the first tier's endpoints with room that the profile's filters let pass, and so on."""
        tiers, count = self.tiers.get(config.name), 1 + config.fallback_endpoints
        for preferred in tiers.preferences(endpoints, request.prompt.tokens, now) if tiers else (endpoints,):
            choice = profile.choose(request, preferred, count, now, rng)
            short = min(count, len(endpoints)) - len(choice.endpoints)
            if choice.endpoints and short > 0 and len(preferred) < len(endpoints):
                rest = [e for e in endpoints if e not in choice.endpoints]
                more = profile.choose(request, rest, short, now, rng).endpoints
                return replace(choice, endpoints=choice.endpoints + more)
            if choice.endpoints:
                return choice
        raise Rejected(Reason.NO_ENDPOINTS, f"The filters of profile `{profile.name}` leave no endpoint.")

    def _profile(
        self, config: PoolConfig, route: Route | None, request: InferenceRequest
    ) -> tuple[Profile, bool]:
        """(profile, whether a header asked for one that is not there): by header, else the model's or the pool's."""
        asked = request.headers.get(config.profile_header.lower()) if config.profile_header else None
        if asked and asked in self._profiles:
            return self._profiles[asked], False
        of_model = route.model.profile if route else None
        return self._profiles[of_model or config.profile], bool(asked)


def unknown_model(name: str) -> Rejected:
    """The refusal of a model that nobody serves."""
    return Rejected(Reason.MODEL_NOT_FOUND, f"The model `{name}` does not exist.", param="model")


def unusable_model() -> Rejected:
    """The refusal of a model name that nobody can have."""
    return Rejected(
        Reason.MODEL_NOT_FOUND,
        f"The model name is not usable: it has 1 to {MAX_BYTES} bytes and no control characters.",
        param="model",
    )


def _nobody_ready(pool: Pool, barred: frozenset[str]) -> Rejected:
    message = f"No endpoint of pool `{pool.name}` is ready to take the request."
    if barred:
        names = ", ".join(f"`{name}`" for name in sorted(barred))
        message += f" Never to take it: tier {names}."
    return Rejected(Reason.NO_ENDPOINTS, message)


def _at_maximum(pool: Pool) -> Rejected:
    message = f"Every endpoint of pool `{pool.name}` is at its maximum of requests; try again later."
    return Rejected(Reason.SATURATED, message, retry_after_s=RETRY_AFTER_S)


def _mirror(route: Route | None, request: InferenceRequest, rng: random.Random) -> str | None:
    if route is None or not route.mirrors:
        return None
    return mirror.choose(route.mirrors, route.model.name, request.headers, rng)


def _pick_target(
    route: Route | None, targets: Sequence[Target], request: InferenceRequest, rng: random.Random
) -> Target:
    if route is None or len(targets) == 1:
        return targets[0]
    key = request.headers.get(route.sticky_header) if route.sticky_header else None
    return canary.stick(targets, route.model.name, key) if key else canary.draw(targets, rng)


def _shed(config: PoolConfig, endpoints: Sequence[Endpoint], now: float) -> None:
    limits = config.saturation
    if all(e.is_saturated(now, limits.waiting, limits.kv_usage) for e in endpoints):
        raise Rejected(
            Reason.SATURATED,
            f"Pool `{config.name}` is saturated and the request is sheddable; try again later.",
            retry_after_s=RETRY_AFTER_S,
        )
