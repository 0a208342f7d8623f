"""What a config says of answers."""

from __future__ import annotations

import pytest

from extproc.config import parse_config
from extproc.config.schema import ResponsesConfig
from extproc.errors import ConfigError

POOL = b"pools: [{name: a, endpoints: []}]\n"


@pytest.mark.parametrize(
    ("text", "responses"),
    [
        ("", None),
        ("responses: null", None),
        ("responses: {}", ResponsesConfig(percent=100, restore_model=False)),
        ("responses: {percent: 0.01}", ResponsesConfig(percent=0.01)),
        ("responses: {percent: 5, restore_model: true}", ResponsesConfig(5, True)),
    ],
)
def test_answers_are_read_where_it_says_so(text: str, responses: ResponsesConfig | None) -> None:
    assert parse_config(POOL + text.encode()).responses == responses


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("percent: 0", "percent: expected a number above 0 up to 100, got 0"),
        ("percent: 100.5", "percent: expected a number above 0 up to 100, got 100.5"),
        ("percent: .nan", "percent: expected a number above 0 up to 100, got nan"),
        ("percent: 5%", "percent: expected a number above 0 up to 100, got '5%'"),
        ("restore_model: 1", "restore_model: expected true or false, got 1"),
        ("share: 5", "share: unknown key; allowed: percent, restore_model"),
    ],
)
def test_a_faulty_share_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(POOL + b"responses: {%b}" % text.encode())
    assert [str(each) for each in refused.value.faults] == [f"$.responses.{fault}"]
