"""Metric series of models and pools that the config no longer names: gone after a while, or until they return."""

from __future__ import annotations

from answer_talk import ONE, READS, SERVED, TWO, USAGE, begun
from envoy_peer import EnvoyPeer
from ext_proc_service import CHAT, REQUEST_HEADERS_GO, RESPONSE_HEADERS_GO, Service, serving

from extproc.config import parse_config
from extproc.telemetry import LOOK_S, SERIES_KEPT_S
from monitoring import catalogue

POOL = "pools: [{name: pool, endpoints: ['127.0.0.1:8001']}]\n"
OLD = POOL + "models: [{name: steady, pool: pool}, {name: rolled, pool: pool, targets: [{model: a}]}]"
NEW = POOL + "models: [{name: steady, pool: pool}, {name: rolled, pool: pool, targets: [{model: b}]}]"
MIRRORED = (
    POOL
    + """models:
- name: rolled
  pool: pool
  targets: [{model: a, weight: 1}, {model: b, weight: 999999, labels: {version: none}}]
  mirrors: [{name: shadow, percent: 100}]
"""
)
NOBODY = "pools: [{name: pool, endpoints: []}]\nmodels: [{name: rolled, pool: pool}]"
WITHOUT = POOL + "models: [{name: steady, pool: pool}]"
STEADY, UNLISTED = "steady steady pool", "other other pool"
OLD_TARGET, NEW_TARGET, REFUSED = "rolled a pool", "rolled b pool", "rolled none none"
LONG = SERIES_KEPT_S + LOOK_S


async def ask(envoy: EnvoyPeer, model: str) -> None:
    stream = envoy.stream()
    await stream.request_headers(CHAT)
    assert await stream.reply() == REQUEST_HEADERS_GO
    await stream.request_body(b'{"model":"%s"}' % model.encode())
    await stream.reply()
    await stream.response_headers(200)
    assert await stream.reply() == RESPONSE_HEADERS_GO
    await stream.end()


async def is_refused(service: Service, envoy: EnvoyPeer) -> None:
    stream = envoy.stream()
    await stream.request_headers(CHAT)
    await stream.reply()
    await stream.request_body(b'{"model":"rolled"}')
    await stream.reply()
    await service.idle()


async def are_asked(service: Service, envoy: EnvoyPeer) -> None:
    for model in ("steady", "rolled", "unlisted"):
        await ask(envoy, model)
    await service.idle()


def reload(service: Service, config: str) -> None:
    service.fleet.apply(parse_config(config.encode()))


def forget(service: Service, now: float) -> None:
    assert service.fleet.router is not None
    service.telemetry.forget(service.fleet.router, now)


def leaves(service: Service) -> None:
    """The model is no longer in the config, for longer than its series are kept."""
    reload(service, WITHOUT)
    forget(service, 1000.0)
    forget(service, 1000.0 + LONG)


def served(service: Service) -> set[str]:
    """ "model target_model pool" of every series that has them."""
    served = ("model", "target_model", "pool")
    return {
        " ".join(sample.labels[name] for name in served)
        for family in service.metrics.registry.collect()
        for sample in family.samples
        if "target_model" in sample.labels
    }


async def test_what_the_config_names_stays() -> None:
    async with serving(OLD) as (service, envoy):
        await are_asked(service, envoy)
        forget(service, 0.0)
        forget(service, LONG)
        forget(service, 2 * LONG)
        assert served(service) == {STEADY, OLD_TARGET, UNLISTED}


async def test_a_model_that_left_is_forgotten_once_its_last_figures_were_seen() -> None:
    async with serving(OLD) as (service, envoy):
        await are_asked(service, envoy)
        reload(service, WITHOUT)
        forget(service, 1000.0)
        forget(service, 1000.0 + SERIES_KEPT_S - 1)
        assert served(service) == {STEADY, OLD_TARGET, UNLISTED}
        forget(service, 1000.0 + LONG)
        assert served(service) == {STEADY, UNLISTED}


async def test_a_target_that_left_is_forgotten_and_its_model_is_not() -> None:
    async with serving(OLD) as (service, envoy):
        await are_asked(service, envoy)
        reload(service, NEW)
        await are_asked(service, envoy)
        forget(service, 1000.0)
        forget(service, 1000.0 + LONG)
        assert served(service) == {STEADY, NEW_TARGET, UNLISTED}


async def test_a_model_that_came_back_meanwhile_keeps_its_counts() -> None:
    async with serving(OLD) as (service, envoy):
        await are_asked(service, envoy)
        reload(service, WITHOUT)
        forget(service, 1000.0)
        reload(service, OLD)
        forget(service, 1000.0 + LONG)
        reload(service, WITHOUT)
        forget(service, 1000.0 + 2 * LONG)
        assert served(service) == {STEADY, OLD_TARGET, UNLISTED}
        assert service.requests["rolled a pool completed"] == 1


async def test_a_model_that_comes_back_later_is_counted_anew() -> None:
    async with serving(OLD) as (service, envoy):
        await are_asked(service, envoy)
        leaves(service)
        reload(service, OLD)
        await ask(envoy, "rolled")
        await service.idle()
        assert service.requests["rolled a pool completed"] == 1


