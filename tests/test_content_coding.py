"""Bodies with a content-encoding: read as their content is, and no more of them than is allowed."""

from __future__ import annotations

import gzip
import json
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.body import BodyReader, Reader
from extproc.content_coding import (
    BROTLI_WINDOW_BYTES,
    MAX_MEMBERS,
    PIECE_BYTES,
    WORK_BYTES,
    DecodingReader,
    coding_of,
)
from extproc.errors import InvalidBody
from extproc.form import FormReader
from extproc.formgrammar import FormType
from extproc.jsonscan import ModelFound

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, mtime=0),  # now: some hour's bytes begin like brotli
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
CODINGS = list(ENCODE)
BODY = b'{"model":"qwq","messages":[{"role":"user","content":"What is \\u00e9?"}]}'
FOUND = ModelFound(True, ((9, 14),), ("qwq",))


class TooMuch(Exception):
    pass


class Held:
    """What the reader says that it holds; more than *most* is too much."""

    def __init__(self, most: int = 1 << 40) -> None:
        self.bytes = 0
        self.most_bytes = 0
        self.sizes: list[int] = []
        self._most = most

    def __call__(self, more: int, size: int) -> None:
        if self.bytes + more > self._most:
            raise TooMuch
        self.bytes += more
        self.most_bytes = max(self.most_bytes, self.bytes)
        self.sizes.append(size)


class Read:
    """An encoded body read to its end, and how often the reader gave way."""

    def __init__(self, coding: str, *chunks: bytes, held: Held | None = None, inner: Reader | None = None):
        self.held = held or Held()
        self.reader = DecodingReader(coding, inner or BodyReader(), self.held)
        self.turns = sum(1 for chunk in chunks for _ in self.reader.feed(chunk))
        finishing = self.reader.finish()
        while True:
            try:
                next(finishing)
            except StopIteration as end:
                self.found: ModelFound = end.value
                return
            self.turns += 1


def outcome(coding: str, *chunks: bytes) -> ModelFound | str:
    try:
        return Read(coding, *chunks).found
    except InvalidBody as fault:
        return f"{fault.expected}: {fault}"


