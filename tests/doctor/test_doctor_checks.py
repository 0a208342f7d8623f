"""All checks together."""

from doctor_cases import Fine, Trap
from doctor_pages import Pages
from test_doctor_attachment import CASES as ATTACHMENT
from test_doctor_bodies import CASES as BODIES
from test_doctor_clients import CASES as CLIENTS
from test_doctor_counters import CASES as COUNTERS
from test_doctor_endpoints import CASES as ENDPOINTS
from test_doctor_metadata import CASES as METADATA
from test_doctor_modes import CASES as MODES
from test_doctor_pinning import CASES as PINNING
from test_doctor_processor import CASES as PROCESSOR
from test_doctor_router import CASES as ROUTER
from test_doctor_timeouts import CASES as TIMEOUTS
from test_doctor_upstream import CASES as UPSTREAM

from extproc.doctor.checks import CHECKS
from extproc.doctor.diagnosis import diagnose

TABLES = (
    ATTACHMENT,
    PINNING,
    ENDPOINTS,
    BODIES,
    TIMEOUTS,
    PROCESSOR,
    UPSTREAM,
    MODES,
    METADATA,
    CLIENTS,
    ROUTER,
    COUNTERS,
)


def test_nothing_is_found_where_there_is_no_trap() -> None:
    told = diagnose(CHECKS, Pages().setup(), "http://e", "http://r", "")

    assert told.findings == []
    assert told.not_made == []
    assert told.checks_made == len(CHECKS)


def test_every_check_has_a_trap_and_something_near_it() -> None:
    ids = {check.id for check in CHECKS}
    cases = [case for table in TABLES for case in table]

    assert {case.id for case in cases if isinstance(case, Trap)} == ids
    assert {case.id for case in cases if isinstance(case, Fine)} == ids
    assert len(ids) == len(CHECKS)


def test_without_a_router_the_checks_that_need_it_are_named_and_the_others_made() -> None:
    pages = Pages(state=None)

    told = diagnose(CHECKS, pages.setup(), "http://e", "http://r", "connection refused")

    assert {entry.id for entry in told.not_made} == {check.id for check in CHECKS if check.needs_router}
    assert {entry.reason for entry in told.not_made} == {"connection refused"}
    assert told.checks_made + len(told.not_made) == len(CHECKS)
    assert told.router is None
