"""Addresses, hints, cookies, names, trace contexts: one spelling for each, and nothing but what was said."""

from __future__ import annotations

from extproc import address, trace_context
from extproc.model_name import MAX_BYTES, is_usable
from extproc.pin import control_headers, is_control_header
from extproc.scheduling.affinity import cookie_value

from ..target import Target, words


def run(data: bytes) -> None:
    kind, text = data[0] if data else 0, data[1:].decode("utf-8", "surrogateescape")
    _KINDS[kind % len(_KINDS)](text)


def _address(text: str) -> None:
    try:
        ip, port = address.split(text)
    except ValueError:
        return
    once = address.join(ip, port)
    assert address.normalise(text) == address.normalise(once) == once, "two spellings of one address"
    assert address.split(once) == (ip, port)
    assert once.isascii()
    assert not set(once) & set(" \t\r\n,%"), "it would not stand in a header"
    assert address.hints(text) == address.hints(once) == frozenset((once,))


def _hints(text: str) -> None:
    one, _, other = text.partition("|")
    allowed = address.hints(one)
    assert allowed is not None
    assert address.hints([one]) == address.hints(one.split(",")) == allowed
    assert len(allowed) <= one.count(",") + 1
    assert address.hints(",".join(sorted(allowed)) or " ") == allowed, "not its own spelling"
    others = address.hints(other.split("|"))
    assert others is not None
    both = address.common(allowed, others)
    assert both <= allowed | others, "more is allowed than either said"
    assert both == address.common(others, allowed)
    assert address.common(None, allowed) == allowed
    assert address.common(allowed, allowed) == allowed


def _cookie(text: str) -> None:
    value = cookie_value(text, "sid")
    assert f"sid={value}" in text or value == ""
    assert ";" not in value
    assert cookie_value(f"other=1; sid=x; {text}", "sid") == "x", "a later cookie wins"


def _name(text: str) -> None:
    if is_usable(text):
        assert 0 < len(text.encode()) <= MAX_BYTES
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)
    header = text.lower()
    removed = control_headers((header,), frozenset())
    assert removed == ((header,) if is_control_header(header) else ())


def _trace(text: str) -> None:
    parent = trace_context.parse(text)
    if parent is None:
        return
    assert 0 < parent.trace_id < 1 << 128
    assert 0 < parent.span_id < 1 << 64
    again = trace_context.parse(trace_context.header(parent.trace_id, parent.span_id))
    assert again == trace_context.Parent(parent.trace_id, parent.span_id, sampled=True)
    assert f"{parent.trace_id:032x}-{parent.span_id:016x}" in text, "not the ids that were sent"


_KINDS = (_address, _hints, _cookie, _name, _trace)


def _seeds() -> list[bytes]:
    texts = {
        0: [
            b"10.0.0.1:8000",
            b"[2001:db8::1]:80",
            b"[::ffff:1.2.3.4]:1",
            b"[fe80::1%eth0]:1",
            b"010.0.0.1:080",
        ],
        1: [b"10.0.0.1, 10.0.0.2:80 ,[::1]:80,x|10.0.0.1:81,::1|", b"", b"::1|[0::1],10.0.0.1"],
        2: [b"a=b; sid=abc; c", b"xsid=1;sid=2 ;\tsid=3", b'sid="a;b"'],
        4: [
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more",
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ],
        3: [b"qwq-32b", b"x-gateway-destination-endpoint", b"x-llm-d-a", "é\u0085".encode()],
    }
    return [bytes([kind]) + text for kind, some in texts.items() for text in some]


TARGET = Target(
    run,
    _seeds,
    words(
        b"10.0.0.1 :8000 [::1] ::ffff: %eth0 65535 65536 ; , | sid= x-extproc- 0x7f \xd9\xa3 \xc2\xa0", b" "
    ),
    max_bytes=512,
)