async def test_an_answer_that_ends_after_its_model_was_forgotten_is_counted_and_forgotten_as_well() -> None:
    async with serving(OLD) as (service, envoy):
        stream = envoy.stream()
        await stream.request_headers(CHAT)
        await stream.reply()
        await stream.request_body(b'{"model":"rolled"}')
        await stream.reply()
        leaves(service)
        await stream.end()
        await service.idle()
        assert service.requests == {"rolled a pool aborted": 1}
        forget(service, 1000.0 + 2 * LONG)
        forget(service, 1000.0 + 4 * LONG)
        assert served(service) == set()


async def test_refusals_of_a_model_that_left_are_forgotten_too() -> None:
    async with serving(NOBODY) as (service, envoy):
        await is_refused(service, envoy)
        assert served(service) == {REFUSED}
        leaves(service)
        assert served(service) == set()


async def test_so_are_its_mirrored_requests_and_those_that_another_target_got() -> None:
    async with serving(MIRRORED) as (service, envoy):
        await ask(envoy, "rolled")
        await service.idle()
        assert also(service) == {("rolled", "pool"): 1.0, ("rolled", "shadow"): 1.0}
        leaves(service)
        assert also(service) == {}


async def test_so_is_what_its_answers_told() -> None:
    async with serving(READS) as (service, envoy):
        stream = await begun(envoy)
        for chunk in (ONE, TWO, USAGE):
            await stream.response_body(chunk)
            await stream.reply()
        await stream.end()
        await service.idle()
        assert service.sample("extproc_time_to_first_token_seconds_count", **SERVED) == 1
        leaves(service)
        assert served(service) == set()


async def test_refusals_of_a_model_that_is_still_there_stay() -> None:
    async with serving(NOBODY) as (service, envoy):
        await is_refused(service, envoy)
        forget(service, 1000.0)
        forget(service, 1000.0 + LONG)
        assert served(service) == {REFUSED}


async def test_what_two_targets_count_together_is_removed_once() -> None:
    async with serving(MIRRORED) as (service, envoy):
        await ask(envoy, "rolled")
        await service.idle()
        reload(service, MIRRORED.replace("model: a", "model: c"))
        await ask(envoy, "rolled")
        await service.idle()
        assert served(service) == {OLD_TARGET, "rolled c pool"}
        leaves(service)
        assert (served(service), also(service)) == (set(), {})


def also(service: Service) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for metric in (service.metrics.mirrored, service.metrics.target_fallbacks)
        for family in metric.collect()
        for sample in family.samples
    }


# -- pools --------------------------------------------------------------------------------------------------------

TWO_POOLS = """
pools:
- {name: pool, endpoints: ['127.0.0.1:8001']}
- {name: spare, endpoints: ['127.0.0.1:8002']}
default_pool: pool
"""


def count_everything_of_pools(service: Service) -> None:
    """Once of each metric that pools are told apart by, for both."""
    metrics = service.metrics
    for pool in ("pool", "spare"):
        for counter in (metrics.pin_misses, metrics.unknown_profiles):
            counter.labels(pool).inc()
        for counter in (
            *(metrics.scrapes, metrics.load_reports, metrics.tier_requests),
            *(metrics.set_aside, metrics.answers.read),
        ):
            counter.labels(pool, "x").inc()
        service.telemetry.waited(pool, "dispatched", 0.1)


def counted(service: Service) -> dict[str, set[str]]:
    """Pools by metric, of those that count what happens in them."""
    found: dict[str, set[str]] = {}
    for family in service.metrics.registry.collect():
        if family.type in ("counter", "histogram"):
            for sample in family.samples:
                if "pool" in sample.labels:
                    name = family.name + "_total" * (family.type == "counter")
                    found.setdefault(name, set()).add(sample.labels["pool"])
    return found


OF_POOLS = {
    family.name
    for family in catalogue.families().values()
    if family.kind != "gauge" and "pool" in family.labels and "model" not in family.labels
}
"""Metrics that pools are told apart by, and models are not."""


async def test_all_that_was_counted_of_a_pool_that_left_is_forgotten_after_a_while() -> None:
    async with serving(TWO_POOLS) as (service, _):
        count_everything_of_pools(service)
        reload(service, POOL)
        forget(service, 1000.0)
        forget(service, 1000.0 + SERIES_KEPT_S - 1)
        assert counted(service) == dict.fromkeys(OF_POOLS, frozenset({"pool", "spare"}))
        forget(service, 1000.0 + LONG)
        assert counted(service) == dict.fromkeys(OF_POOLS, frozenset({"pool"}))


async def test_a_pool_that_came_back_meanwhile_keeps_its_counts() -> None:
    async with serving(TWO_POOLS) as (service, _):
        count_everything_of_pools(service)
        for config, now in ((POOL, 1000.0), (TWO_POOLS, 1000.0 + LONG), (POOL, 1000.0 + 2 * LONG)):
            reload(service, config)
            forget(service, now)
        assert service.sample("extproc_pin_misses_total", pool="spare") == 1


async def test_what_is_counted_of_a_pool_after_it_was_forgotten_is_forgotten_as_well() -> None:
    async with serving(TWO_POOLS) as (service, _):
        reload(service, POOL)
        count_everything_of_pools(service)
        for now in (1000.0, 1000.0 + LONG):
            forget(service, now)
        service.metrics.pin_misses.labels("spare").inc()
        forget(service, 1000.0 + 2 * LONG)
        assert service.sample("extproc_pin_misses_total", pool="spare") == 1
        forget(service, 1000.0 + 4 * LONG)
        assert service.sample("extproc_pin_misses_total", pool="spare") is None
