"""A session's name in a cookie: found among others, and whatever a hostile client sends."""

from __future__ import annotations

import pytest
from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from fleets import NOW, endpoint, fleet, metrics, request
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import ConfigError
from extproc.protocol import codec
from extproc.protocol.messages import RequestHeaders
from extproc.scheduling.affinity import SessionAffinityScorer, cookie_value


@pytest.mark.parametrize(
    ("cookies", "value"),
    [
        ("sid=s", "s"),
        ("a=1; sid=s; b=2", "s"),
        ("a=1;sid=s;b=2", "s"),
        ("a=1;\tsid=s \t; b=2", "s"),
        ("sid=s==", "s=="),
        ('sid="quoted"', '"quoted"'),
        ("sid=a,b", "a,b"),
        ("sid=s; sid=t", "s"),
        ("sid=; sid=t", ""),
        ("xsid=x; sid=s", "s"),
        ("sid.x=x; sid=s", "s"),
        ("a=sid=x; sid=s", "s"),
        ("a=1; b", ""),
        ("sid", ""),
        ("sid =s", ""),
        ("Sid=s; SID=t", ""),
        ("$sid=s", ""),
        ("", ""),
        (";", ""),
        ("=s", ""),
        ("a\x00=1; sid=s\x00", "s\x00"),
        ("sid=\udcff\ufffd", "\udcff\ufffd"),
    ],
)
def test_the_cookie_is_found_by_its_whole_name(cookies: str, value: str) -> None:
    assert cookie_value(cookies, "sid") == value


def test_a_cookies_name_is_no_pattern() -> None:
    assert cookie_value("axb=1; a.b=2; a*=3", "a.b") == "2"
    assert cookie_value("axb=1; a.b=2; a*=3", "a*") == "3"


@given(st.text(alphabet='sid=; \t,"\\\udc80', max_size=40))
def test_it_is_what_splitting_at_every_semicolon_would_find(cookies: str) -> None:
    pairs = (crumb.strip(" \t").partition("=") for crumb in cookies.split(";"))
    assert cookie_value(cookies, "sid") == next(
        (v.rstrip(" \t") for n, is_, v in pairs if n == "sid" and is_), ""
    )


@pytest.mark.parametrize("piece", [";", "; ", "; " + " " * 500, "sid", "; sid", "; a=b", "=", "\t", "; sid;"])
def test_a_hostile_header_takes_no_more_steps_than_it_has_characters(piece: str) -> None:
    """Envoy takes 60 KB of headers; a pattern that backtracks would take minutes for a megabyte of this."""
    cookies = piece * (1_000_000 // len(piece))
    assert cookie_value(cookies, "sid") == ""
    assert cookie_value(cookies + ";sid=s", "sid") == "s"


def test_a_session_with_a_hostile_name_has_one_home_like_any_other() -> None:
    targets = [endpoint(metrics(), number) for number in range(1, 6)]
    scorer = SessionAffinityScorer(cookie="sid")
    for name in ("s" * 60_000, "\x00", "\udcff", '"; drop', "%00", "../.."):
        asked = request(headers={"cookie": f"sid={name}"})
        assert sorted(scorer.score(asked, targets, NOW)) == [0.0, 0.0, 0.0, 0.0, 1.0]
        assert scorer.score(asked, targets, NOW) == scorer.score(asked, targets, NOW)


def test_cookies_that_come_in_several_lines_are_one_header() -> None:
    lines = [("cookie", b"a=1"), ("x-many", b"1"), ("cookie", b"sid=s"), ("x-many", b"2")]
    message = pb.ProcessingRequest()
    message.request_headers.headers.headers.extend(
        core.HeaderValue(key=name, raw_value=value) for name, value in lines
    )
    event = codec.decode(codec.parse(message.SerializeToString()))
    assert isinstance(event, RequestHeaders)
    assert event.headers == {"cookie": "a=1; sid=s", "x-many": "1, 2"}


@pytest.mark.parametrize("parameter", ["header", "cookie"])
@pytest.mark.parametrize("name", ["", "two words", "a;b", "a=b", "a,b", '"a"', "\u00e4", "x" * 257])
def test_a_name_that_no_header_or_cookie_can_have_is_refused(parameter: str, name: str) -> None:
    profile = {"name": "default", "scorers": [{"type": "session-affinity", parameter: name}]}
    with pytest.raises(ConfigError) as caught:
        fleet(f"pools: [{{name: p, endpoints: []}}]\nprofiles: [{profile!r}]")
    (fault,) = caught.value.faults
    assert fault.path == f"$.profiles[0].scorers[0].{parameter}"
    assert "the name of a header or cookie (RFC 9110 token of 1..256 characters)" in fault.text
