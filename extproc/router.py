"""Decides where a request goes: which target of its model, which endpoint of the pool.  Pure: no I/O, no clock."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from msgspec import Struct

from . import canary
from .canary import Target
from .config.schema import Config, ModelConfig, PoolConfig
from .endpoint import Endpoint
from .errors import Reason, Rejected
from .model_name import MAX_BYTES, is_usable
from .pool import Pool
from .request import InferenceRequest
from .scheduling.profile import Choice, Profile

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
    target_fallback: bool = False
    """Another target was drawn first, and had no ready endpoint."""

    @property
    def pin(self) -> str:
        """`ip:port[,ip:port…]`: the chosen endpoint, then the fallbacks."""
        return ",".join([self.endpoint.address, *(e.address for e in self.fallbacks)])


class _Route(Struct, frozen=True):
    """One listed model, resolved."""

    model: ModelConfig
    targets: tuple[Target, ...]
    """Those with a share; one whose weight is 0 never serves."""
    priority: int
    sticky_header: str | None


class Router:
    """One config with the pools it speaks of.  A stream keeps the router that it began with."""

    def __init__(self, config: Config, pools: Mapping[str, Pool], loaded_at: float = 0.0) -> None:
        self.config = config
        self.loaded_at = loaded_at
        """When the config was put in force, in seconds since the epoch."""
        self.pools = pools
        self.routes = {model.name: _resolve(model) for model in config.models}
        self.sticky_headers = frozenset(r.sticky_header for r in self.routes.values() if r.sticky_header)
        """Headers that decide a target; they go on to the model server."""
        self._pool_configs = {pool.name: pool for pool in config.pools}
        self._profiles = {pool.name: config.profile(pool.profile) for pool in config.pools}
        self._default_pool = config.default_pool_name
        self._select_targets()

    def decide(self, request: InferenceRequest, now: float, rng: random.Random) -> Decision:
        """Where *request* goes; raises Rejected.  *now* in seconds (monotonic)."""
        route = self._route(request.model)
        if route is None:
            pool = self._default(request.model)
            targets: Sequence[Target] = (Target(request.model or ""),)
        else:
            pool, targets = self.pools[route.model.pool], route.targets
        target, endpoints, fell_back = self._draw(route, pool, targets, request, now, rng)
        config = self._pool_configs[pool.name]
        if route is not None and route.priority < 0:
            _shed(config, endpoints, now)
        request.target_model = target.model
        choice = self._choose(config, request, endpoints, now, rng)
        return Decision(
            model=request.model,
            target_model=target.model or None,
            pool=pool,
            endpoint=choice.endpoints[0],
            fallbacks=choice.endpoints[1:],
            candidates=len(endpoints),
            choice=choice,
            target_fallback=fell_back,
        )

    def model_names(self) -> list[str]:
        """What a client can write in `model`: the listed names, then what the default pool's endpoints list."""
        names = dict.fromkeys(self.routes)
        if self._default_pool is not None:
            for endpoint in self.pools[self._default_pool].endpoints:
                names.update(dict.fromkeys(endpoint.models))
        return list(names)

    def model_label(self, model: str | None) -> str:
        """*model* as a metric label, from a closed set."""
        if model is None:
            return "none"
        return model if model in self.routes else "other"

    def _select_targets(self) -> None:
        """Look up the targets' endpoints now: a reload may give endpoints other labels while streams are open
        that began with this config."""
        for route in self.routes.values():
            for target in route.targets:
                self.pools[route.model.pool].select(target.labels)

    def _route(self, model: str | None) -> _Route | None:
        if model is None:
            return None
        if not is_usable(model):
            raise unusable_model()
        return self.routes.get(model)

    def _default(self, model: str | None) -> Pool:
        if self._default_pool is not None:
            return self.pools[self._default_pool]
        if model is None:
            raise Rejected(Reason.MODEL_NOT_FOUND, "The request names no model.", param="model")
        raise unknown_model(model)

    def _draw(
        self,
        route: _Route | None,
        pool: Pool,
        targets: Sequence[Target],
        request: InferenceRequest,
        now: float,
        rng: random.Random,
    ) -> tuple[Target, list[Endpoint], bool]:
        """(target, its endpoints, whether it is another than the one drawn first)."""
        poor: tuple[Target, list[Endpoint], bool] | None = None
        left = list(targets)
        while left:
            target = _pick_target(route, left, request, rng)
            endpoints, healthy = pool.candidates(target.labels, request.subset, now)
            fell_back = len(left) < len(targets)
            if healthy:
                return target, endpoints, fell_back
            if endpoints and poor is None:
                poor = (target, endpoints, fell_back)
            left.remove(target)
        if poor is None:
            raise Rejected(
                Reason.NO_ENDPOINTS, f"No endpoint of pool `{pool.name}` is ready to take the request."
            )
        return poor

    def _choose(
        self,
        config: PoolConfig,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        now: float,
        rng: random.Random,
    ) -> Choice:
        profile: Profile = self._profiles[config.name]
        choice = profile.choose(request, endpoints, 1 + config.fallback_endpoints, now, rng)
        if not choice.endpoints:
            raise Rejected(Reason.NO_ENDPOINTS, f"The filters of profile `{profile.name}` leave no endpoint.")
        return choice


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


def _resolve(model: ModelConfig) -> _Route:
    return _Route(
        model=model,
        targets=tuple(target for target in model.effective_targets if target.share > 0),
        priority=model.effective_priority,
        sticky_header=model.sticky.header.lower() if model.sticky else None,
    )


def _pick_target(
    route: _Route | None, targets: Sequence[Target], request: InferenceRequest, rng: random.Random
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
