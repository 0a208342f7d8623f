"""`extproc bench`: what it refuses, what it runs, what it writes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extproc.benchmark import extra
from extproc.benchmark.command import bench
from extproc.benchmark.policies import OWN, POLICIES
from extproc.benchmark.results import LEAST_REQUEST, OURS, Report, decode
from extproc.benchmark.workloads import WORKLOADS


def run(*arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(bench, arguments)


SHORT = ("--seeds", "2", "--duration", "5", "--processes", "1", "--policy", OURS, "--policy", LEAST_REQUEST)


def report(directory: Path) -> Report:
    return decode((directory / "results.json").read_bytes())


def cells(shown: Report) -> list[tuple[str, float, str, int, int]]:
    return [(cell.workload, cell.load, cell.policy, cell.routers, cell.seed) for cell in shown.cells]


def trace(directory: Path, *lines: str) -> Path:
    """A CSV of *lines*; 60 calls in 6 s where there are none."""
    path = directory / "trace.csv"
    lines = lines or tuple(f"{0.1 * number:.1f},{500 + number},{5 + number % 7}" for number in range(60))
    path.write_text("\n".join(["timestamp,prompt_tokens,output_tokens", *lines]) + "\n")
    return path


# -- what it says and refuses -------------------------------------------------------------------------------


def test_the_list_names_every_workload_and_policy() -> None:
    result = run("--list")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "workloads:"
    assert [line.split()[0] for line in lines[1 : len(WORKLOADS) + 1]] == list(WORKLOADS)
    assert lines[len(WORKLOADS) + 1 :] == [
        "policies:",
        *(f"  {name}" for name in POLICIES),
        f"  {OWN} (with --config)",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("agent",), f"workload 'agent' is not known; allowed: {', '.join(WORKLOADS)}"),
        (("agents", "--policy", "best"), f"policy 'best' is not known; allowed: {', '.join(POLICIES)}"),
        (("agents", "--policy", OWN), f"policy '{OWN}' is not known; allowed: {', '.join(POLICIES)}"),
        (
            ("--load", "0.5"),
            "--load, --rate, --policy, --routers, --duration and --config go with named workloads",
        ),
        (("seed", "--load", "0.5"), "the load of seed is its clients, and so 1 or more"),
        (("agents", "--load", "0"), "Invalid value for '--load': 0.0 is not in the range x>0."),
        (("agents", "--config", "none.yaml"), "none.yaml: $: cannot be read: No such file or directory"),
        (("--trace", "none.csv"), "[Errno 2] No such file or directory: 'none.csv'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(
    arguments: tuple[str, ...], message: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == f"Error: {message}"


def test_a_gpu_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    result = run("--trace", str(trace(tmp_path)), "--gpu", "abacus")
    assert result.exit_code == 2
    assert "--gpu 'abacus' is not known; allowed: a100-llama-3-8b, " in result.output


def test_a_directory_that_cannot_be_made_is_told_before_the_first_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("agents", "--rate", "8", *SHORT, "--output", str(tmp_path / "file" / "below"))
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == f"Error: --output {tmp_path / 'file' / 'below'}: Not a directory"


def test_without_its_libraries_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "NEEDED", ("numpy", "no_such_library"))
    result = run("agents")
    assert (result.exit_code, result.output) == (
        1,
        "Error: no_such_library not found: pip install '.[bench]' in a checkout of extproc\n",
    )


def test_a_trace_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    result = run("--trace", str(trace(tmp_path, "0,100000,10")), "--output", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "every request is longer than the 32768 tokens that fit in a replica" in result.output


def test_a_workload_without_a_capacity_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = trace(tmp_path, "0,10,1")
    result = run("--trace", str(path), "--seeds", "1", "--processes", "1", "--output", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == (
        "Error: trace under least-request, seed 1: no capacity between 1 and 211.758 calls a second;"
        " try --rate, or a longer --duration"
    )


# -- what it runs and writes --------------------------------------------------------------------------------


def test_a_run_writes_a_page_pictures_and_json(tmp_path: Path) -> None:
    result = run("agents", "--rate", "8", "--routers", "2", *SHORT, "--output", str(tmp_path))
    assert result.exit_code == 0
    written = sorted(path.name for path in tmp_path.iterdir())
    assert {"index.html", "results.json"} < {*written}
    assert [name for name in written if not name.endswith(".png")] == ["index.html", "results.json"]
    assert all(
        (tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in written if name.endswith(".png")
    )
    assert [line for line in result.output.splitlines() if line.startswith("wrote ")] != []
    shown = report(tmp_path)
    assert Counter(cells(shown)) == Counter(
        ("agents", 8.0, policy, routers, seed)
        for policy, routers in ((OURS, 1), (LEAST_REQUEST, 1), (OURS, 2))
        for seed in (1, 2)
    )
    assert [(note.name, note.fleet) for note in shown.workloads] == [("agents", "5 × a100-llama-3-8b")]
    assert shown.capacities == ()
    assert shown.command == (
        "extproc bench agents --seeds 2 --rate 8.0 --policy extproc --policy least-request --routers 2 --duration 5.0"
    )


def test_loads_are_shares_of_least_requests_capacity(tmp_path: Path) -> None:
    loads = ("--load", "0.5", "--load", "0.8", "--load", "0.5")
    assert run("azure-conv", *loads, *SHORT, "--output", str(tmp_path)).exit_code == 0
    shown = report(tmp_path)
    [capacity] = shown.capacities
    assert (capacity.policy, capacity.seeds) == (LEAST_REQUEST, (1, 2))
    full = sum(capacity.rates) / 2
    assert {(cell.load, cell.rate) for cell in shown.cells} == {(0.5, 0.5 * full), (0.8, 0.8 * full)}
    # two loads, seeds and policies: each once
    assert len(cells(shown)) == len(set(cells(shown))) == 8


def test_your_own_trace_is_a_workload(tmp_path: Path) -> None:
    arguments = ("--trace", str(trace(tmp_path)), "--rate", "10", "--replicas", "2", "--jitter", "0.5")
    result = run(*arguments, *SHORT, "--output", str(tmp_path))
    assert result.exit_code == 0
    shown = report(tmp_path)
    assert {cell.workload for cell in shown.cells} == {"trace"}
    assert [len(cell.measures.replica_shares) for cell in shown.cells] == [2] * 4
    assert [(note.name, note.what, note.fleet) for note in shown.workloads] == [
        ("trace", "60 calls of trace.csv", "2 × a100-llama-3-8b")
    ]


def test_your_own_config_is_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "router.yaml"
    path.write_text("pools: [{name: p, endpoints: ['10.0.0.1:8000']}]\n")
    result = run("azure-conv", "--rate", "20", "--config", str(path), *SHORT, "--output", str(tmp_path))
    assert result.exit_code == 0
    shown = report(tmp_path)
    assert {cell.policy for cell in shown.cells} == {OWN, OURS, LEAST_REQUEST}
    by_policy = {cell.policy: cell.measures for cell in shown.cells if cell.seed == 1}
    assert by_policy[OWN].calls == by_policy[OURS].calls


def test_a_fault_in_your_config_is_shown_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "router.yaml"
    path.write_text("pools: []\n")
    result = run("azure-conv", "--config", str(path))
    assert result.exit_code == 2
    assert f"Error: {path}: $.pools: " in result.output


def test_the_load_of_a_closed_loop_is_its_clients(tmp_path: Path) -> None:
    arguments = ("seed", "--load", "4", "--seeds", "1", "--duration", "60", "--policy", OURS)
    assert run(*arguments, "--processes", "1", "--output", str(tmp_path)).exit_code == 0
    [cell] = report(tmp_path).cells
    assert (cell.closed, cell.load, cell.policy) == (True, 4.0, OURS)
    assert cell.measures.calls == 31  # of the guide's 3,000 in 5,800 s


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 1)])
def test_a_missed_figure_is_an_error_where_you_ask_for_it(
    strict: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "extproc.benchmark.verdicts.LATENCY_REACH", (("azure-conv", "mean TTFT", LEAST_REQUEST, 0.01),)
    )
    arguments = ("azure-conv", "--rate", "20", *SHORT, *strict, "--output", str(tmp_path))
    assert run(*arguments).exit_code == code


LIGHT = """
import sys
import extproc.cli, extproc.app, extproc.benchmark.command
heavy = {"numpy", "matplotlib", "PIL", "extproc.benchmark.program", "extproc.sim.engine"}
print(sorted(heavy & set(sys.modules)))
"""
SERVICE = """
import sys
import extproc.cli, extproc.app
print([name for name in sys.modules if name.startswith(("extproc.benchmark", "extproc.sim"))])
"""


@pytest.mark.parametrize("script", [LIGHT, SERVICE], ids=["the command line", "the service"])
def test_nothing_of_the_benchmark_is_loaded_before_it_runs(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
