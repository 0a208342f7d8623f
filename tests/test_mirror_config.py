"""Mirrors in a config file: what is taken, and what is refused."""

from __future__ import annotations

import pytest

from extproc.config import parse_config
from extproc.errors import ConfigError
from extproc.mirror import Mirror

POOLS = "pools: [{name: a, endpoints: []}, {name: b, endpoints: []}]\nmodels:\n"
NAME_RULE = "1..253 letters, digits, '.', '_' and '-', with a letter or digit at both ends"


def of(*mirrors: str, pools: str = "aaaa") -> str:
    """One model for each list of mirrors."""
    models = [f"- {{name: m{n}, pool: {pools[n]}, mirrors: [{each}]}}\n" for n, each in enumerate(mirrors)]
    return POOLS + "".join(models)


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text.encode())
    return [str(fault).removeprefix("$.models[0].mirrors") for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "mirrors"),
    [
        ("{name: shadow, percent: 0.05}", (Mirror("shadow", 0.05),)),
        ("{name: s, percent: 100, sticky: {header: X-Session-Id}}", (Mirror("s", 100, "x-session-id"),)),
        ("{name: s, percent: 5, mode: envoy, service: vllm-next:8000}", (Mirror("s", 5),)),
        (
            "{name: x, percent: 33.3}, {name: y, percent: 33.3}, {name: z, percent: 33.4}",
            (Mirror("x", 33.3), Mirror("y", 33.3), Mirror("z", 33.4)),
        ),
        (", ".join(f"{{name: m{n}, percent: 0.1}}" for n in range(1000)), None),  # 100 but for the rounding
    ],
)
def test_mirrors_are_taken(text: str, mirrors: tuple[Mirror, ...] | None) -> None:
    (model,) = parse_config(of(text).encode()).models
    assert mirrors is None or model.effective_mirrors == mirrors


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{name: s}", ["[0].percent: missing, it is required"]),
        ("{percent: 1}", ["[0].name: missing, it is required"]),
        *(
            (
                f"{{name: s, percent: {percent}}}",
                [f"[0].percent: expected a number above 0 up to 100, got {got}"],
            )
            for percent, got in (
                ("0", "0"),
                ("-1", "-1"),
                ("100.1", "100.1"),
                (".nan", "nan"),
                ("1%", "'1%'"),
            )
        ),
        ("{name: 'a b', percent: 1}", [f"[0].name: expected {NAME_RULE}, got 'a b'"]),
        ("{name: s, percent: 1, mode: own}", ["[0].mode: expected one of envoy, got 'own'"]),
        (
            "{name: s, percent: 1, x: 1}",
            ["[0].x: unknown key; allowed: name, percent, sticky, mode, service"],
        ),
        (
            "{name: s, percent: 60}, {name: t, percent: 40.5}",
            [": the percents sum up to 100.5; at most 100 is allowed"],
        ),
        (
            "{name: s, percent: 1}, {name: s, percent: 1}",
            ["[1].name: 's' is there already, at $.models[0].mirrors[0].name"],
        ),
        (
            "{name: s, percent: 1, sticky: {header: X-Extproc-Mirror}}",
            ["[0].sticky.header: X-Extproc-Mirror is set by us; any other header is allowed"],
        ),
        *(
            (
                f"{{name: s, percent: 1, service: '{service}'}}",
                [f"[0].service: '{service}' is not NAME:PORT of a Service"],
            )
            for service in (
                "vllm",
                "vllm:",
                ":80",
                "vllm:0",
                "vllm:65536",
                "v.ns:80",
                "V:80",
                "-v:80",
                "v:80 ",
            )
        ),
    ],
)
def test_a_faulty_mirror_is_refused(text: str, told: list[str]) -> None:
    assert faults(of(text)) == told


def test_a_target_cannot_stick_to_the_mirror_header() -> None:
    text = POOLS + "- {name: m, pool: a, sticky: {header: x-extproc-mirror}}"
    assert faults(text) == [
        "$.models[0].sticky.header: x-extproc-mirror is set by us; any other header is allowed"
    ]


def test_a_mirror_of_a_pool_is_one_service() -> None:
    one, other = ("{name: s, percent: 1, service: %s}" % service for service in ("'x:80'", "'y:80'"))  # noqa: UP031
    assert faults(of(one, one, "{name: s, percent: 2}", other)) == [
        "$.models[3].mirrors[0].service: the mirror 's' of pool a is x:80 already, at $.models[0].mirrors[0].service"
    ]
    parse_config(of(one, other, pools="ab").encode())
