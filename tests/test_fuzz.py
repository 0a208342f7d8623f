"""The fuzzer: its targets hold in short, each notices what it is there for, and nothing that goes wrong is lost."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from extproc import address, engine_metrics, load_report
from extproc.answers import AnswerReader
from extproc.body import splice
from extproc.budget import BodyBudget
from extproc.config import shape
from extproc.endpoint import Endpoint
from extproc.formscan import FormScanner
from extproc.http_response import Response
from extproc.kube.claims import Claims
from extproc.kube.lines import Lines
from extproc.protocol import stream, wire
from extproc.waiting_room import WaitingRoom
from fuzz import __main__ as command
from fuzz import guard, outcome, running
from fuzz.choices import Choices, pieces
from fuzz.guard import Guard, Word, read_word
from fuzz.mutator import Mutator
from fuzz.outcome import Outcome, Plan
from fuzz.target import Target
from fuzz.targets import SHARES, load

MUTATIONS = 600
SEARCHED = 3_000
"""Inputs in which a planted fault must show."""


def inputs(target: Target, mutations: int, seed: int = 1) -> Iterator[bytes]:
    """Its seeds and some of what becomes of them."""
    return itertools.islice(Mutator(target, seed), len(target.seeds()) + mutations)


def run_all(target: Target, mutations: int) -> None:
    for data in inputs(target, mutations):
        target.run(data)


@pytest.mark.parametrize("name", SHARES)
def test_nothing_is_wrong_with_the_seeds_and_some_mutations_of_each_target(name: str) -> None:
    target = load(name)
    for data in inputs(target, MUTATIONS):
        try:
            target.run(data)
        except Exception as error:
            error.add_note(f"the input: {data!r}")
            raise


# -- each target notices what it is there for ---------------------------------------------------------------


def drops_the_first(method: Callable[..., Any]) -> Callable[..., Any]:
    """*method*, which takes a piece of a body, but for the first byte of each."""
    return lambda self, data, *rest: method(self, data[1:], *rest)


def drops_the_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """*function*, which makes pieces, but for the last one."""
    return lambda *arguments, **named: list(function(*arguments, **named))[:-1]


def twice(method: Callable[..., Any]) -> Callable[..., Any]:
    """*method*, which answers a sequence, with all of it twice."""
    return lambda *arguments: method(*arguments) * 2


PLANTED: list[tuple[str, str, Any, str, Any]] = [
    ("codec", "lengths beyond 127 are written wrong", wire, "_encode_varint", lambda n: bytes((n & 0x7F,))),
    ("codec", "response bodies are taken for others", wire, "REQUEST_BODY_FIELDS", {4: "request"}),
    ("stream", "the last piece is lost", stream, "streamed", drops_the_last(stream.streamed)),
    ("stream", "a closed stream goes on", stream.ExtProcStream, "_step", lambda self, message: True),
    ("exchange", "bodies are not given back", BodyBudget, "give_back", lambda self, size: None),
    ("exchange", "an endpoint's count stays", Endpoint, "release", lambda self, work: None),
    ("exchange", "who leaves is still waited for", WaitingRoom, "remove", lambda *_, **__: True),
    ("json_body", "a spliced byte is lost", "fuzz.targets.json_body", "splice", drops_the_last(splice)),
    ("form_body", "the end of a name is missed", FormScanner, "feed", drops_the_first(FormScanner.feed)),
    ("form_body", "a splice loses a byte", "fuzz.targets.form_body", "splice", drops_the_last(splice)),
    ("coding", "a missing end is fine", "extproc.content_coding._Zlib", "ended", True),
    ("coding", "a bomb comes in one piece", "extproc.content_coding", "PIECE_BYTES", 1 << 30),
    ("answers", "a byte is lost", AnswerReader, "finish", lambda self, now: (b"x",)),
    ("answers", "an event is lost", AnswerReader, "feed", drops_the_first(AnswerReader.feed)),
    ("pages", "any number counts", engine_metrics, "values", lambda lines, most: [1e300]),
    ("load_reports", "a share may be anything", load_report, "_usage", lambda figures: sum(figures) or None),
    ("http_pages", "a page may be of any size", Response, "_limit", lambda self, more: None),
    ("configs", "a fault has several lines", shape, "_step", lambda key: f".{key}"),
    ("configs", "anything is a config", "extproc.config.load.checks", "check", lambda config: ()),
    ("kubernetes", "a line must come at once", Lines, "feed", lambda self, chunk: chunk.split(b"\n")[:-1]),
    ("kubernetes", "an address may be claimed twice", Claims, "members", twice(Claims.members)),
    ("header_values", "an address has many spellings", address, "_ip", lambda text: text),
]


@pytest.mark.parametrize(
    ("name", "what", "where", "attribute", "faulty"), PLANTED, ids=[f"{p[0]}: {p[1]}" for p in PLANTED]
)
def test_a_planted_fault_is_found(
    name: str, what: str, where: Any, attribute: str, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = load(name)
    if isinstance(where, str):
        monkeypatch.setattr(f"{where}.{attribute}", faulty)
    else:
        monkeypatch.setattr(where, attribute, faulty)
    with pytest.raises((AssertionError, ValueError)):
        run_all(target, SEARCHED)


def test_every_target_has_a_planted_fault() -> None:
    assert {each[0] for each in PLANTED} == set(SHARES)


# -- inputs -------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(0, 255))
def test_pieces_are_the_whole(data: bytes, rule: int) -> None:
    assert b"".join(pieces(data, rule)) == data
    assert all(pieces(data, rule)) or not data


@given(st.binary(max_size=40))
def test_used_up_choices_are_the_first_option(data: bytes) -> None:
    choices = Choices(data)
    assert len(choices.some()) <= len(data)
    choices.rest()
    assert (choices.left, choices.byte(), choices.flag(), choices.of("ab"), choices.some()) == (
        0,
        0,
        False,
        "a",
        b"",
    )


def test_the_same_seed_makes_the_same_inputs_and_none_is_too_long() -> None:
    target = Target(lambda data: None, lambda: [b"abc" * 9, b""], (b"token",), max_bytes=20)
    first, second, other = (list(inputs(target, 300, seed)) for seed in (1, 1, 2))
    assert first == second != other
    assert max(map(len, first)) == 20


# -- the guard ----------------------------------------------------------------------------------------------


def guarded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[[bytes], None],
    count: int,
    most_s: float = 60,
) -> Outcome:
    """What comes of *count* inputs `0`, `1`, …"""
    monkeypatch.setattr(guard, "keep", lambda target, data: outcome.keep(target, data, tmp_path))
    told: list[Outcome] = []
    plan = Plan("t", count, most_s, 1, guided=False)
    guarding = Guard(plan, run, Word(tmp_path / "word", 99), told.append)
    for number in range(count):
        guarding(b"%d" % number)
        if told:
            return told[0]
    raise AssertionError("no end")


def test_a_crash_is_told_with_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(data: bytes) -> None:
        assert data != b"7", "seven"

    told = guarded(tmp_path, monkeypatch, run, 100)
    assert (told.verdict, told.inputs) == ("crash", 7)
    assert told.detail.endswith("AssertionError: seven\nassert b'7' != b'7'\n") or "seven" in told.detail
    assert told.found is not None
    assert Path(told.found).read_bytes() == b"7"
    assert read_word(tmp_path / "word") == (7, b"7")


def test_an_input_that_takes_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_INPUT_S", -1.0)
    told = guarded(tmp_path, monkeypatch, lambda data: None, 9)
    assert (told.verdict, told.inputs, Path(told.found or "").read_bytes()) == ("slow", 1, b"0")


def test_what_is_kept_of_each_input_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    told = guarded(tmp_path, monkeypatch, lambda data: kept.append([data]), 20_000)
    assert (told.verdict, told.inputs) == ("grew", 20_000)
    assert told.growth_blocks > outcome.MAX_GROWTH_BLOCKS


def test_what_keeps_nothing_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = guarded(tmp_path, monkeypatch, lambda data: None, 20_000)
    assert (told.verdict, told.inputs, told.found) == ("ok", 20_000, None)


def test_a_run_ends_when_its_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = guarded(tmp_path, monkeypatch, lambda data: None, 10_000, most_s=0)
    assert (told.verdict, told.inputs, told.is_fault) == ("time up", guard.EVERY, False)


def test_a_run_ends_with_whoever_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = itertools.count()
    monkeypatch.setattr("os.getppid", lambda: next(parents))
    told = guarded(tmp_path, monkeypatch, lambda data: None, 10_000)
    assert (told.verdict, told.inputs) == ("time up", guard.EVERY)


# -- the processes ------------------------------------------------------------------------------------------


def test_a_target_is_fuzzed_in_a_process_of_its_own() -> None:
    told = running.fuzz(Plan("load_reports", 500, 60.0, 1, guided=False))
    assert (told.target, told.verdict, told.inputs, told.detail) == ("load_reports", "ok", 500, "")


LOOPS = (
    "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(bytes.fromhex(sys.argv[2]))\nwhile True: pass"
)
A_WORD = guard._HEAD.pack(3, 2) + b"ab"


def test_a_process_that_makes_no_progress_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "MAX_HANG_S", 0.3)
    monkeypatch.setattr(running, "LOOK_S", 0.1)
    with subprocess.Popen([sys.executable, "-c", LOOPS, str(tmp_path / "word"), A_WORD.hex()]) as worker:
        hangs = running._watch(worker, tmp_path / "word")
        worker.kill()
    assert hangs


@pytest.mark.parametrize(("hangs", "verdict"), [(True, "hang"), (False, "died")])
def test_the_input_of_a_process_that_told_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool, verdict: str
) -> None:
    monkeypatch.setattr(running, "keep", lambda target, data: outcome.keep(target, data, tmp_path))
    (tmp_path / "word").write_bytes(A_WORD)
    (tmp_path / "log").write_text("Segmentation fault")
    told = running._lost(Plan("t", 9, 1.0, 1, guided=True), tmp_path, hangs, -11)
    assert (told.verdict, told.inputs, Path(told.found or "").read_bytes()) == (verdict, 3, b"ab")
    assert (told.detail == "Segmentation fault\nexit status -11") is not hangs


# -- the command --------------------------------------------------------------------------------------------


def test_an_input_can_be_run_again(tmp_path: Path) -> None:
    file = outcome.keep("header_values", b"\x0010.0.0.1:80", tmp_path)
    result = CliRunner().invoke(command.main, ["replay", "header_values", str(file)])
    assert (result.exit_code, result.output.partition(";")[0]) == (
        0,
        "header_values: nothing is wrong with it",
    )


def test_the_targets_are_listed_with_what_they_are_about() -> None:
    lines = CliRunner().invoke(command.main, ["list"]).output.splitlines()
    assert [line.split()[0] for line in lines] == list(SHARES)
    assert all(len(line.split()) > 3 for line in lines)


def test_inputs_are_shared_out_and_none_is_left_over() -> None:
    counts = dict(command._counts(list(SHARES), 1_000_000))
    assert 1_000_000 <= sum(counts.values()) < 1_000_000 + len(SHARES)
    assert dict(command._counts(["pages"], 1_000)) == {"pages": 1_000}


def test_a_fault_makes_the_command_fail_and_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fuzz(plan: Plan) -> Outcome:
        return Outcome(plan.target, "crash", "Traceback [red]", 7, found="fuzz/found/pages-1")

    monkeypatch.setattr(command, "fuzz", fuzz)
    result = CliRunner().invoke(command.main, ["run", "pages", "--runs", "9"])
    assert result.exit_code == 1
    assert "Traceback [red]\n" in result.output
    assert "again: python -m fuzz replay pages fuzz/found/pages-1\n" in result.output
