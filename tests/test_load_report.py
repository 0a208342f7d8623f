"""Load reports in the headers of answers: what is read of them, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleets import NOW, decide, endpoint, metrics, router
from hypothesis import given
from hypothesis import strategies as st

from extproc import pin
from extproc.endpoint import NEVER, Endpoint
from extproc.engine_metrics import MAX_REQUESTS
from extproc.flight import Answered, Flight, Watcher
from extproc.holding import with_room
from extproc.load_report import MAX_BYTES, LoadReport, ReportError, parse
from extproc.pool import Pool
from extproc.protocol.messages import HeadersReply, Mutation, Phase, ResponseHeaders
from extproc.protocol.stream import BodyMode, ExtProcStream
from extproc.scheduling.scorers import KvCacheScorer, QueueScorer
from extproc.sim.orca import load_report as simulated
from extproc.sim.stats import Gauges

RECORDED = (Path(__file__).parent / "data" / "vllm-0.32-orca.txt").read_text().splitlines()

# -- reading ------------------------------------------------------------------------------------------------


def test_what_a_real_vllm_answers_is_read_in_both_formats() -> None:
    assert [parse(line) for line in RECORDED] == [
        LoadReport(waiting=0, kv_cache_usage=0.0002441480758079706),
        LoadReport(waiting=0, kv_cache_usage=0.0004882961516159412),
    ]


@pytest.mark.parametrize("wanted", ["TEXT", "text", "JSON", "Json"])
def test_the_simulated_server_answers_letter_for_letter_as_the_real_one(wanted: str) -> None:
    real = next(line for line in RECORDED if line.startswith(wanted.upper()))
    usage = parse(real).kv_cache_usage
    assert usage is not None
    assert simulated(wanted, Gauges(0, 0, 0, usage)) == {"endpoint-load-metrics": real}


@pytest.mark.parametrize("wanted", ["", "BIN", "text/plain"])
def test_the_simulated_server_knows_no_other_format(wanted: str) -> None:
    assert simulated(wanted, Gauges(0, 0, 0, 0.0)) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TEXT named_metrics.num_requests_waiting=3.0", LoadReport(waiting=3)),
        ("TEXT named_metrics.kv_cache_usage_perc=0.5", LoadReport(kv_cache_usage=0.5)),
        (
            "  text   named_metrics.kv_cache_usage_perc = 0.5 , cpu_utilization=9  ",
            LoadReport(kv_cache_usage=0.5),
        ),
        ("TEXT named_metrics.kv_cache_usage_perc=1.0001", LoadReport(kv_cache_usage=1.0)),
        ("TEXT cpu_utilization=0.3, named_metrics.other=oops", LoadReport()),
        ("TEXT", LoadReport()),
        ("TEXT ", LoadReport()),
        ('JSON {"named_metrics": {"num_requests_waiting": 3}}', LoadReport(waiting=3)),
        ('JSON {"cpu_utilization": 0.3, "named_metrics": {"x": 1}}', LoadReport()),
        ('JSON {"named_metrics": {}}', LoadReport()),
        ("JSON {}", LoadReport()),
    ],
)
def test_figures_that_we_do_not_know_and_those_missing_do_not_matter(text: str, expected: LoadReport) -> None:
    assert parse(text) == expected


def test_data_parallel_ranks_are_one_server() -> None:
    """In TEXT vLLM names a figure once for each rank; that is why TEXT is asked for."""
    ranks = [(1, 0.5), (2, 1.0), (0, 0.0)]
    text = ", ".join(
        f"named_metrics.num_requests_waiting={waiting}.0, named_metrics.kv_cache_usage_perc={usage}"
        for waiting, usage in ranks
    )
    assert parse("TEXT " + text) == LoadReport(waiting=3, kv_cache_usage=0.5)


WAITING, USAGE = "named_metrics.num_requests_waiting", "named_metrics.kv_cache_usage_perc"


def test_a_report_of_the_longest_length_is_read() -> None:
    assert parse(f"TEXT {WAITING}=1".ljust(MAX_BYTES)) == LoadReport(waiting=1)


def test_as_many_requests_wait_as_a_page_may_tell_of() -> None:
    assert parse(f"TEXT {WAITING}={MAX_REQUESTS}") == LoadReport(waiting=MAX_REQUESTS)


def test_figures_of_our_names_in_another_group_are_others() -> None:
    assert parse("TEXT request_cost.num_requests_waiting=7") == LoadReport()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither TEXT nor JSON"),
        ("BIN CgkJMzMzMzMz0z8=", "neither TEXT nor JSON"),
        (f"{WAITING}=1", "neither TEXT nor JSON"),
        (f"TEXT {WAITING}", "malformed TEXT"),
        (f"TEXT {WAITING}=", "malformed TEXT"),
        (f"TEXT {WAITING}=1,", "malformed TEXT"),
        (f"TEXT {WAITING}=1 2", "malformed TEXT"),
        (f"TEXT {WAITING}=1, TEXT {WAITING}=2", "malformed TEXT"),
        (f"TEXT {WAITING}=many", "not a number"),
        (f"TEXT {WAITING}=nan", "num_requests_waiting is out of range"),
        (f"TEXT {WAITING}=inf", "num_requests_waiting is out of range"),
        (f"TEXT {WAITING}=-1", "num_requests_waiting is out of range"),
        (f"TEXT {WAITING}=1e10", "num_requests_waiting is out of range"),
        (f"TEXT {WAITING}=5, {WAITING}=-1", "num_requests_waiting is out of range"),
        (f"TEXT {USAGE}=-0.1", "kv_cache_usage_perc is out of range"),
        (f"TEXT {USAGE}=42", "kv_cache_usage_perc is out of range"),
        (f"TEXT {USAGE}=nan", "kv_cache_usage_perc is out of range"),
        ("JSON", "malformed JSON"),
        ("JSON [1]", "malformed JSON"),
        ('JSON {"named_metrics": {"num_requests_waiting": true}}', "malformed JSON"),
        ('JSON {"named_metrics": {"num_requests_waiting": "1"}}', "malformed JSON"),
        ('JSON {"named_metrics": {"num_requests_waiting": NaN}}', "malformed JSON"),
        ('JSON {"named_metrics": {"num_requests_waiting": 1e400}}', "malformed JSON"),
        ('JSON {"named_metrics": {"kv_cache_usage_perc": 1e300}}', "kv_cache_usage_perc is out of range"),
        ("JSON " + "[" * 5000, "malformed JSON"),
        ('JSON {"x": ' + "[" * 5000, "malformed JSON"),
        (f"TEXT {WAITING}=1".ljust(MAX_BYTES + 1), "too long"),
    ],
)
def test_what_makes_no_sense_is_no_report(text: str, message: str) -> None:
    with pytest.raises(ReportError) as caught:
        parse(text)
    assert str(caught.value) == message


@given(st.text(max_size=200))
def test_garbage_is_refused_or_tells_something_possible(garbage: str) -> None:
    for text in (garbage, "TEXT " + garbage, "JSON " + garbage, f"TEXT {WAITING}={garbage}"):
        try:
            report = parse(text)
        except ReportError:
            continue
        assert report.waiting is None or report.waiting >= 0
        assert report.kv_cache_usage is None or 0 <= report.kv_cache_usage <= 1


# -- what an endpoint makes of it ---------------------------------------------------------------------------


def test_a_report_replaces_the_figures_that_it_tells_and_no_other() -> None:
    known = endpoint(metrics(running=7, waiting=3, kv=0.2, loras="a", max_loras=2), in_flight=4)
    known.reported(LoadReport(waiting=1, kv_cache_usage=0.6), NOW + 1)
    assert (known.waiting, known.kv_usage, known.running, known.external) == (1, 0.6, 7, 10)
    assert known.running_loras == {"a"}
    assert known.metrics == metrics(running=7, waiting=1, kv=0.6, loras="a", max_loras=2)
    known.reported(LoadReport(waiting=2), NOW + 1.5)
    assert (known.waiting, known.kv_usage) == (2, 0.6)
    known.reported(LoadReport(kv_cache_usage=0.0), NOW + 1.6)
    assert (known.waiting, known.kv_usage) == (2, 0.0)


def test_what_a_report_tells_is_fresh_from_then_on_and_the_rest_ages() -> None:
    known = Endpoint("10.0.0.1:80", max_age_s=2.0)
    known.observe(metrics(), NOW)
    known.reported(LoadReport(waiting=1), NOW + 1.5)
    assert (known.queue_fresh_until, known.kv_fresh_until, known.fresh_until) == (NOW + 3.5, NOW + 2, NOW + 2)
    known.reported(LoadReport(kv_cache_usage=0.1), NOW + 1.75)
    assert (known.queue_fresh_until, known.kv_fresh_until, known.fresh_until) == (
        NOW + 3.5,
        NOW + 3.75,
        NOW + 2,
    )
    known.configure({}, max_age_s=1.0)
    assert (known.queue_fresh_until, known.kv_fresh_until, known.fresh_until) == (
        NOW + 2.5,
        NOW + 2.75,
        NOW + 1,
    )


def test_scorers_go_by_reports_where_scrapes_are_old() -> None:
    reported, scraped, old = (endpoint(metrics(waiting=4, kv=0.8), number) for number in (1, 2, 3))
    later = NOW + 3  # beyond the 2 s for which a scrape counts
    reported.reported(LoadReport(waiting=0, kv_cache_usage=0.2), later)
    scraped.observe(metrics(waiting=2, kv=0.4), later)
    endpoints = [reported, scraped, old]
    assert QueueScorer().score(None, endpoints, later) == [1.0, 0.0, 0.5]  # type: ignore[arg-type]
    assert KvCacheScorer().score(None, endpoints, later) == pytest.approx([0.8, 0.6, 0.7])  # type: ignore[arg-type]
    assert [each.is_saturated(later, 2, 0.9) for each in endpoints] == [False, True, False]


def test_a_queue_of_which_a_report_tells_is_known_however_old_the_page() -> None:
    reported, old = (endpoint(metrics(waiting=4), number, in_flight=9) for number in (1, 2))
    later = NOW + 3
    reported.reported(LoadReport(waiting=0), later)
    for _ in range(9):
        reported.release()
    assert with_room([reported, old], 1, later) == [reported]
    reported.reported(LoadReport(waiting=1), later)
    assert with_room([reported, old], 1, later) == []


def test_an_endpoint_that_was_never_scraped_stays_unknown() -> None:
    unknown = endpoint(None)
    unknown.reported(LoadReport(waiting=3, kv_cache_usage=0.5), NOW)
    assert (unknown.waiting, unknown.kv_usage, unknown.metrics) == (0, 0.0, None)
    assert unknown.queue_fresh_until == unknown.kv_fresh_until == NEVER


def test_the_request_that_is_answered_does_not_wait_behind_those_that_do() -> None:
    known = endpoint(metrics(), in_flight=3)
    known.reported(LoadReport(waiting=2), NOW + 1)
    known.release()  # its answer is complete
    assert (known.queue, known.has_room(3), known.has_room(2)) == (2, True, False)
    known.acquire()
    assert known.queue == 3


def test_a_page_that_was_asked_for_before_a_report_does_not_undo_it() -> None:
    known = endpoint(metrics(waiting=9, kv=0.9))
    known.reported(LoadReport(waiting=1, kv_cache_usage=0.3), NOW + 1)
    known.observe(metrics(running=5, waiting=9, kv=0.9), NOW + 1.2, asked_at=NOW + 0.9)
    assert known.metrics == metrics(running=5, waiting=1, kv=0.3)
    assert (known.waiting, known.kv_usage, known.running) == (1, 0.3, 5)
    known.observe(metrics(running=5, waiting=8, kv=0.8), NOW + 1.4, asked_at=NOW + 1.1)
    assert (known.waiting, known.kv_usage) == (8, 0.8)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.floats(0.01, 1), st.floats(0, 1)), max_size=20)
)
def test_whatever_comes_when_the_newest_known_figure_counts(
    events: list[tuple[bool, int, float, float]],
) -> None:
    """A page may be as old as its request; a report is as old as its arrival."""
    known, now = Endpoint("10.0.0.1:80"), NOW
    known.observe(metrics(), now)
    newest, told = now, 0
    for is_page, waiting, pause_s, took_ratio in events:
        now += pause_s
        if is_page:
            asked_at = now - pause_s * took_ratio
            known.observe(metrics(waiting=waiting), now, asked_at)
            if asked_at >= newest:
                newest, told = asked_at, waiting
        else:
            known.reported(LoadReport(waiting=waiting), now)
            newest, told = now, waiting
        assert known.waiting == told


# -- from the answer to the endpoint ------------------------------------------------------------------------

A, B = "10.0.0.1:8000", "10.0.0.2:8000"
TEXT = f"TEXT {WAITING}=4.0, {USAGE}=0.5"


class Field:
    """A pool of two that were scraped, and what was told of reports."""

    def __init__(self, *, load_reports: bool = True) -> None:
        self.pool = Pool("pool", [Endpoint(A), Endpoint(B)])
        self.pool.load_reports = load_reports
        for each in self.pool.endpoints:
            each.observe(metrics(), NOW)
        self.told: list[str] = []
        self.watcher = Watcher(
            missed=lambda *_: None,
            set_aside=lambda *_: None,
            reported=lambda _, result: self.told.append(result),
        )

    def answered(self, answer: Answered) -> None:
        flight = Flight(self.pool, self.pool.by_address[A], self.watcher, None, NOW)
        flight.answered(answer, NOW + 1)
        flight.end(NOW + 1)

    @property
    def waiting(self) -> list[int]:
        return [each.waiting for each in self.pool.endpoints]


def test_a_report_counts_for_the_endpoint_that_served() -> None:
    field = Field()
    field.answered(Answered(200, served=A, load_report=TEXT))
    assert (field.waiting, field.told) == ([4, 0], ["ok"])
    field.answered(Answered(200, served=B, load_report=TEXT.replace("4.0", "6.0")))
    assert (field.waiting, field.told) == ([4, 6], ["ok", "ok"])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answered(200), []),
        (Answered(200, load_report="TEXT x=1"), ["empty"]),
        (Answered(200, load_report=f"TEXT {WAITING}=-4"), ["invalid"]),
        (Answered(200, load_report=""), ["invalid"]),
        (Answered(200, served="10.9.9.9:1", load_report=TEXT), ["ignored"]),
        (Answered(200, load_report=TEXT, from_cache=True), ["ignored"]),
        (Answered(200, load_report=TEXT, details="direct_response"), ["ignored"]),
        (Answered(200, load_report=TEXT, details="via_upstream"), ["ok"]),
    ],
)
def test_what_tells_nothing_of_our_endpoint_changes_nothing_and_is_counted(
    answer: Answered, told: list[str]
) -> None:
    field = Field()
    field.answered(answer)
    assert (field.waiting, field.told) == ([4 if told == ["ok"] else 0, 0], told)


def test_in_a_pool_that_did_not_ask_a_report_is_nobodys_business() -> None:
    field = Field(load_reports=False)
    field.answered(Answered(200, served=A, load_report=TEXT))
    assert (field.waiting, field.told) == ([0, 0], [])


@pytest.mark.parametrize(("orca", "asks"), [("true", True), ("false", False)])
def test_a_request_asks_for_a_report_where_its_pool_wants_one(orca: str, asks: bool) -> None:
    of = router("pools: [{name: p, endpoints: ['10.0.0.1:80'], metrics: {orca: %s}}]" % orca)  # noqa: UP031
    mutation = pin.mutation(decide(of), {}, frozenset(), None)
    assert (("endpoint-load-metrics-format", "TEXT") in mutation.set_headers) is asks


def test_the_report_is_taken_out_of_the_answer() -> None:
    stream = ExtProcStream(BodyMode.BUFFERED, BodyMode.NONE)
    stream.receive(ResponseHeaders({":status": "200"}))
    stream.strip_response(("endpoint-load-metrics",))
    expected = Mutation(remove_headers=("endpoint-load-metrics",))
    assert list(stream.replies()) == [HeadersReply(Phase.RESPONSE, expected)]