def bytewise(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


def prose(length: int) -> bytes:
    """A chat request of about `length` bytes that does not compress to nothing, the model last."""
    words = random.Random(1)
    text = " ".join(str(words.getrandbits(20)) for _ in range(length // 7))
    return json.dumps({"messages": [{"role": "user", "content": text}], "model": "qwq"}).encode()


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", ""),
        ("identity", ""),
        (" Identity ", ""),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
        (" br", "br"),
        ("zstd", "zstd"),
        ("compress", None),
        ("x", None),
        ("gzip, br", None),
        ("gzip, gzip", None),
        ("identity, gzip", None),
        ("gzip;q=1", None),
    ],
)
def test_one_coding_is_undone_and_only_those_that_we_know(header, coding):
    assert coding_of(header) == coding


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_reads_as_its_content_whole_and_byte_by_byte(coding):
    encoded = ENCODE[coding](BODY)
    for chunks in ([encoded], bytewise(encoded), [b"", encoded, b""]):
        read = Read(coding, *chunks)
        assert read.found == FOUND
        assert b"".join(read.reader.chunks) == BODY
        assert (read.reader.size, read.held.bytes, read.turns) == (len(BODY), len(BODY), 0)
        assert read.reader.json is not None
        assert read.reader.json.fields is not None


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("chunk", [1000, 10**8])
@pytest.mark.parametrize("body", [prose(1_500_000), b'{"x":"' + b"y" * 3_000_000 + b'","model":"qwq"}'])
def test_a_big_body_gives_way_by_its_size_in_pieces_that_are_not_large(coding, chunk, body):
    encoded = ENCODE[coding](body)
    read = Read(coding, *(encoded[at : at + chunk] for at in range(0, len(encoded), chunk)))
    assert b"".join(read.reader.chunks) == body
    assert read.found.model == "qwq"
    assert read.turns >= len(body) // (WORK_BYTES + 2 * PIECE_BYTES)
    assert max(map(len, read.reader.chunks)) <= 2 * PIECE_BYTES


@pytest.mark.parametrize("coding", CODINGS)
def test_decoding_gives_way_by_the_size_of_what_comes_out_whoever_reads_it(coding):
    inner = BodyReader()
    inner.feed = lambda chunk: ()  # type: ignore[method-assign]
    turns = sum(1 for _ in DecodingReader(coding, inner, Held()).feed(ENCODE[coding](bytes(3_000_000))))
    assert turns >= 3_000_000 // (WORK_BYTES + 2 * PIECE_BYTES)


@given(st.sampled_from(CODINGS), st.binary(max_size=300), st.data())
def test_any_split_gives_the_same_result(coding, content, data):
    encoded = ENCODE[coding](b'{"model":"a","x":"' + content.hex().encode() + b'"}')
    cuts = sorted(data.draw(st.sets(st.integers(0, len(encoded)))))
    chunks = [encoded[start:end] for start, end in pairwise([0, *cuts, len(encoded)])]
    assert Read(coding, *chunks).found == ModelFound(True, ((9, 12),), ("a",))


@given(st.sampled_from(CODINGS), st.binary(max_size=60), st.integers(0, 200), st.integers(0, 3), st.data())
def test_whatever_comes_is_read_or_refused_and_any_split_agrees(coding, noise, at, gone, data):
    encoded = ENCODE[coding](BODY)
    broken = encoded[:at] + noise + encoded[at + gone :]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(broken)))))
    chunks = [broken[start:end] for start, end in pairwise([0, *cuts, len(broken)])]
    whole, split = outcome(coding, broken), outcome(coding, *chunks)
    assert isinstance(whole, str) == isinstance(split, str)
    if isinstance(whole, ModelFound):
        assert whole == split


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_ends_early_is_refused(coding):
    encoded = ENCODE[coding](BODY)
    assert outcome(coding) == outcome(coding, b"") == f"{coding}: an unexpected end after 0 bytes"
    for end in range(1, len(encoded)):
        fault = outcome(coding, encoded[:end])
        assert isinstance(fault, str)
        assert fault.startswith(f"{coding}: an unexpected end after ")


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_is_something_else_is_refused(coding):
    assert outcome(coding, BODY) == f"{coding}: it is corrupt after 0 bytes"
    others = [ENCODE[other](BODY) for other in CODINGS if other != coding]
    assert {outcome(coding, other) for other in others} == {f"{coding}: it is corrupt after 0 bytes"}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a_checksum_that_does_not_match_is_refused(coding):
    if coding == "zstd":
        encoded = bytearray(zstd.compress(BODY, options={zstd.CompressionParameter.checksum_flag: 1}))
    else:
        encoded = bytearray(ENCODE[coding](BODY))
    encoded[-5 if coding == "gzip" else -1] ^= 1
    fault = outcome(coding, bytes(encoded))
    assert isinstance(fault, str)
    assert fault.startswith(f"{coding}: it is corrupt after ")


@pytest.mark.parametrize(
    ("coding", "rest", "fault"),
    [
        ("gzip", b"x", f"gzip: an unexpected end after {len(BODY)} bytes"),
        ("gzip", b"\0", f"gzip: an unexpected end after {len(BODY)} bytes"),
        ("gzip", bytes(99), f"gzip: it is corrupt after {len(BODY)} bytes"),
        ("deflate", b"x", f"deflate: something follows its end after {len(BODY)} bytes"),
        ("deflate", zlib.compress(b""), f"deflate: something follows its end after {len(BODY)} bytes"),
        ("br", brotli.compress(b""), f"br: something follows its end after {len(BODY)} bytes"),
        ("zstd", b"xxxx", f"zstd: it is corrupt after {len(BODY)} bytes"),
    ],
)
def test_what_follows_the_end_is_refused(coding, rest, fault):
    encoded = ENCODE[coding](BODY)
    for chunks in ([encoded, rest], [*bytewise(encoded), *bytewise(rest)]):
        assert outcome(coding, *chunks) == fault


def test_what_follows_the_end_of_brotli_in_one_piece_is_refused_too():
    assert outcome("br", brotli.compress(BODY) + b"x") == "br: it is corrupt after 0 bytes"


def test_a_decoded_body_that_is_not_json_is_refused_for_that():
    assert outcome("gzip", gzip.compress(b"[x")) == "JSON: expected a value at byte 1"


def test_a_dictionary_that_nobody_sent_is_refused():
    maker = zlib.compressobj(zdict=b'{"model":')
    assert outcome("deflate", maker.compress(BODY) + maker.flush()) == "deflate: it is corrupt after 0 bytes"


