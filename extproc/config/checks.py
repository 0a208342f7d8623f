"""What the fields of a config must agree on, beyond their own types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from .. import address as addresses
from ..errors import Fault
from ..model_name import is_usable
from ..scheduling.profile import DEFAULT
from ..tiers import place_of
from .kubernetes import check_source
from .schema import (
    ANY_MODEL,
    Config,
    MetricsConfig,
    ModelConfig,
    PoolConfig,
    QueueConfig,
    Sticky,
    TenantHeader,
)


def check(config: Config) -> Iterator[Fault]:
    """Every contradiction in *config*."""
    yield from _unique([pool.name for pool in config.pools], "$.pools[{}].name")
    yield from _unique([profile.name for profile in config.profiles], "$.profiles[{}].name")
    yield from _unique([model.name for model in config.models], "$.models[{}].name")
    pools = [pool.name for pool in config.pools]
    profiles = [*{DEFAULT: None, **{profile.name: None for profile in config.profiles}}]
    for index, pool in enumerate(config.pools):
        yield from _reference(f"$.pools[{index}].profile", pool.profile, profiles)
        yield from check_source(pool, f"$.pools[{index}]")
        yield from _endpoints(pool, f"$.pools[{index}]")
        yield from _tiers(pool, f"$.pools[{index}]")
        yield from _metrics(pool.metrics, f"$.pools[{index}].metrics")
        yield from _trusted(config, pool, f"$.pools[{index}]")
        if pool.queue is not None:
            yield from _queue(config, pool, pool.queue, f"$.pools[{index}].queue")
    for index, model in enumerate(config.models):
        yield from _reference(f"$.models[{index}].pool", model.pool, pools)
        if model.profile is not None:
            yield from _reference(f"$.models[{index}].profile", model.profile, profiles)
        yield from _never(config, model, f"$.models[{index}].never")
        yield from _any_model(config, model, f"$.models[{index}]")
        yield from _model(model, f"$.models[{index}]")
        yield from _mirrors(model, f"$.models[{index}]")
    yield from _mirror_services(config)
    yield from _objectives(config, pools)
    if isinstance(config.default_pool, str):
        yield from _reference("$.default_pool", config.default_pool, pools)
    if config.limits.max_body_bytes > config.limits.max_buffered_bytes:
        yield Fault("$.limits.max_body_bytes", "must not exceed max_buffered_bytes")


def _unique(names: Iterable[str], path: str, what: str = "") -> Iterator[Fault]:
    """A fault for each that stands twice, quoted, or called *what*."""
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            yield Fault(
                path.format(index), f"{what or repr(name)} is there already, at {path.format(seen[name])}"
            )
        seen.setdefault(name, index)


def _reference(path: str, name: str, known: list[str]) -> Iterator[Fault]:
    if name not in known:
        yield Fault(path, f"{name!r} is not defined; defined: {', '.join(known)}")


def _endpoints(pool: PoolConfig, path: str) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for index, member in enumerate(pool.members()):
        short = isinstance((pool.endpoints or [])[index], str)
        where = f"{path}.endpoints[{index}]" + ("" if short else ".address")
        try:
            address = addresses.normalise(member.address)
        except ValueError as error:
            yield Fault(where, str(error))
            continue
        if address in seen:
            yield Fault(where, f"{address} is there already, at {path}.endpoints[{seen[address]}]")
        seen.setdefault(address, index)


def _tiers(pool: PoolConfig, path: str) -> Iterator[Fault]:
    yield from _unique([tier.name for tier in pool.tiers], path + ".tiers[{}].name")
    if pool.tiers and pool.metrics.engine == "none" and pool.spill.in_flight is None:
        yield Fault(
            f"{path}.spill.in_flight", "missing; where nothing is scraped only our own count can tell"
        )
    places = [place_of(member.labels, pool.tiers) for member in pool.members()]
    for index, tier in enumerate(pool.tiers):
        where = f"{path}.tiers[{index}]"
        if not tier.labels:
            yield Fault(f"{where}.labels", "empty; name at least one label that its endpoints carry")
        elif places and index not in places and tier is not pool.tiers[-1]:
            yield Fault(f"{where}.labels", "no endpoint is of this tier; only the last may have none")
        if tier.never is not None and not tier.never.values and not tier.never.absent:
            yield Fault(f"{where}.never.values", "empty; name a value, or say absent: true")


def _metrics(metrics: MetricsConfig, path: str) -> Iterator[Fault]:
    for key in ("ca_file", "server_name"):
        if getattr(metrics, key) is None:
            continue
        if metrics.scheme != "https":
            yield Fault(f"{path}.{key}", "needs scheme: https; without TLS there is no certificate")
        elif metrics.insecure_skip_verify:
            yield Fault(
                f"{path}.{key}", "no certificate is looked at with insecure_skip_verify; leave one out"
            )
    if metrics.orca and metrics.engine != "vllm":
        yield Fault(f"{path}.orca", f"vLLM alone is known to answer with load reports, not {metrics.engine}")


def _trusted(config: Config, pool: PoolConfig, path: str) -> Iterator[Fault]:
    """What decides over profiles and tiers is no client's to set."""
    trusted = {name.lower() for name in config.trusted_headers}
    steering = [] if pool.profile_header is None else [(f"{path}.profile_header", pool.profile_header)]
    for index, tier in enumerate(pool.tiers):
        if tier.never is not None:
            steering.append((f"{path}.tiers[{index}].never.header", tier.never.header))
    for where, header in steering:
        if header.lower() not in trusted:
            yield Fault(where, f"{header} is not in trusted_headers; only headers named there may steer")


