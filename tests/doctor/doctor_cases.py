"""One case a trap: what spoils a setup without traps, and what the check says of it."""

from typing import Any, NamedTuple

from doctor_pages import Pages, Spoil, any_of, original_dst

from extproc.doctor.checks import CHECKS
from extproc.doctor.diagnosis import Place, diagnose
from extproc.doctor.finding import Severity

SERIOUS, WARNING, NOTE = Severity
EXT_PROC = "filter envoy.filters.http.ext_proc"
ROUTE, ENTRY, PODS_AT, ROUTERS_AT = "route all/qwq", "route all/entry", "cluster pods", "cluster extproc"
LISTENER = "listener llm"
IN = "http.in."
FAILED = {"failed_active_health_check": True}


class Trap(NamedTuple):
    id: str
    spoil: Spoil
    severity: Severity
    where: str
    figure: str


class Fine(NamedTuple):
    """Near the trap, and none."""

    id: str
    spoil: Spoil


def label(case: Trap | Fine) -> str:
    return f"{case.id}: {case.figure[:40]}" if isinstance(case, Trap) else f"{case.id} fine"


def assert_told(case: Trap | Fine) -> None:
    """The check says of the spoilt setup what the case says, and nothing else."""
    pages = Pages()
    case.spoil(pages)
    expected = [(case.severity, Place(case.where, case.figure))] if isinstance(case, Trap) else []

    assert found(pages, case.id) == expected


def found(pages: Pages, check_id: str) -> list[tuple[Severity, Place]]:
    made = [check for check in CHECKS if check.id == check_id]
    told = diagnose(made, pages.setup(), "http://e", "http://r", "not asked")
    return [(finding.severity, place) for finding in told.findings for place in finding.found]


def also(*spoils: Spoil) -> Spoil:
    def spoil(pages: Pages) -> None:
        for one in spoils:
            one(pages)

    return spoil


def drop(mapping: dict[str, Any], *keys: str) -> None:
    for key in keys:
        del mapping[key]


def route(pages: Pages, **changes: Any) -> None:
    pages.rule["route"].update(changes)


def retry(pages: Pages, **changes: Any) -> None:
    pages.rule["route"]["retry_policy"].update(changes)


def options(pages: Pages, **changes: Any) -> None:
    """Of the manager."""
    pages.manager["common_http_protocol_options"].update(changes)


def values(pages: Pages) -> dict[str, Any]:
    assert pages.state is not None
    found: dict[str, Any] = pages.state["config"]["values"]
    return found


def duplex(pages: Pages) -> None:
    pages.mode.update(request_body_mode="FULL_DUPLEX_STREAMED", response_trailer_mode="SEND")


def to_original_dst(pages: Pages) -> None:
    drop(pages.pods, "load_balancing_policy")
    pages.pods.update(type="ORIGINAL_DST", original_dst_lb_config=original_dst())


def unstripped(pages: Pages) -> None:
    del pages.manager["early_header_mutation_extensions"]


def route_level(pages: Pages, **per_route: Any) -> None:
    """What every route says of the ext_proc filter."""
    config = {"envoy.filters.http.ext_proc": per_route}
    for one in (pages.rule, pages.entry):
        one["typed_per_filter_config"] = config


def beside(pages: Pages, **changes: Any) -> None:
    """One more route to the pods, without x-extproc-pool and without ext_proc."""
    config = {"envoy.filters.http.ext_proc": any_of("ExtProcPerRoute", disabled=True)}
    direct = {"name": "direct", "match": {"prefix": "/d"}, "route": {"cluster": "pods", "timeout": "0s"}}
    pages.more_routes.append({**direct, "typed_per_filter_config": config, **changes})
