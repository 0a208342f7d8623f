"""Addresses are compared and sent in one spelling: the one that Envoy uses."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import address


@pytest.mark.parametrize(
    ("written", "ip", "port", "normal"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, "127.0.0.1:8000"),
        ("10.0.0.1:1", "10.0.0.1", 1, "10.0.0.1:1"),
        ("10.0.0.1:65535", "10.0.0.1", 65535, "10.0.0.1:65535"),
        ("10.0.0.1:0080", "10.0.0.1", 80, "10.0.0.1:80"),
        ("[::1]:80", "::1", 80, "[::1]:80"),
        ("[2001:DB8:0:0:0:0:0:1]:80", "2001:db8::1", 80, "[2001:db8::1]:80"),
        ("[2001:db8::0:1]:80", "2001:db8::1", 80, "[2001:db8::1]:80"),
        ("[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80, "[::ffff:10.0.0.1]:80"),
        ("[::ffff:a00:1]:80", "::ffff:10.0.0.1", 80, "[::ffff:10.0.0.1]:80"),
    ],
)
def test_an_address_is_ip_and_port_in_one_spelling(written: str, ip: str, port: int, normal: str) -> None:
    assert address.split(written) == (ip, port)
    assert address.normalise(written) == normal


@pytest.mark.parametrize(
    "written",
    [
        "",
        ":",
        "80",
        ":80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1:1_0",
        "127.0.0.1:８０",
        "127.0.0.1: 80",
        "127.0.0.1:80\n",
        " 127.0.0.1:80",
        "127.0.0.01:80",
        "127.1:80",
        "2130706433:80",
        "0x7f000001:80",
        "[127.0.0.1]:80",
        "::1:80",
        "[::1]",
        "[::1:80",
        "::1]:80",
        "[[::1]]:80",
        "[fe80::1%eth0]:80",
        "[fe80::1%a,6.6.6.6:80]:80",
        "localhost:80",
        "vllm-0.vllm:8000",
        "http://127.0.0.1:80",
        "127.0.0.1:80,127.0.0.2:80",
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(written: str) -> None:
    with pytest.raises(ValueError) as caught:
        address.split(written)
    assert str(caught.value) == f"{written!r} is not IP:PORT ([IPv6]:PORT), with a port of 1..65535"
    with pytest.raises(ValueError):
        address.normalise(written)


def test_a_refusal_of_something_long_stays_short() -> None:
    with pytest.raises(ValueError) as caught:
        address.split("127.0.0.1:" + "9" * 100_000)
    assert (
        str(caught.value)
        == f"'127.0.0.1:{'9' * 67}...' is not IP:PORT ([IPv6]:PORT), with a port of 1..65535"
    )


@given(st.ip_addresses(), st.integers(1, 65535))
def test_what_is_joined_splits_into_the_same_again(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    joined = address.join(str(ip), port)
    text, split_port = address.split(joined)
    assert (ipaddress.ip_address(text), split_port) == (ip, port)
    assert address.normalise(address.normalise(joined)) == address.normalise(joined)


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        (None, None),
        ("", frozenset()),
        ([], frozenset()),
        ("10.0.0.1", {"10.0.0.1"}),
        ("10.0.0.1:80", {"10.0.0.1:80"}),
        (" 10.0.0.1:80 , 10.0.0.2 ", {"10.0.0.1:80", "10.0.0.2"}),
        (["10.0.0.1:80", "10.0.0.2"], {"10.0.0.1:80", "10.0.0.2"}),
        (["10.0.0.1:80,10.0.0.2:80", "10.0.0.3"], {"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3"}),
        ("[2001:DB8::1]:80", {"[2001:db8::1]:80"}),
        ("[2001:DB8::1]", {"2001:db8::1"}),
        ("2001:db8:0::1", {"2001:db8::1"}),
        ("10.0.0.1,,", {"10.0.0.1"}),
        ("pod-1, 10.0.0.1:http, [::1, ::1], 10.0.0.1:0, 10.0.0.1%a, *", frozenset()),
    ],
)
def test_a_subset_hint_is_a_set_of_addresses(value: str | list[str] | None, allowed: set[str] | None) -> None:
    hints = address.hints(value)
    assert hints == allowed


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (None, "10.0.0.1:1, 10.0.0.2", {"10.0.0.1:1", "10.0.0.2"}),
        ("10.0.0.1:1", "10.0.0.1:1, 10.0.0.2:1", {"10.0.0.1:1"}),
        ("10.0.0.1", "10.0.0.1:1, 10.0.0.2:1", {"10.0.0.1:1"}),
        ("10.0.0.1:1, 10.0.0.2:1", "10.0.0.2", {"10.0.0.2:1"}),
        ("10.0.0.1", "10.0.0.1", {"10.0.0.1"}),
        ("[::1]:1, [::2]:1", "::1", {"[::1]:1"}),
        ("10.0.0.1:1", "10.0.0.1:2", set()),
        ("", "10.0.0.1", set()),
    ],
)
def test_two_hints_allow_what_both_do(one: str | None, other: str, both: set[str]) -> None:
    given = address.hints(other)
    assert given is not None
    assert address.common(address.hints(one), given) == both
