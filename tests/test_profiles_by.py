"""Which profile chooses: the one that a trusted header names, else the model's, else the pool's."""

from __future__ import annotations

import pytest
from fleets import decide, router

from extproc import pin
from extproc.router import Router

ADDRESSES = {
    "default": "10.0.0.1:80",
    "of-pool": "10.0.0.2:80",
    "of-model": "10.0.0.3:80",
    "asked": "10.0.0.4:80",
}
TEXT = """
pools:
- name: p
  profile: of-pool
  profile_header: EPP-Profile
  endpoints:
  - {address: '10.0.0.1:80', labels: {for: default}}
  - {address: '10.0.0.2:80', labels: {for: of-pool}}
  - {address: '10.0.0.3:80', labels: {for: of-model}}
  - {address: '10.0.0.4:80', labels: {for: asked}}
models:
- {name: m, pool: p, profile: of-model}
- {name: n, pool: p}
- {name: d, pool: p, profile: default}
profiles:
- {name: default, filters: [{type: labels, labels: {for: default}}]}
- {name: of-pool, filters: [{type: labels, labels: {for: of-pool}}]}
- {name: of-model, filters: [{type: labels, labels: {for: of-model}}]}
- {name: asked, filters: [{type: labels, labels: {for: asked}}]}
trusted_headers: [epp-profile]
"""


@pytest.mark.parametrize(
    ("model", "headers", "profile", "unknown"),
    [
        ("m", {}, "of-model", False),
        ("n", {}, "of-pool", False),
        ("d", {}, "default", False),
        ("unlisted", {}, "of-pool", False),
        (None, {}, "of-pool", False),
        ("m", {"epp-profile": "asked"}, "asked", False),
        ("m", {"epp-profile": "default"}, "default", False),
        ("unlisted", {"epp-profile": "asked"}, "asked", False),
        ("m", {"epp-profile": ""}, "of-model", False),
        ("m", {"epp-profile": "Asked"}, "of-model", True),
        ("n", {"epp-profile": "asked, asked"}, "of-pool", True),
        ("m", {"x-profile": "asked"}, "of-model", False),
    ],
)
def test_the_header_comes_before_the_model_and_the_model_before_the_pool(
    model: str | None, headers: dict[str, str], profile: str, unknown: bool
) -> None:
    decision = decide(router(TEXT), model, headers=headers)
    assert (decision.profile, decision.unknown_profile) == (profile, unknown)
    assert decision.endpoint.address == ADDRESSES[profile]


def test_a_pool_that_names_no_header_lets_nobody_choose() -> None:
    of = router(TEXT.replace("  profile_header: EPP-Profile\n", ""))
    decision = decide(of, "m", headers={"epp-profile": "asked"})
    assert (decision.profile, decision.unknown_profile) == ("of-model", False)


def test_the_built_in_profile_can_be_asked_for_by_its_name() -> None:
    text = "pools: [{name: p, endpoints: ['10.0.0.1:80'], profile: own, profile_header: x-profile}]\n"
    of: Router = router(text + "profiles: [{name: own}]\ntrusted_headers: [X-Profile]")
    assert decide(of, headers={"x-profile": "default"}).profile == "default"
    assert decide(of).profile == "own"


def test_a_trusted_control_header_is_removed_all_the_same() -> None:
    of = router(TEXT)
    headers = {"epp-profile": "asked"}
    mutation = pin.mutation(decide(of, "m", headers=headers), headers, of.sticky_headers, None)
    assert mutation.remove_headers == ("epp-profile",)
