"""Load reports (ORCA) in the headers of answers: figures that make sense, or a ReportError."""

from __future__ import annotations

from extproc import load_report
from extproc.engine_metrics import MAX_REQUESTS

from ..recorded import recorded
from ..target import Target, words


def run(data: bytes) -> None:
    try:
        report = load_report.parse(data.decode("latin-1"))
    except load_report.ReportError:
        return
    ranks = len(data)  # each takes more than a byte
    assert report.waiting is None or 0 <= report.waiting <= MAX_REQUESTS * ranks
    assert report.kv_cache_usage is None or 0 <= report.kv_cache_usage <= 1


def _seeds() -> list[bytes]:
    return [
        *recorded("*orca.txt"),
        b"TEXT named_metrics.num_requests_waiting=3, named_metrics.kv_cache_usage_perc=0.5",
        b"text num_requests_waiting=3,num_requests_waiting=4,application_utilization=x",
        b'JSON {"named_metrics":{"num_requests_waiting":3.0,"kv_cache_usage_perc":1e-9}}',
        b"JSON " + b"[" * 2000,
        b"TEXT kv_cache_usage_perc=0.9, kv_cache_usage_perc=0.8",
        b"TEXT ",
    ]


TARGET = Target(
    run,
    _seeds,
    words(
        b"TEXT JSON named_metrics. num_requests_waiting= kv_cache_usage_perc= nan inf -1 1e999 1_0 , { } [",
        b'"named_metrics":{',
        b" ",
        b"\xa0",
        b"\x1c",
    ),
)
