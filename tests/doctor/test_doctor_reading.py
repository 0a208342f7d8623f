"""How a dump is read: static and dynamic resources, overrides at every level, and JSON that is odd."""

from typing import Any

import pytest
from doctor_pages import EXT_PROC, PODS, Pages, any_of
from hypothesis import given
from hypothesis import strategies as st

from extproc.doctor import config_dump, fields
from extproc.doctor.checks import CHECKS
from extproc.doctor.clusters import Host
from extproc.doctor.diagnosis import diagnose
from extproc.doctor.finding import size, span
from extproc.doctor.setup import build


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("0.200s", 0.2), ("15s", 15.0), ("0s", 0.0), ("3600s", 3600.0), (None, None), ("1h", None), (7, None)],
)
def test_a_duration_is_seconds(said: Any, seconds: float | None) -> None:
    assert fields.seconds({"timeout": said}, "timeout") == seconds


@pytest.mark.parametrize(
    ("said", "number"), [(32768, 32768), ("9007199254740993", 9007199254740992), (True, None), ("x", None)]
)
def test_a_number_may_be_a_string(said: Any, number: int | None) -> None:
    assert fields.whole({"limit": said}, "limit") == number


@pytest.mark.parametrize(
    ("count", "text"),
    [(32768, "32 KiB"), (52_428_800, "50 MiB"), (1 << 30, "1 GiB"), (9, "9 bytes")],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "200 ms"), (15.0, "15 s"), (0.0, "0 s"), (300, "300 s")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_static_resources_are_read_like_dynamic_ones() -> None:
    pages = Pages()
    dynamic = pages.config_dump
    static = {"configs": [_static(section) for section in dynamic["configs"]]}

    read, expected = config_dump.read(static), config_dump.read(dynamic)

    assert (read.clusters, read.routes, read.localities) == (
        expected.clusters,
        expected.routes,
        expected.localities,
    )
    assert read.listeners == expected.listeners


def _static(section: dict[str, Any]) -> dict[str, Any]:
    """The same section as a static bootstrap makes it."""
    found: dict[str, Any] = {"@type": section["@type"]}
    for key, entries in section.items():
        if key == "dynamic_listeners":
            found["static_listeners"] = [entry["active_state"] for entry in entries]
        elif key != "@type":
            found[key.replace("dynamic_active", "dynamic").replace("dynamic", "static")] = entries
    return found


def test_a_listener_that_warms_up_is_not_looked_at() -> None:
    pages = Pages()
    dump = pages.config_dump
    entry = dump["configs"][0]["dynamic_listeners"][0]
    entry["warming_state"] = entry.pop("active_state")

    assert config_dump.read(dump).listeners == []


def test_an_inline_route_table_is_read_and_one_by_scope_too() -> None:
    for key in ("route_config", "scoped_routes"):
        pages = Pages()
        dump = pages.config_dump
        manager = dump["configs"][0]["dynamic_listeners"][0]["active_state"]["listener"]["filter_chains"][0][
            "filters"
        ][0]["typed_config"]
        del manager["rds"]
        manager[key] = dump["configs"][1]["dynamic_route_configs"][0]["route_config"]

        setup = build(dump, {}, {}, {}, None, "")

        assert [route.name for route in setup.managers[0].routes] == ["all/qwq", "all/entry"]


def test_a_listener_with_the_same_manager_in_two_filter_chains_is_one() -> None:
    dump = Pages().config_dump
    listener = dump["configs"][0]["dynamic_listeners"][0]["active_state"]["listener"]
    listener["default_filter_chain"] = listener["filter_chains"][0]

    assert len(build(dump, {}, {}, {}, None, "").managers) == 1


def test_a_filter_that_is_discovered_is_found_by_its_name() -> None:
    pages = Pages()
    dump = pages.config_dump
    chain = dump["configs"][0]["dynamic_listeners"][0]["active_state"]["listener"]["filter_chains"][0][
        "filters"
    ][0]["typed_config"]["http_filters"]
    config = chain[0].pop("typed_config")
    chain[0]["config_discovery"] = {"config_source": {}}
    entry = {"ecds_filter": any_of("TypedExtensionConfig", name=EXT_PROC, typed_config=config)}
    dump["configs"].append(any_of("EcdsConfigDump", ecds_filters=[entry]))

    processings = list(build(dump, {}, {}, {}, None, "").processings)

    assert [processing.request_body for _, processing in processings] == ["BUFFERED"]


