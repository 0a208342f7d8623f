"""What the fields of a config must agree on, beyond their own types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .. import address as addresses
from ..errors import Fault
from ..model_name import is_usable
from ..scheduling.profile import DEFAULT
from .schema import Config, ModelConfig, PoolConfig


def check(config: Config) -> Iterator[Fault]:
    """Every contradiction in *config*."""
    yield from _unique([pool.name for pool in config.pools], "$.pools[{}].name")
    yield from _unique([profile.name for profile in config.profiles], "$.profiles[{}].name")
    yield from _unique([model.name for model in config.models], "$.models[{}].name")
    pools = [pool.name for pool in config.pools]
    profiles = [*{DEFAULT: None, **{profile.name: None for profile in config.profiles}}]
    for index, pool in enumerate(config.pools):
        yield from _reference(f"$.pools[{index}].profile", pool.profile, profiles)
        yield from _endpoints(pool, f"$.pools[{index}]")
    for index, model in enumerate(config.models):
        yield from _reference(f"$.models[{index}].pool", model.pool, pools)
        yield from _model(model, f"$.models[{index}]")
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
        short = isinstance(pool.endpoints[index], str)
        where = f"{path}.endpoints[{index}]" + ("" if short else ".address")
        try:
            address = addresses.normalise(member.address)
        except ValueError as error:
            yield Fault(where, str(error))
            continue
        if address in seen:
            yield Fault(where, f"{address} is there already, at {path}.endpoints[{seen[address]}]")
        seen.setdefault(address, index)


def _model(model: ModelConfig, path: str) -> Iterator[Fault]:
    if model.criticality is not None and model.priority is not None:
        yield Fault(f"{path}.priority", "give either criticality or priority, not both")
    yield from _name(model.name, f"{path}.name")
    if model.sticky is not None and model.sticky.header.lower().startswith(RESERVED):
        yield Fault(
            f"{path}.sticky.header", f"{model.sticky.header} is set by us; any other header is allowed"
        )
    if model.targets is None:
        return
    if not model.targets:
        yield Fault(f"{path}.targets", "empty; leave it out, or name at least one target")
        return
    for index, target in enumerate(model.targets):
        yield from _name(target.model, f"{path}.targets[{index}].model")
    yield from _unique([target.identity for target in model.targets], path + ".targets[{}]", "the target")
    yield from _weights(model, path)


RESERVED = ("x-gateway-destination-endpoint", "x-extproc-pool", "x-gateway-model-name")


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
