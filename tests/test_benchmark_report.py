"""The report: JSON and back, one page that needs nothing, pictures, tables in the terminal."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import msgspec
import pytest
from benchmark_reports import FACTORS, LOADS, made_up_report
from PIL import Image
from rich.console import Console

from extproc.benchmark import extra, results
from extproc.benchmark.extra import MissingExtra, require_extra
from extproc.benchmark.report import print_report, write
from extproc.benchmark.report.columns import ALL, MAIN, best, significant
from extproc.benchmark.report.groups import groups
from extproc.benchmark.report.headline import headline, tally
from extproc.benchmark.report.style import in_order
from extproc.benchmark.results import Report

FILES = ["index.html", "results.json", "summary.png", "ttft-cdf.png", "capacity.png", "kv-usage.png"]
MAX_PICTURE_BYTES = 120_000
"""They are kept in the repository and shown in its README."""
LOADING = {"src", "href", "srcset", "data", "poster", "action", "xlink:href"}
VOID = {"meta", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """Reads a page as a browser would: what it loads, its ids, its tables by caption."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.values: list[float] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        for name, value in attrs:
            if name in LOADING:
                self.links.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
            elif name == "data-value":
                self.values.append(float(value or ""))
        if tag in VOID:
            self.handle_endtag(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID and self.open[-1] != tag:
            return
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report() -> Report:
    return made_up_report(seeds=3)


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write(report, tmp_path_factory.mktemp("report") / "made" / "new")


@pytest.fixture(scope="module")
def text(written: list[Path]) -> str:
    return written[0].read_text(encoding="utf-8")


def printed(report: Report, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_report_comes_back_from_its_json(report: Report, written: list[Path]) -> None:
    assert results.decode(written[1].read_bytes()) == report


def test_json_of_something_else_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="missing required field `version`"):
        results.decode(b"{}")


def test_all_files_are_written_and_small(written: list[Path]) -> None:
    assert [path.name for path in written] == FILES
    assert sorted(path.name for path in written[0].parent.iterdir()) == sorted(FILES)
    for path in written[2:]:
        assert path.stat().st_size < MAX_PICTURE_BYTES
        with Image.open(path) as picture:
            picture.verify()
            assert picture.format == "PNG"


def test_the_same_report_makes_the_same_files(report: Report, written: list[Path], tmp_path: Path) -> None:
    again = write(report, tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_the_page_loads_nothing(text: str) -> None:
    links = Page(text).links
    assert links
    assert [link for link in links if not link.startswith("#")] == []
    assert re.findall(r"https?:|@import|url\((?!#)", text) == []


def test_the_page_is_well_formed_and_its_links_lead_somewhere(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)


def test_every_figure_of_the_pages_tables_is_the_reports(report: Report, text: str) -> None:
    expected = []
    for workload, loads in LOADS.items():
        for load in loads:
            for columns in (MAIN, ALL):
                for policy in FACTORS:
                    measures = [
                        cell.measures
                        for cell in report.cells
                        if (cell.workload, cell.load, cell.policy) == (workload, load, policy)
                    ]
                    expected += [fmean(column.get(one) for one in measures) for column in columns]
    assert Page(text).values == expected


def test_the_page_shows_each_figure_beside_its_value(text: str) -> None:
    cells = re.findall(r'data-value="([^"]+)">([\d,.]+)( <small>±[\d,.]+</small>)</td>', text)
    assert len(cells) == text.count("data-value=")
    for value, shown, _ in cells:
        decimals = len(shown.partition(".")[2])
        assert float(shown.replace(",", "")) == pytest.approx(float(value), abs=0.5001 * 10**-decimals)


def test_the_page_says_what_was_run_and_how_it_came_out(report: Report, text: str) -> None:
    assert "conversations of several turns with long shared prefixes &lt;and an escape&gt;" in text
    assert "<pre>make bench-routing</pre>" in text
    for verdict, word in zip(report.verdicts, ("reached", "missed", "unclear", "reached"), strict=True):
        assert f'<td>{verdict.figure}<span class="note">' in text or f"<td>{verdict.figure}</td>" in text
        assert f'<span class="badge {word}">{word}</span>' in text
    assert "0.610 [0.570, 0.650]</td><td>≤ 0.50×" in text
    assert tally(report) == "2 of 4 figures reached, 1 missed, 1 unclear"


def test_a_report_of_little_makes_a_page_without_the_rest(tmp_path: Path) -> None:
    full = made_up_report(seeds=1)
    cells = tuple(cell for cell in full.cells if cell.policy == "extproc" and cell.workload == "agents")
    little = msgspec.structs.replace(full, cells=cells, capacities=(), verdicts=(), series=(), wall_s=0.0)
    written = write(little, tmp_path)
    assert [path.name for path in written] == ["index.html", "results.json", "ttft-cdf.png"]
    text = written[0].read_text(encoding="utf-8")
    assert "What routing changes." in text
    assert 'id="figures"' not in text
    assert "±" not in re.sub(r"<dl.*?</dl>", "", text)


def test_a_report_of_no_runs_can_be_shown(tmp_path: Path) -> None:
    empty = msgspec.structs.replace(made_up_report(1), cells=(), capacities=(), verdicts=(), series=())
    assert [path.name for path in write(empty, tmp_path)] == ["index.html", "results.json"]


def test_the_headline_takes_all_workloads_and_names_the_ends(report: Report) -> None:
    telling = headline(report).p99_ttft
    assert telling is not None
    assert telling.count == len(groups(report)) == 11
    assert telling.lowest[0] < telling.value < telling.highest[0]
    sentence = "".join(piece for piece, _ in headline(report).sentence())
    assert re.fullmatch(
        r"Against least-request, extproc has \d\.\d\d× the P99 time to first token and \d\.\d\d× the capacity; "
        r"against the Go picker's default, \d\.\d\d× the mean time to first token\.",
        sentence,
    )


@pytest.mark.parametrize("width", [80, 110, 160])
def test_tables_fit_the_terminal(report: Report, width: int) -> None:
    text = printed(report, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("\n oracle (bound)") == 11
    assert ("±0" in text) is (width == 160)


def test_the_terminal_shows_the_verdicts(report: Report) -> None:
    lines = [" ".join(line.split()) for line in printed(report, 120).splitlines()]
    assert "Decision at 100 endpoints, 32 KB prompt reached 187 ≤ 250 µs" in lines
    assert "seed: mean TTFT against random placement reached 0.483 [0.460, 0.507] ≤ 0.60×" in lines


def test_the_bound_is_never_marked_best(report: Report) -> None:
    group = groups(report)[0]
    marked = {column.title: best(group, column) for column in MAIN}
    assert marked["TTFT P99"] == {"extproc"}
    assert marked["Prefix hits"] == {"extproc"}
    assert best(group, next(column for column in ALL if column.family == "Refused")) == set()


def test_variants_of_ours_stand_beside_it_and_the_bound_comes_last() -> None:
    names = ["oracle (bound)", "least-request", "theirs", "extproc, held", "extproc"]
    assert in_order(names) == ["extproc", "extproc, held", "least-request", "theirs", "oracle (bound)"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (0.4834, "0.483"),
        (12.34, "12.3"),
        (187.4, "187"),
        (12345.6, "12,346"),
    ],
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert significant(value) == shown


def test_without_matplotlib_nothing_is_written_and_the_extra_is_named(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra, "NEEDED", ("numpy", "a_library_that_nobody_has"))
    with pytest.raises(MissingExtra) as caught:
        write(report, tmp_path / "report")
    assert (
        str(caught.value)
        == "a_library_that_nobody_has not found: pip install '.[bench]' in a checkout of extproc"
    )
    assert not (tmp_path / "report").exists()


def test_the_extra_of_this_environment_is_complete() -> None:
    require_extra()


def test_the_service_and_the_tables_do_without_matplotlib() -> None:
    code = (
        "import sys, extproc.cli, extproc.app\n"
        "print({'numpy', 'matplotlib', 'extproc.benchmark'} & sys.modules.keys())\n"
        "import extproc.benchmark.report\n"
        "print('matplotlib' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\nFalse\n"