@pytest.mark.parametrize(
    ("level", "said", "runs"),
    [
        ("route", any_of("FilterConfig", config={}), True),
        ("host", any_of("FilterConfig", config=any_of("ExtProcPerRoute", overrides={})), True),
        ("route", any_of("ExtProcPerRoute", overrides={"failure_mode_allow": True}), True),
        ("route", any_of("ExtProcPerRoute", disabled=True), False),
        ("route", any_of("FilterConfig", disabled=True), False),
        ("route", any_of("FilterConfig", config=any_of("ExtProcPerRoute", disabled=True)), False),
    ],
)
def test_a_filter_runs_where_a_level_says_so(level: str, said: dict[str, Any], runs: bool) -> None:
    pages = Pages(filter={"name": EXT_PROC, "disabled": True})
    {"route": pages.entry, "host": pages.host}[level]["typed_per_filter_config"] = {EXT_PROC: said}

    entry = pages.setup().managers[0].routes[-1]

    assert bool(entry.processings) is runs


def test_the_most_specific_level_has_the_last_word() -> None:
    pages = Pages()
    pages.host["typed_per_filter_config"] = {EXT_PROC: any_of("ExtProcPerRoute", disabled=True)}
    overrides = {"processing_mode": {"request_body_mode": "FULL_DUPLEX_STREAMED"}}
    pages.entry["typed_per_filter_config"] = {EXT_PROC: any_of("ExtProcPerRoute", overrides=overrides)}

    rule, entry = pages.setup().managers[0].routes

    assert rule.processings == []
    assert [(p.request_body, p.message_timeout_s, p.receives) for p in entry.processings] == [
        ("FULL_DUPLEX_STREAMED", 10.0, ["envoy.lb", "extproc"])
    ]


def test_a_filter_that_sends_nothing_does_not_run_there() -> None:
    """As Istio has it: on in the chain, and told to send something by the pool's route alone."""
    pages = Pages()
    pages.mode.clear()
    pages.mode.update(request_header_mode="SKIP", response_header_mode="SKIP")
    overrides = {"processing_mode": {"request_body_mode": "FULL_DUPLEX_STREAMED"}}
    pages.rule["typed_per_filter_config"] = {EXT_PROC: any_of("ExtProcPerRoute", overrides=overrides)}

    rule, entry = pages.setup().managers[0].routes

    assert [processing.request_body for processing in rule.processings] == ["FULL_DUPLEX_STREAMED"]
    assert entry.processings == []


def test_only_filters_that_are_asked_for_are_looked_at() -> None:
    pages = Pages()

    assert [
        len(pages.setup(wanted).managers[0].chain) for wanted in ("", "extproc", "ext_proc", "other")
    ] == [1, 1, 1, 0]


def test_addresses_are_written_as_the_router_writes_them() -> None:
    page = {
        "cluster_statuses": [
            {
                "name": "pods",
                "host_statuses": [
                    {"address": {"socket_address": {"address": "FD00::0:1", "port_value": 8000}}},
                    {
                        "address": {"pipe": {"path": "/x"}},
                        "health_status": {"eds_health_status": "UNHEALTHY"},
                    },
                ],
            }
        ]
    }

    setup = build(Pages().config_dump, page, {}, {}, None, "")

    assert setup.clusters["pods"].hosts == [Host("[fd00::1]:8000", ""), Host(":None", "eds UNHEALTHY")]
    assert setup.clusters["extproc"].hosts is None


def test_a_router_with_one_pool_needs_no_names_to_match() -> None:
    pages = Pages()
    del pages.rule["match"]["headers"]
    pages.pool["name"] = "another-name"
    pages.hosts["pods"] = [PODS[0]]

    told = diagnose([check for check in CHECKS if check.id == "stale-endpoints"], pages.setup(), "e", "r", "")

    assert [finding.id for finding in told.findings] == ["stale-endpoints"]


def test_of_several_pools_the_one_that_the_cluster_is_named_after_goes_there() -> None:
    pages = Pages()
    del pages.rule["match"]["headers"]
    assert pages.state is not None
    pages.state["pools"] = [{"name": "pods", "endpoints": []}, {"name": "other", "endpoints": []}]

    setup = pages.setup()

    rule, _ = setup.managers[0].routes
    assert [pool.name for pool in setup.pools_of(rule)] == ["pods"]


_scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=4)
_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(st.data())
def test_no_check_fails_over_a_field_of_another_kind(data: st.DataObject) -> None:
    """A dump is of any version of Envoy: a field that is not what it was is not worth a traceback."""
    pages = Pages(state=None)
    dump = pages.config_dump
    node: Any = dump
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.integers(0, 7)) == 0:
            node[key] = data.draw(_json)
            break
        node = node[key]

    setup = build(dump, pages.clusters_page, pages.stats_page, pages.info, None, "")

    diagnose(CHECKS, setup, "http://e", "http://r", "")
