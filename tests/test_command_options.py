"""What holds for the options of every command."""

from __future__ import annotations

import pytest
from click import BadParameter, Option
from click.testing import CliRunner
from click.types import FloatParamType
from command_table import COMMANDS

from extproc.cli import cli

OPTIONS = {
    f"{name} {option.opts[0]}": option
    for name, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, Option)
}
NUMBERS = {name: option for name, option in OPTIONS.items() if isinstance(option.type, FloatParamType)}


def test_every_option_says_what_it_is_for() -> None:
    assert [name for name, option in OPTIONS.items() if not option.help] == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_option_takes_a_number_that_is_not_finite(name: str, value: str) -> None:
    with pytest.raises(BadParameter):
        NUMBERS[name].type.convert(value, NUMBERS[name], None)


@pytest.mark.parametrize(("text", "number"), [("0", 0.0), ("2.5", 2.5), ("1e3", 1000.0)])
def test_finite_numbers_are_taken_as_they_are(text: str, number: float) -> None:
    assert OPTIONS["serve --drain-delay"].type.convert(text, None, None) == number


@pytest.mark.parametrize("flag", ["--drain-delay", "--drain-timeout"])
def test_a_drain_without_end_is_refused(flag: str) -> None:
    variable = f"EXTPROC_{flag[2:].upper().replace('-', '_')}"
    serve = ["serve", "--config", "router.yaml"]
    typed = CliRunner().invoke(cli, [*serve, flag, "nan"])
    inherited = CliRunner().invoke(cli, serve, env={variable: "inf"})
    fault = f"Error: Invalid value for '{flag}' (env var: '{variable}'): '%s' is not a finite number."
    assert (typed.exit_code, typed.output.splitlines()[-1]) == (2, fault % "nan")
    assert (inherited.exit_code, inherited.output.splitlines()[-1]) == (2, fault % "inf")
