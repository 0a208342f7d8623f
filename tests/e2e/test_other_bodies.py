"""Bodies that are not plain JSON, through a real Envoy: forms with audio, and every content-encoding."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Callable
from typing import Any

import aiohttp
import brotli
import pytest
import yarl
from python_multipart.multipart import MultipartParser
from stack import BUFFERED, DUPLEX, SHARED, Stack, stack_fixture
from upstream import Received, noise

from extproc.demo.bootstrap import POOL

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = SHARED

CHAT = "/v1/chat/completions"
MIB = 1024 * 1024
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda body: brotli.compress(body, quality=4),
    "zstd": zstd.compress,
}


def config(addresses: list[str]) -> dict[str, Any]:
    return {
        "pools": [{"name": POOL, "endpoints": addresses}],
        "models": [{"name": "alias", "pool": POOL, "targets": [{"model": "whisper-large-v3"}]}],
    }


shared_stack = stack_fixture(config, ways=[BUFFERED, DUPLEX], upstreams=2)


def only(received: list[Received]) -> Received:
    (request,) = received
    return request


def length_of(stack: Stack, body: bytes) -> list[str]:
    """The content-length that the upstream sees: Envoy drops it in full duplex."""
    return [str(len(body))] if stack.way.mode == "buffered" else []


# -- forms --------------------------------------------------------------------------------------------------


def audio_form(model: str, audio: bytes) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("file", io.BytesIO(audio), filename='a "b".mp3', content_type="audio/mpeg")
    form.add_field("model", model)
    form.add_field("timestamp_granularities[]", "word")
    return form


def data_of(request: Received) -> list[bytes]:
    """What python-multipart, as vLLM uses it, finds in the parts of a form."""
    boundary = request.values("content-type")[0].partition("boundary=")[2].encode()
    parts: list[bytes] = []
    held = bytearray()

    def end() -> None:
        parts.append(bytes(held))
        held.clear()

    parser = MultipartParser(
        boundary,
        {"on_part_data": lambda data, start, stop: held.extend(data[start:stop]), "on_part_end": end},
    )
    parser.write(request.body)
    parser.finalize()
    return parts


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
@pytest.mark.parametrize("size", [0, 100_000, 8 * MIB])
async def test_a_model_server_gets_the_audio_as_it_was_and_the_model_that_it_serves(
    stack: Stack, path: str, size: int
) -> None:
    audio = noise(size)
    async with stack.client.post(path, data=audio_form("alias", audio)) as response:
        answer = await response.json()

    request = only(stack.received())
    assert (response.status, answer["path"]) == (200, path)
    assert data_of(request) == [audio, b"whisper-large-v3", b"word"]
    assert request.values("content-length") == length_of(stack, request.body)
    assert request.values("x-gateway-model-name") == ["alias"]
    assert request.values("x-gateway-destination-endpoint") == [answer["served_by"]]


@pytest.mark.parametrize("path", ["/v1/audio/transcription%73", "/v1/audio%2Ftranscriptions?a=%3f"])
async def test_a_form_is_read_however_its_path_is_written(stack: Stack, path: str) -> None:
    url = yarl.URL(stack.envoy.listen + path, encoded=True)
    async with stack.client.post(url, data=audio_form("alias", b"a")) as response:
        assert response.status == 200

    request = only(stack.received())
    assert data_of(request) == [b"a", b"whisper-large-v3", b"word"]
    assert request.path == path


async def test_a_form_whose_model_stays_goes_on_byte_for_byte(stack: Stack) -> None:
    body = (
        b"--x\r\ncontent-DISPOSITION:form-data;NAME=model\r\n\r\nwhisper-large-v3\r\n--x\r\nContent-Disposition: "
        b'form-data; name="file"; filename="a"\r\n\r\n' + bytes(range(256)) * 300 + b"\r\n--x--\r\n\r\n"
    )
    headers = {"content-type": 'multipart/form-data; charset=utf-8; boundary="x"'}
    async with stack.client.post("/v1/audio/translations", data=body, headers=headers) as response:
        assert response.status == 200

    request = only(stack.received())
    assert request.body == body
    assert request.values("content-length") == length_of(stack, body)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"model":"alias"}'),
        ("multipart/form-data; boundary=a; boundary=b", b"--a--\r\n"),
        ("multipart/form-data; boundary=a", b"--b\r\n\r\n--b--\r\n"),
        (
            "multipart/form-data; boundary=a",
            b"--a\r\nContent-Disposition: form-data; name=model\r\n\r\nalias",
        ),
    ],
)
async def test_what_is_no_form_is_refused(stack: Stack, content_type: str, body: bytes) -> None:
    headers = {"content-type": content_type}
    async with stack.client.post("/v1/audio/transcriptions", data=body, headers=headers) as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"]) == (400, "invalid_json")
    assert stack.received() == []


# -- encodings ----------------------------------------------------------------------------------------------


def chat(model: str) -> bytes:
    return b'{"n": 1e400, "model" : "' + model.encode() + b'", "x": "' + noise(60_000).hex().encode() + b'"}'


@pytest.mark.parametrize("coding", ENCODE)
async def test_an_encoded_body_reaches_the_model_server_plain_where_its_model_changes(
    stack: Stack, coding: str
) -> None:
    headers = {"content-type": "application/json", "content-encoding": coding}
    sent, expected = ENCODE[coding](chat("alias")), chat("whisper-large-v3")
    async with stack.client.post(CHAT, data=sent, headers=headers) as response:
        assert response.status == 200

    request = only(stack.received())
    assert request.body == expected
    assert request.values("content-encoding") == []
    assert request.values("content-length") == length_of(stack, expected)


@pytest.mark.parametrize("coding", ENCODE)
async def test_an_encoded_body_goes_on_as_it_came_where_its_model_stays(stack: Stack, coding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": coding}
    sent = ENCODE[coding](chat("whisper-large-v3"))
    async with stack.client.post(CHAT, data=sent, headers=headers) as response:
        assert response.status == 200

    request = only(stack.received())
    assert request.body == sent
    assert request.values("content-encoding") == [coding]
    assert request.values("content-length") == length_of(stack, sent)


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("compress", b"x", 415, "unsupported_encoding"),
        ("gzip, br", gzip.compress(b"{}", mtime=0), 415, "unsupported_encoding"),
        ("gzip", b'{"model":"alias"}', 400, "invalid_json"),
        ("br", brotli.compress(chat("alias"))[:-1], 400, "invalid_json"),
    ],
)
async def test_what_cannot_be_read_is_refused(
    stack: Stack, coding: str, body: bytes, status: int, code: str
) -> None:
    headers = {"content-type": "application/json", "content-encoding": coding}
    async with stack.client.post(CHAT, data=body, headers=headers) as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"]) == (status, code)
    assert stack.received() == []


@pytest.mark.parametrize("coding", ENCODE)
async def test_a_bomb_is_refused(stack: Stack, coding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": coding}
    bomb = ENCODE[coding](b'{"model":"alias"}' + b" " * 40 * MIB)
    async with stack.client.post(CHAT, data=bomb, headers=headers) as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"]) == (413, "body_too_large")
    assert stack.received() == []
