"""What an answer's headers say of it."""

from __future__ import annotations

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from extproc.answer_headers import read_headers
from extproc.protocol import codec


@pytest.mark.parametrize(
    ("content_type", "streamed"),
    [
        ("text/event-stream", True),
        ("text/event-stream; charset=utf-8", True),
        ("Text/Event-Stream;charset=utf-8", True),
        ("text/event-streams", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_an_answer_is_streamed_where_its_media_type_says_so_in_any_case_of_letters(
    content_type: str, streamed: bool
) -> None:
    headers = {":status": "200", "content-type": content_type}
    assert read_headers(headers, False, codec.Request(pb.ProcessingRequest())).streamed is streamed


@pytest.mark.parametrize(
    ("length", "read"),
    [
        ("0", 0),
        ("17", 17),
        ("9" * 19, 10**19 - 1),
        ("9" * 5000, None),
        ("-1", None),
        ("1e3", None),
        ("", None),
    ],
    ids=range(7),
)
def test_a_length_that_no_body_has_is_none(length: str, read: int | None) -> None:
    headers = {":status": "200", "content-length": length}
    assert read_headers(headers, False, codec.Request(pb.ProcessingRequest())).content_length == read


@pytest.mark.parametrize(("status", "read"), [("200", 200), ("2000", 0), ("20", 0), ("abc", 0), ("", 0)])
def test_a_status_has_three_digits(status: str, read: int) -> None:
    assert read_headers({":status": status}, False, codec.Request(pb.ProcessingRequest())).status == read
