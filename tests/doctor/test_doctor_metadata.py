"""What the router and Envoy tell each other besides headers: every trap is found, what is near it is not."""

import pytest
from doctor_cases import (
    EXT_PROC,
    NOTE,
    PODS_AT,
    SERIOUS,
    WARNING,
    Fine,
    Trap,
    assert_told,
    drop,
    label,
    route_level,
)
from doctor_pages import PIN, any_of, by_metadata, override_host

CASES: list[Trap | Fine] = [
    Trap(
        "metadata-pin-dropped",
        lambda p: (
            p.pods.update(
                load_balancing_policy=override_host(override_host_sources=[{"metadata": by_metadata()}])
            ),
            p.ext_proc["metadata_options"].update(receiving_namespaces={"untyped": ["extproc"]}),
        ),
        SERIOUS,
        PODS_AT,
        f"{EXT_PROC}: receiving_namespaces extproc",
    ),
    Fine("metadata-pin-dropped", lambda p: drop(p.ext_proc, "metadata_options")),
    Fine(
        "metadata-pin-dropped",
        lambda p: (
            p.pods.update(
                load_balancing_policy=override_host(
                    override_host_sources=[{"header": PIN}, {"metadata": by_metadata()}]
                )
            ),
            drop(p.ext_proc, "metadata_options"),
        ),
    ),
    Fine(
        "metadata-pin-dropped",
        lambda p: (drop(p.pods, "load_balancing_policy"), drop(p.ext_proc, "metadata_options")),
    ),
    Trap(
        "metadata-namespaces",
        lambda p: drop(p.ext_proc, "metadata_options"),
        NOTE,
        EXT_PROC,
        "not there: receiving envoy.lb, receiving extproc, forwarding envoy.lb",
    ),
    Fine(
        "metadata-namespaces",
        lambda p: route_level(
            p,
            **any_of(
                "ExtProcPerRoute",
                overrides={
                    "metadata_options": {"receiving_namespaces": {"untyped": ["envoy.lb", "extproc", "x"]}}
                },
            ),
        ),
    ),
    Trap(
        "response-attributes",
        lambda p: drop(p.ext_proc, "response_attributes"),
        WARNING,
        EXT_PROC,
        "response_attributes: none",
    ),
    Trap(
        "response-attributes",
        lambda p: p.ext_proc.update(response_attributes=["upstream.address"]),
        NOTE,
        EXT_PROC,
        "response_attributes without response.code_details",
    ),
    Fine(
        "response-attributes",
        lambda p: (
            p.ext_proc.update(response_attributes=["response.code_details"]),
            p.pods.update(
                load_balancing_policy=override_host(
                    override_host_sources=[{"header": PIN}], selected_host_key=by_metadata()
                )
            ),
        ),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