def test_a_window_larger_than_rfc_9659_allows_is_refused():
    def encoded(window_log: int) -> bytes:
        maker = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
        return maker.compress(BODY) + maker.flush()

    assert outcome("zstd", encoded(23)) == FOUND
    assert outcome("zstd", encoded(24)) == "zstd: it is corrupt after 0 bytes"


# -- members ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_members_that_follow_each_other_are_one_body(coding):
    encode = ENCODE[coding]
    encoded = encode(BODY[:10]) + encode(b"") + encode(BODY[10:40]) + encode(BODY[40:])
    for chunks in ([encoded], bytewise(encoded)):
        read = Read(coding, *chunks)
        assert (read.found, b"".join(read.reader.chunks)) == (FOUND, BODY)


def test_skippable_frames_of_zstd_are_skipped():
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    assert outcome("zstd", skippable + zstd.compress(BODY) + skippable) == FOUND


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_many_members_give_way_and_too_many_are_refused(coding):
    empty = ENCODE[coding](b"")
    read = Read(coding, empty * (MAX_MEMBERS - 1) + ENCODE[coding](BODY))
    assert read.found == FOUND
    assert read.turns > 100
    many = empty * MAX_MEMBERS + ENCODE[coding](BODY)
    assert outcome(coding, many) == f"{coding}: more than {MAX_MEMBERS} members"


def test_input_that_says_nothing_gives_way_too():
    maker = zlib.compressobj()
    start = maker.flush(zlib.Z_SYNC_FLUSH)
    encoded = start + b"\x00\x00\x00\xff\xff" * 100_000 + maker.compress(BODY) + maker.flush()
    read = Read("deflate", encoded)
    assert read.found == FOUND
    assert read.turns >= 20


# -- bombs --------------------------------------------------------------------------------------------------

BOMB_BYTES = 50_000_000
BOMBS = {
    "gzip": gzip.compress(bytes(BOMB_BYTES), 1),
    "deflate": zlib.compress(bytes(BOMB_BYTES), 1),
    "br": brotli.compress(bytes(BOMB_BYTES), quality=1),
    "zstd": zstd.compress(bytes(BOMB_BYTES)),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_ends_where_no_more_may_be_held(coding):
    inner = FormReader(FormType(b"b")) if coding == "deflate" else BodyReader()
    inner.feed = lambda chunk: ()  # type: ignore[method-assign]
    held = Held(most=1_000_000)
    bomb = BOMBS[coding]
    assert len(bomb) < BOMB_BYTES // 200
    tracemalloc.start()
    try:
        with pytest.raises(TooMuch):
            Read(coding, bomb, held=held, inner=inner)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert held.bytes <= 1_000_000
    assert len(held.sizes) < 100


def test_bytes_are_held_before_more_are_decoded():
    assert Read("gzip", gzip.compress(BODY)).held.sizes == [len(BODY), len(BODY)]
    body = prose(1_000_000)
    for coding in CODINGS:
        read = Read(coding, ENCODE[coding](body))
        sizes = [size for size in read.held.sizes if size]
        assert sizes[-1] == read.held.bytes == len(body)
        assert max(b - a for a, b in pairwise(sizes)) <= 2 * PIECE_BYTES


def test_the_window_of_brotli_is_held_while_a_large_body_is_decoded():
    assert Read("br", brotli.compress(BODY)).held.most_bytes == len(BODY)
    body = b'{"x":"' + b"y" * 1_000_000 + b'"}'
    read = Read("br", brotli.compress(body))
    assert read.held.most_bytes == len(body) + BROTLI_WINDOW_BYTES
    assert read.held.bytes == len(body)
    with pytest.raises(TooMuch):
        Read("br", brotli.compress(body), held=Held(most=BROTLI_WINDOW_BYTES))


def test_what_a_decoder_takes_is_gone_when_the_body_is_whole():
    encoded = gzip.compress(BODY)
    tracemalloc.start()
    try:
        read = Read("gzip", encoded)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read.found == FOUND
    assert peak > 32 * 1024  # its window
    assert held < 8 * 1024


# -- forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
def test_forms_are_decoded_too(coding):
    body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nqwq\r\n--b--\r\n'
    read = Read(coding, ENCODE[coding](body), inner=FormReader(FormType(b"b")))
    assert read.found == ModelFound(True, ((53, 56),), ("qwq",))
    assert (read.reader.json, read.reader.encode('a"b')) == (None, b'a"b')
    assert Read(coding, ENCODE[coding](BODY)).reader.encode('a"b') == b'"a\\"b"'
