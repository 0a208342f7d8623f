"""Forms and encoded bodies as Envoy sends them, and the whole of what it gets back."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Mapping

import brotli
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy_peer import EnvoyPeer
from ext_proc_service import (
    CHAT,
    CONFIG,
    REQUEST_HEADERS_GO,
    A,
    refused,
    routed_body,
    routed_headers,
    serving,
    streamed,
)

from extproc.protocol.messages import BodyMode

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BUFFERED, DUPLEX = BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED
CLIENT = "invalid_request_error"
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
AUDIO = {
    ":method": "POST",
    ":path": "/v1/audio/transcriptions",
    "content-type": 'multipart/form-data; boundary="a b"',
}
DECODING = CONFIG + "encoded_bodies: decode\n"


def form(*fields: tuple[str, bytes]) -> bytes:
    parts = [
        b'--a b\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + value + b"\r\n"
        for name, value in fields
    ]
    return b"".join(parts) + b"--a b--\r\n"


NOISE = bytes(range(256)) * 1000 + b"\r\n--a \r\n"


async def answer(
    envoy: EnvoyPeer, mode: BodyMode, headers: Mapping[str, str], body: bytes, pieces: int = 3
) -> list[pb.ProcessingResponse]:
    """All that comes back for a request; a duplex body is joined to one message."""
    stream = envoy.stream(mode)
    await stream.request_headers({**headers, "content-length": str(len(body))})
    if mode is not DUPLEX:
        assert await stream.reply() == REQUEST_HEADERS_GO
        await stream.request_body(body)
        replies = [await stream.reply()]
    else:
        size = max(1, len(body) // pieces)
        cut = [body[at : at + size] for at in range(0, len(body), size)]
        for piece in cut:
            await stream.request_body(piece, end=False)
        await stream.request_body(b"")
        replies = [await stream.reply(), await _joined(stream)]
    await stream.end()
    return replies


async def _joined(stream: object) -> pb.ProcessingResponse:
    body, ended = b"", False
    while not ended:
        reply = await stream.reply()  # type: ignore[attr-defined]
        piece = reply.request_body.response.body_mutation.streamed_response
        body, ended = body + piece.body, piece.end_of_stream
    return streamed(body, end=True)


async def refusal(
    envoy: EnvoyPeer, headers: Mapping[str, str], body: bytes, mode: BodyMode = BUFFERED
) -> pb.ProcessingResponse:
    stream = envoy.stream(mode)
    await stream.request_headers(headers)
    if mode is not DUPLEX:
        assert await stream.reply() == REQUEST_HEADERS_GO
    await stream.request_body(body)
    reply = await stream.reply()
    await stream.closed()
    return reply


def expected(
    mode: BodyMode, model: str | None, target: str | None, body: bytes, sent: bytes, *removed: str
) -> list[pb.ProcessingResponse]:
    """The answer that routes *sent* on as *body*."""
    if mode is DUPLEX:
        return [routed_headers(model, target, removed=removed), streamed(body, end=True)]
    if body is sent:
        return [routed_body(model, target, removed=removed)]
    return [routed_body(model, target, content_length=len(body), body=body, removed=removed)]


# -- forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize(
    "path", ["/v1/audio/transcriptions", "/v1/audio/translations", "/openai/v1/audio/translations/"]
)
async def test_the_model_of_a_form_is_replaced_and_every_other_byte_is_kept(
    mode: BodyMode, path: str
) -> None:
    body = form(("file", NOISE), ("model", b"qwq"), ("prompt", b"qwq"))
    rewritten = form(("file", NOISE), ("model", b"qwq-32b"), ("prompt", b"qwq"))
    async with serving() as (service, envoy):
        replies = await answer(envoy, mode, {**AUDIO, ":path": path}, body)
        assert replies == expected(mode, "qwq", "qwq-32b", rewritten, body)
        await service.idle()
        assert service.in_flight == {}


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
async def test_a_form_whose_model_does_not_change_goes_on_as_it_came(mode: BodyMode) -> None:
    body = form(("model", b"same"), ("file", NOISE), ("model", b"same"))
    async with serving() as (_, envoy):
        assert await answer(envoy, mode, AUDIO, body) == expected(mode, "same", "same", body, body)


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
async def test_a_form_without_a_model_goes_to_the_default_pool_untouched(mode: BodyMode) -> None:
    body = form(("file", NOISE))
    async with serving() as (_, envoy):
        assert await answer(envoy, mode, AUDIO, body) == expected(mode, None, None, body, body)


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "an unexpected end at byte 0"),
        (b'{"model":"qwq"}', "no boundary where it begins at byte 0"),
        (form(("model", b"qwq"))[:-4], "an unexpected end at byte 65"),
        (form(("model", b"a"), ("model", b"b")), "another `model` at byte 114"),
        (form(("model", b"\xff")), "a `model` that is not UTF-8 at byte 55"),
    ],
)
async def test_what_is_no_form_is_refused(mode: BodyMode, body: bytes, says: str) -> None:
    async with serving() as (service, envoy):
        refusal_ = refused("invalid_json", 400, CLIENT, f"The body is not multipart/form-data: {says}.")
        assert await refusal(envoy, AUDIO, body, mode) == refusal_
        await service.idle()
        assert service.requests == {"none none none invalid_json": 1}


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize(
    ("content_type", "says"),
    [
        ("application/json", "its content-type is another"),
        ("multipart/form-data", "its content-type has no boundary"),
        ("multipart/form-data; boundary=a; boundary=b", "a content-type with two parameters of one name"),
        (
            "multipart/form-data; boundary=b; charset*=utf-8''utf-7",
            "a content-type with an extended parameter (`name*=`)",
        ),
        ("multipart/form-data; boundary=" + "x" * 71, "a boundary of more than 70 characters"),
    ],
)
async def test_a_form_whose_boundary_is_not_plain_is_refused_at_its_headers(
    mode: BodyMode, content_type: str, says: str
) -> None:
    async with serving() as (_, envoy):
        stream = envoy.stream(mode)
        await stream.request_headers({**AUDIO, "content-type": content_type})
        refusal_ = refused("invalid_json", 400, CLIENT, f"The body is not multipart/form-data: {says}.")
        assert await stream.reply() == refusal_
        await stream.closed()


@pytest.mark.parametrize("name", [b"", b"a" * 257, b"a\r\nb", b"a\x7f", b"x" * 100_000])
async def test_a_name_in_a_form_that_nobody_can_have(name: bytes) -> None:
    async with serving() as (_, envoy):
        says = "The model name is not usable: it has 1 to 256 bytes and no control characters."
        refusal_ = refused("model_not_found", 404, CLIENT, says, param="model")
        assert await refusal(envoy, AUDIO, form(("model", name))) == refusal_


# -- encodings ----------------------------------------------------------------------------------------------

BODY = b'{ "n": 1e400, "model" : "qwq", "messages":[], "n":2, "x": "\\u003c' + b"z" * 100_000 + b'" }'
NEW_BODY = BODY.replace(b'"qwq"', b'"qwq-32b"')


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize("coding", ENCODE)
async def test_an_encoded_body_that_changes_goes_on_plain(mode: BodyMode, coding: str) -> None:
    sent = ENCODE[coding](BODY)
    async with serving() as (_, envoy):
        replies = await answer(envoy, mode, {**CHAT, "content-encoding": coding}, sent)
        assert replies == expected(mode, "qwq", "qwq-32b", NEW_BODY, sent, "content-encoding")


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize("coding", ENCODE)
async def test_an_encoded_body_whose_model_does_not_change_goes_on_as_it_came(
    mode: BodyMode, coding: str
) -> None:
    sent = ENCODE[coding](BODY.replace(b"qwq", b"same"))
    async with serving() as (_, envoy):
        replies = await answer(envoy, mode, {**CHAT, "content-encoding": coding}, sent)
        assert replies == expected(mode, "same", "same", sent, sent)


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_where_it_is_so_configured_every_encoded_body_goes_on_plain(mode: BodyMode, path: str) -> None:
    plain = BODY.replace(b"qwq", b"same") if "chat" in path else b'{"prompt":"x"}'
    name = "same" if "chat" in path else None
    sent = gzip.compress(plain)
    async with serving(DECODING) as (_, envoy):
        replies = await answer(envoy, mode, {**CHAT, ":path": path, "content-encoding": "gzip"}, sent)
        assert replies == expected(mode, name, name, plain, sent, "content-encoding")
        assert await answer(envoy, mode, {**CHAT, ":path": path}, plain) == expected(
            mode, name, name, plain, plain
        )


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
async def test_an_encoded_form_is_read_too(mode: BodyMode) -> None:
    body, rewritten = (form(("file", NOISE), ("model", name)) for name in (b"qwq", b"qwq-32b"))
    sent = gzip.compress(body)
    async with serving() as (_, envoy):
        replies = await answer(envoy, mode, {**AUDIO, "content-encoding": "gzip"}, sent)
        assert replies == expected(mode, "qwq", "qwq-32b", rewritten, sent, "content-encoding")


async def test_a_body_that_says_it_has_no_encoding_is_read_as_it_is() -> None:
    async with serving() as (_, envoy):
        replies = await answer(envoy, BUFFERED, {**CHAT, "content-encoding": "identity"}, BODY)
        assert replies == expected(BUFFERED, "qwq", "qwq-32b", NEW_BODY, BODY)


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize(
    ("coding", "body", "says"),
    [
        ("gzip", b"", "gzip: an unexpected end after 0 bytes"),
        ("x-gzip", b'{"model":"qwq"}', "gzip: it is corrupt after 0 bytes"),
        ("deflate", gzip.compress(b"{}", mtime=0), "deflate: it is corrupt after 0 bytes"),
        ("br", b'{"model":"qwq"}', "br: it is corrupt after 0 bytes"),
        ("deflate", zlib.compress(b"{}")[:-1], "deflate: an unexpected end after 2 bytes"),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"x" * 20, "gzip: it is corrupt after 2 bytes"),
        ("gzip", gzip.compress(b"{x", mtime=0), "JSON: expected a key at byte 1"),
    ],
)
async def test_a_body_that_is_not_encoded_as_it_says_is_refused(
    mode: BodyMode, coding: str, body: bytes, says: str
) -> None:
    async with serving() as (_, envoy):
        refusal_ = refused("invalid_json", 400, CLIENT, f"The body is not {says}.")
        assert await refusal(envoy, {**CHAT, "content-encoding": coding}, body, mode) == refusal_


@pytest.mark.parametrize("mode", [BUFFERED, DUPLEX])
@pytest.mark.parametrize("coding", ENCODE)
async def test_a_bomb_is_refused_and_nothing_of_it_stays(mode: BodyMode, coding: str) -> None:
    bomb = ENCODE[coding](b" " * 40_000_000)
    async with serving() as (service, envoy):
        says = "The body is larger than 33554432 bytes."
        refusal_ = refused("body_too_large", 413, CLIENT, says)
        assert await refusal(envoy, {**CHAT, "content-encoding": coding}, bomb, mode) == refusal_
        await service.until(lambda: service.held_bytes == 0)


async def test_a_decoded_body_at_the_limit_is_taken_and_one_over_it_is_not() -> None:
    limited = CONFIG + "limits: {max_body_bytes: 100}\n"
    headers = {**CHAT, "content-encoding": "gzip"}
    async with serving(limited) as (_, envoy):
        sent, over = (gzip.compress(b'{"model":"same"}'.ljust(size)) for size in (100, 101))
        assert await answer(envoy, BUFFERED, headers, sent) == expected(BUFFERED, "same", "same", sent, sent)
        too_large = refused("body_too_large", 413, CLIENT, "The body is larger than 100 bytes.")
        assert await refusal(envoy, headers, over) == too_large


async def test_decoded_bytes_count_among_those_that_all_bodies_may_hold() -> None:
    limited = CONFIG + "limits: {max_body_bytes: 100000, max_buffered_bytes: 100000}\n"
    async with serving(limited) as (service, envoy):
        sent = gzip.compress(b'{"model":"qwq"}'.ljust(99_990))
        says = "Too many request bodies are held at once."
        busy = refused("overloaded", 503, "service_unavailable_error", says, retry_after=1)
        assert await refusal(envoy, {**CHAT, "content-encoding": "gzip"}, sent) == busy
        await service.until(lambda: service.held_bytes == 0)
        sent = gzip.compress(b'{"model":"same"}'.ljust(90_000))
        replies = await answer(envoy, BUFFERED, {**CHAT, "content-encoding": "gzip"}, sent)
        assert replies == expected(BUFFERED, "same", "same", sent, sent)
        assert service.endpoint(A).in_flight == 0
        await service.until(lambda: service.held_bytes == 0)