def _queue(config: Config, pool: PoolConfig, queue: QueueConfig, path: str) -> Iterator[Fault]:
    if pool.metrics.engine == "none":
        yield Fault(path, "without metrics nobody knows who has a waiting queue; leave it out")
    if queue.max_bytes < config.limits.max_body_bytes:
        yield Fault(
            f"{path}.max_bytes", "must not be below limits.max_body_bytes, or such a body never waits"
        )
    if isinstance(queue.tenant, TenantHeader) and queue.tenant.header.lower().startswith(RESERVED):
        yield Fault(
            f"{path}.tenant.header", f"{queue.tenant.header} is set by us; any other header is allowed"
        )


def _never(config: Config, model: ModelConfig, path: str) -> Iterator[Fault]:
    pool = next((pool for pool in config.pools if pool.name == model.pool), None)
    if pool is None:
        return  # that is a fault already
    names = [tier.name for tier in pool.tiers]
    for name in sorted(model.barred_tiers.difference(names)):
        yield Fault(path, f"{name!r} is no tier of pool {pool.name}; its tiers: {', '.join(names) or 'none'}")
    if names and model.barred_tiers.issuperset(names):
        yield Fault(path, "names every tier of the pool; at least one must be left")


def _model(model: ModelConfig, path: str) -> Iterator[Fault]:
    if model.criticality is not None and model.priority is not None:
        yield Fault(f"{path}.priority", "give either criticality or priority, not both")
    yield from _name(model.name, f"{path}.name")
    yield from _sticky(model.sticky, f"{path}.sticky")
    if model.reserved and (model.targets or model.name == ANY_MODEL):
        yield Fault(f"{path}.reserved", "a reserved name has no targets, and is one name")
    if model.targets is None:
        return
    if not model.targets:
        yield Fault(f"{path}.targets", "empty; leave it out, or name at least one target")
        return
    for index, target in enumerate(model.targets):
        yield from _name(target.model, f"{path}.targets[{index}].model")
    yield from _unique([target.identity for target in model.targets], path + ".targets[{}]", "the target")
    yield from _weights(model, path)


def _objectives(config: Config, pools: list[str]) -> Iterator[Fault]:
    seen: dict[tuple[str, str | None], int] = {}
    for index, objective in enumerate(config.objectives):
        key, where = (objective.name, objective.pool), f"$.objectives[{index}]"
        if objective.pool is not None:
            yield from _reference(f"{where}.pool", objective.pool, pools)
        if key in seen:
            yield Fault(f"{where}.name", f"{objective.name!r} is there already, at $.objectives[{seen[key]}]")
        seen.setdefault(key, index)


def _mirrors(model: ModelConfig, path: str) -> Iterator[Fault]:
    yield from _unique([mirror.name for mirror in model.mirrors], path + ".mirrors[{}].name")
    total = round(sum(mirror.percent for mirror in model.mirrors), 9)  # few decimal fractions are exact
    if total > 100:
        yield Fault(f"{path}.mirrors", f"the percents sum up to {total:.12g}; at most 100 is allowed")
    for index, mirror in enumerate(model.mirrors):
        where = f"{path}.mirrors[{index}]"
        yield from _sticky(mirror.sticky, f"{where}.sticky")
        if mirror.service is not None and not _is_service(mirror.service):
            yield Fault(f"{where}.service", f"{mirror.service!r} is not NAME:PORT of a Service")


def _is_service(text: str) -> bool:
    """A label (RFC 1123) and a port."""
    found = re.fullmatch(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?:([0-9]{1,5})", text)
    return found is not None and 1 <= int(found[1]) <= 65535


def _mirror_services(config: Config) -> Iterator[Fault]:
    """A pool's route rule for a mirror holds whichever model asked for it."""
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for index, model in enumerate(config.models):
        for number, mirror in enumerate(model.mirrors):
            if mirror.service is None:
                continue
            where = f"$.models[{index}].mirrors[{number}].service"
            service, there = seen.setdefault((model.pool, mirror.name), (mirror.service, where))
            if service != mirror.service:
                yield Fault(
                    where, f"the mirror {mirror.name!r} of pool {model.pool} is {service} already, at {there}"
                )


def _any_model(config: Config, model: ModelConfig, path: str) -> Iterator[Fault]:
    default = config.default_pool_name
    if model.name == ANY_MODEL and model.pool != default:
        where = f"go to {default}" if default else "are refused, as there is no default_pool"
        yield Fault(f"{path}.pool", f"never reached: models that are not listed {where}")


def _sticky(sticky: Sticky | None, path: str) -> Iterator[Fault]:
    if sticky is not None and sticky.header.lower().startswith(RESERVED):
        yield Fault(f"{path}.header", f"{sticky.header} is set by us; any other header is allowed")


RESERVED = ("x-gateway-destination-endpoint", "x-extproc-pool", "x-extproc-mirror", "x-gateway-model-name")


def _name(name: str, path: str) -> Iterator[Fault]:
    if not is_usable(name):
        yield Fault(path, "a model name has 1..256 bytes and no control characters")


def _weights(model: ModelConfig, path: str) -> Iterator[Fault]:
    weights = [target.weight for target in model.targets or []]
    given = [weight for weight in weights if weight is not None]
    if not given:
        return
    for index, weight in enumerate(weights):
        if weight is None:
            yield Fault(f"{path}.targets[{index}].weight", "missing; give every target a weight, or none")
    if sum(given) == 0:
        yield Fault(f"{path}.targets", "the weights are all 0; at least one must be above")
