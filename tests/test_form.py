"""The field `model` of multipart/form-data bodies, and what is refused because parsers would differ over it."""

from __future__ import annotations

import codecs
import email
import email.message
import email.policy
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from extproc.body import splice
from extproc.form import SLICE_BYTES, STEP_COST_BYTES, WORK_BYTES, FormReader
from extproc.formgrammar import FormType, InvalidForm, form_type, part_headers
from extproc.formscan import MAX_PARTS, PART_HEADERS_MAX_BYTES, FormScanner
from extproc.jsonscan import NAME_MAX_BYTES, ModelFound

B = "--b"
AUDIO = b'Content-Disposition: form-data; name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg'
MODEL = b'Content-Disposition: form-data; name="model"'


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"b") -> bytes:
    """A well-formed body of (headers, data)."""
    made = [b"--" + boundary + b"\r\n" + headers + b"\r\n\r\n" + data + b"\r\n" for headers, data in parts]
    return b"".join(made) + b"--" + boundary + b"--\r\n"


B_FORM = FormType(b"b")


def scan(*pieces: bytes, form: FormType = B_FORM) -> ModelFound:
    scanner = FormScanner(form)
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()


def outcome(*pieces: bytes, form: FormType = B_FORM) -> ModelFound | str:
    try:
        return scan(*pieces, form=form)
    except InvalidForm as fault:
        return str(fault)


def bytewise(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


def values(body: bytes, found: ModelFound) -> list[bytes]:
    return [body[start:end] for start, end in found.spans]


def names(body: bytes) -> list[str | None] | str:
    found = outcome(body)
    return found if isinstance(found, str) else list(found.names)


def model_part(headers: bytes, value: bytes = b"qwq") -> bytes:
    return form((AUDIO, b"RIFF"), (headers, value))


# -- what is read -------------------------------------------------------------------------------------------

CLIENTS = {
    "curl, httpx, requests, browsers": MODEL,
    "aiohttp": b'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="model"',
    ".NET": b"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model",
    "Apache HttpClient": MODEL
    + b"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit",
    "Go": MODEL,
    "okhttp": MODEL + b"\r\nContent-Length: 3",
    "odd but plain": b"CONTENT-DISPOSITION:Form-Data;NAME=model \r\ncontent-type:\ttext/plain;",
    "another parameter": MODEL + b'; size=3; x="a;b"',
    "a transfer encoding that does nothing": MODEL + b"\r\nContent-Transfer-Encoding: 7Bit \t",
    "a header twice that says nothing of the part": MODEL + b"\r\nx-note: a\r\nX-Note: b",
}


@pytest.mark.parametrize("headers", CLIENTS.values(), ids=CLIENTS)
def test_the_model_is_found_as_clients_write_it_whole_and_byte_by_byte(headers):
    body = model_part(headers)
    found = scan(body)
    assert (found.names, values(body, found)) == (("qwq",), [b"qwq"])
    assert scan(*bytewise(body)) == found


FILE_NAMES = [
    b'filename="a;b.mp3"',
    b'filename="a \\"b\\".mp3"',
    b'filename="C:\\audio\\a.mp3"',
    b'filename="a\\\\b.mp3"',
    b"filename=\"caf\xc3\xa9.mp3\"; filename*=utf-8''caf%C3%A9.mp3",
    b'filename=""',
    b'filename="; name=model"',
    b"filename=a.mp3;",
]


@pytest.mark.parametrize("filename", FILE_NAMES)
def test_names_of_files_are_as_odd_as_clients_write_them(filename):
    headers = b'Content-Disposition: form-data; name="file"; ' + filename
    assert names(form((headers, b"RIFF"), (MODEL, b"qwq"))) == ["qwq"]


DATA = [
    b"",
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b"--",
    b"\r\n--",
    b"x--b\r\ny",
    b"--c\r\nContent-Disposition: form-data; name=model\r\n\r\nno",
    b"\r\n--c\r\nContent-Disposition: form-data; name=model\r\n\r\nno\r\n--c--\r\n",
    b"\r--b\r\n" + MODEL + b"\r\n\r\nno",
    b"x--b--",
    b"\r\n-" * 9,
    bytes(range(256)) * 3,
]


@pytest.mark.parametrize("data", DATA)
def test_what_only_looks_like_a_boundary_is_data(data):
    body = form((AUDIO, data), (MODEL, b"qwq"), (b'Content-Disposition: form-data; name="x"', data))
    found = scan(body)
    assert (found.names, values(body, found)) == (("qwq",), [b"qwq"])
    assert scan(*bytewise(body)) == found


def test_a_form_without_a_model_names_none():
    assert scan(form((AUDIO, b"RIFF"))) == ModelFound(is_object=True)
    assert scan(b"--b--") == ModelFound(is_object=True)


def test_models_by_another_name_are_other_fields():
    others = [b"Model", b"models", b"model[]", b" model", b"mode%6C", b"mod\xc3\xa9l"]
    parts = [(b'Content-Disposition: form-data; name="' + other + b'"', b"no") for other in others]
    assert names(form(*parts, (MODEL, b"qwq"))) == ["qwq"]


def test_the_same_model_twice_is_one_and_both_are_known():
    body = form((MODEL, b"qwq"), (AUDIO, b"RIFF"), (MODEL, b"qwq"))
    found = scan(body)
    assert (found.names, values(body, found)) == (("qwq", "qwq"), [b"qwq", b"qwq"])


@pytest.mark.parametrize("before", [b"", b"\r\n"])
@pytest.mark.parametrize("after", [b"", b"\r\n", b"\n", b"\r\n\r\n"])
def test_line_breaks_around_a_form_hide_nothing(before, after):
    body = before + form((MODEL, b"qwq")).removesuffix(b"\r\n") + after
    assert names(body) == ["qwq"]


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_a_name_that_is_too_long_is_unusable_and_its_span_known(size):
    longest, longer = b"x" * NAME_MAX_BYTES, b"x" * (NAME_MAX_BYTES + 1)
    for value, name in ((longest, longest.decode()), (longer, None), (longer * 1000, None)):
        body = form((MODEL, value), (AUDIO, b"RIFF"))
        found = scan(*(body[at : at + size] for at in range(0, len(body), size)))
        assert values(body, found) == [value]
        assert (found.names, found.unusable) == ((name,), name is None)


def test_what_stands_in_the_field_is_the_name_with_every_byte():
    for value in ("", " qwq ", "a\r\nb", "a\x00b", "modèle 模型"):
        assert names(form((MODEL, value.encode()))) == [value]


# -- what is refused ----------------------------------------------------------------------------------------

A_MODEL = form((MODEL, b"qwq"))
FAULTS = {
    "nothing": (b"", "an unexpected end at byte 0"),
    "no form": (b'{"model":"qwq"}', "no boundary where it begins at byte 0"),
    "only the beginning of a boundary": (b"\r\n--", "an unexpected end at byte 4"),
    "a preamble": (b"hello\r\n" + A_MODEL, "no boundary where it begins at byte 0"),
    "a preamble of line breaks": (b"\r\n\r\n" + A_MODEL, "no boundary where it begins at byte 0"),
    "another boundary": (form((MODEL, b"qwq"), boundary=b"c"), "no boundary where it begins at byte 0"),
    "an epilogue": (A_MODEL + b"x", "something after its end at byte 65"),
    "another form after the end": (A_MODEL + A_MODEL, "something after its end at byte 65"),
    "no final boundary": (A_MODEL.removesuffix(b"--\r\n"), "an unexpected end at byte 61"),
    "half a final boundary": (A_MODEL.removesuffix(b"-\r\n"), "an unexpected end at byte 62"),
    "cut in the data": (A_MODEL[:57], "an unexpected end at byte 57"),
    "cut in the headers": (A_MODEL[:20], "an unexpected end at byte 20"),
    "padding after a boundary": (
        A_MODEL.replace(b"--b\r\n", b"--b \r\n"),
        "a line that only begins with the boundary at byte 3",
    ),
    "a longer boundary in the data": (
        form((AUDIO, b"\r\n--bb\r\n"), (MODEL, b"qwq")),
        "a line that only begins with the boundary at byte 101",
    ),
    "a boundary that ends in a line feed": (
        A_MODEL.replace(b"--b\r\n", b"--b\n"),
        "a line that only begins with the boundary at byte 3",
    ),
    "a boundary after a bare line feed": (
        form((AUDIO, b"x\n--b\n" + MODEL + b"\n\nno"), (MODEL, b"qwq")),
        "a boundary after a bare line feed at byte 97",
    ),
    "a boundary where data begin": (
        form((AUDIO, b"--b--")),
        "a boundary where data begin at byte 95",
    ),
    "line feeds only": (
        A_MODEL.replace(b"\r\n", b"\n"),
        "a line that only begins with the boundary at byte 3",
    ),
    "headers in lines of a line feed": (
        model_part(b"x: y\n" + MODEL),
        "a part with a malformed header at byte 107",
    ),
    "no headers": (b"--b\r\n\r\nqwq\r\n--b--\r\n", "an unexpected end at byte 19"),
    "no headers at all": (b"--b\r\n\r\n\r\n--b--\r\n", "a part with a malformed header at byte 5"),
    "differing models": (
        form((MODEL, b"a"), (MODEL, b"b")),
        "another `model` at byte 110",
    ),
    "a long and a short model": (form((MODEL, b"a" * 300), (MODEL, b"b")), "another `model` at byte 409"),
    "a charset field": (
        form((b'Content-Disposition: form-data; name="_charset_"', b"utf-16")),
        "a field `_charset_` at byte 5",
    ),
}


@pytest.mark.parametrize(("body", "fault"), FAULTS.values(), ids=FAULTS)
def test_what_parsers_read_differently_is_refused_whole_and_byte_by_byte(body, fault):
    assert outcome(body) == fault
    assert outcome(*bytewise(body)) == fault


def test_too_many_parts_and_too_long_headers_are_refused():
    part = (b"Content-Disposition: form-data; name=x", b"")
    assert outcome(form(*[part] * MAX_PARTS)) == ModelFound(is_object=True)
    many = form(*[part] * (MAX_PARTS + 1))
    last = many.rindex(b"Content-Disposition")
    assert outcome(many) == f"more than {MAX_PARTS} parts at byte {last}"
    room = PART_HEADERS_MAX_BYTES - len(MODEL) - len(b"\r\nx: ") - 4
    longest = form((MODEL + b"\r\nx: " + b"y" * room, b"qwq"))
    longer = form((MODEL + b"\r\nx: " + b"y" * (room + 1), b"qwq"))
    assert outcome(longest) == outcome(*bytewise(longest))
    assert names(longest) == ["qwq"]
    fault = f"a part whose headers exceed {PART_HEADERS_MAX_BYTES} bytes at byte 5"
    assert outcome(longer) == outcome(*bytewise(longer)) == fault
    assert outcome(b"--b\r\n" + b"x" * PART_HEADERS_MAX_BYTES) == fault


PLAIN = "a `model` that is not plain text"
EXTENDED = "a content-type with an extended parameter (`name*=`)"
HEADER_FAULTS = [
    (b"Content-Type: text/plain", "a malformed content-disposition"),
    (b'Content-Disposition: attachment; name="model"', "a part whose content-disposition is not form-data"),
    (b"Content-Disposition: form-data", "a part without a plain name"),
    (b'Content-Disposition: form-data; filename="model"', "a part without a plain name"),
    (b'Content-Disposition: form-data; name="mod\\el"', "a part without a plain name"),
    (b"Content-Disposition: form-data; name*=utf-8''model", "a part without a plain name"),
    (b"Content-Disposition: form-data; name=x; name*=utf-8''model", "a part with an extended name"),
    (b'Content-Disposition: form-data; name=x; name*0="mo"; name*1="del"', "a part with an extended name"),
    (MODEL + b'; name="x"', "a content-disposition with two parameters of one name"),
    (MODEL + b'; NAME="model"', "a content-disposition with two parameters of one name"),
    (MODEL + b"\r\n" + MODEL, "a part with two content-disposition headers"),
    (MODEL + b"\r\ncontent-DISPOSITION: form-data; name=x", "a part with two content-disposition headers"),
    (
        MODEL + b"\r\nContent-Type: text/plain\r\ncontent-type: audio/mpeg",
        "a part with two content-type headers",
    ),
    (
        MODEL + b"\r\nContent-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: base64",
        "a part with two content-transfer-encoding headers",
    ),
    (MODEL + b'; x="a\\"; name="y"', "a malformed content-disposition"),
    (b'Content-Disposition: form-data; x="a\\"; name=\\"model"; name=y', "a malformed content-disposition"),
    (b'Content-Disposition: form-data; x="a\\\\"; name=model', "a malformed content-disposition"),
    (b"Content-Disposition: form-data; name =model", "a malformed content-disposition"),
    (b'Content-Disposition: form-data; name="model', "a malformed content-disposition"),
    (b'Content-Disposition: form-data; name="model"x', "a malformed content-disposition"),
    (b"Content-Disposition: form-data, form-data; name=model", "a malformed content-disposition"),
    (b"Content-Disposition: form-data; name=model,form-data", "a malformed content-disposition"),
    (b"Content-Disposition: form-data name=model", "a malformed content-disposition"),
    (b"Content-Disposition: form-data; name=<model>", "a malformed content-disposition"),
    (b'Content-Disposition: form-data;\r\n name="model"', "a part with a malformed header"),
    (b'Content-Disposition : form-data; name="model"', "a part with a malformed header"),
    (b' Content-Disposition: form-data; name="model"', "a part with a malformed header"),
    (MODEL + b"\r\nno header", "a part with a malformed header"),
    (MODEL + b"\r\nx: a\x00b", "a part with a malformed header"),
    (MODEL + b"\r\nx: a\rb", "a part with a malformed header"),
    (MODEL + b"\r\nx: a\x7fb", "a part with a malformed header"),
    (b'Content-Disposition: form-data; name="mo\ndel"', "a part with a malformed header"),
    (MODEL + b'; filename="a"', "a file as `model`"),
    (MODEL + b"; filename*=utf-8''a", "a file as `model`"),
    (MODEL + b"; filename*0=a", "a file as `model`"),
    (MODEL + b"\r\nContent-Transfer-Encoding: base64", "a `model` with a content-transfer-encoding"),
    (
        MODEL + b"\r\nContent-Transfer-Encoding: quoted-printable",
        "a `model` with a content-transfer-encoding",
    ),
    (MODEL + b"\r\nContent-Type: application/json", PLAIN),
    (MODEL + b"\r\nContent-Type: text/plain; charset=utf-16", PLAIN),
    (MODEL + b"\r\nContent-Type: text/plain; charset=utf-7", PLAIN),
    (MODEL + b"\r\nContent-Type: text/plain; charset=cp037", PLAIN),
    (MODEL + b"\r\nContent-Type: text/plain; charset=", "a malformed content-type"),
    (MODEL + b'\r\nContent-Type: text/plain; charset=""', PLAIN),
    (MODEL + b"\r\nContent-Type: text/plain; charset=utf-8; charset*=utf-7", EXTENDED),
    (MODEL + b"\r\nContent-Type: text/plain; charset*0=utf; charset*1=-7", EXTENDED),
    (MODEL + b"\r\nContent-Type: ", "a malformed content-type"),
]


@pytest.mark.parametrize(("headers", "fault"), HEADER_FAULTS)
def test_headers_that_parsers_read_differently_are_refused(headers, fault):
    assert outcome(model_part(headers)) == f"{fault} at byte 107"


def test_a_name_in_bytes_that_are_no_utf_8_is_refused():
    assert names(model_part(MODEL, b"\xe9")) == "a `model` that is not UTF-8 at byte 155"


UTF_8 = ["utf-8", "UTF-8", "utf8", '"utf8"']
SUPERSETS_OF_ASCII = [
    *["us-ascii", "ascii", "ISO-8859-1", "iso8859-1", "latin1", "latin-1", '"Windows-1252"', "cp1252"]
]
ACCENTED = "modèle".encode()


@pytest.mark.parametrize("charset", UTF_8)
def test_all_of_a_name_is_read_in_a_charset_that_is_utf_8(charset):
    part = MODEL + b"\r\nContent-Type: text/plain; charset=" + charset.encode()
    assert form_type("multipart/form-data; boundary=b; charset=" + charset) == FormType(b"b")
    assert names(form((part, ACCENTED))) == ["modèle"]


@pytest.mark.parametrize("charset", SUPERSETS_OF_ASCII)
def test_ascii_is_read_in_a_charset_that_contains_it_and_what_differs_is_refused(charset):
    """Some parsers obey the charset of a part, some that of the form, some none."""
    part = MODEL + b"\r\nContent-Type: text/plain; charset=" + charset.encode()
    assert names(form((part, b"qwq"))) == ["qwq"]
    fault = f"a `model` that is not ASCII at byte {len(part) + 9}"
    assert names(form((part, ACCENTED))) == fault

    form_of_it = form_type("multipart/form-data; boundary=b; charset=" + charset)
    assert form_of_it == FormType(b"b", "ASCII")
    for headers in (MODEL, MODEL + b"\r\nContent-Type: text/plain; charset=utf-8"):
        assert scan(form((headers, b"qwq")), form=form_of_it).names == ("qwq",)
        fault = f"a `model` that is not ASCII at byte {len(headers) + 9}"
        assert outcome(form((headers, ACCENTED)), form=form_of_it) == fault


# -- content-type -------------------------------------------------------------------------------------------

BOUNDARIES = [
    ("multipart/form-data; boundary=b", b"b"),
    ('Multipart/Form-Data;Boundary="b"', b"b"),
    ("multipart/form-data ; boundary=----WebKitFormBoundaryA1 ;", b"----WebKitFormBoundaryA1"),
    ("multipart/form-data; charset=UTF-8; boundary=a/b:c=d?e", b"a/b:c=d?e"),
    ("multipart/form-data; boundary=b; charset=utf8", b"b"),
    ('multipart/form-data; boundary="a, b"; x=y', b"a, b"),
    ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
]


@pytest.mark.parametrize(("content_type", "boundary"), BOUNDARIES)
def test_the_boundary_is_read(content_type, boundary):
    assert form_type(content_type) == FormType(boundary)


CHARSET = "a charset other than UTF-8, ASCII, ISO-8859-1 and windows-1252"
CONTENT_TYPE_FAULTS = [
    ("", "its content-type is another"),
    ("application/json", "its content-type is another"),
    ("multipart/mixed; boundary=b", "its content-type is another"),
    ("multipart/form-data, multipart/form-data; boundary=b", "its content-type is another"),
    ("multipart/form-data", "its content-type has no boundary"),
    ("multipart/form-data; boundary=", "a malformed content-type"),
    ('multipart/form-data; boundary=""', "its content-type has no boundary"),
    ("multipart/form-data; x-boundary=b", "its content-type has no boundary"),
    ("multipart/form-data; boundary*=utf-8''b", EXTENDED),
    ("multipart/form-data; boundary=b; boundary*=utf-8''c", EXTENDED),
    ("multipart/form-data; boundary*0=c; boundary=b", EXTENDED),
    ("multipart/form-data; boundary=b; charset*=utf-8''utf-7", EXTENDED),
    ("multipart/form-data; charset*0=utf; charset*1=-7; boundary=b", EXTENDED),
    ("multipart/form-data; boundary=b; charset=utf-8; CHARSET*0*=utf-7", EXTENDED),
    ("multipart/form-data; boundary=a; boundary=b", "a content-type with two parameters of one name"),
    ("multipart/form-data; boundary=a; BOUNDARY=a", "a content-type with two parameters of one name"),
    ("multipart/form-data; boundary=a, multipart/form-data; boundary=b", "a malformed content-type"),
    ("multipart/form-data; boundary=a,multipart/form-data", "a malformed content-type"),
    ('multipart/form-data; boundary="a', "a malformed content-type"),
    ('multipart/form-data; boundary="a\\b"', "a boundary with characters that none may have"),
    ('multipart/form-data; boundary="a "', "a boundary with characters that none may have"),
    ("multipart/form-data; boundary=a{b", "a boundary with characters that none may have"),
    ("multipart/form-data; boundary=é", "a boundary with characters that none may have"),
    ("multipart/form-data; boundary=" + "x" * 71, "a boundary of more than 70 characters"),
    ("multipart/form-data; boundary=<b>", "a malformed content-type"),
    ("multipart/form-data; boundary=b; charset=utf-16", CHARSET),
    ("multipart/form-data; boundary=b; charset=utf-7", CHARSET),
    ("multipart/form-data; boundary=b; charset=utf_8", CHARSET),
    ('multipart/form-data; boundary=b; charset=""', CHARSET),
    ("multipart/form-data; boundary = b", "a malformed content-type"),
    ("multipart/form-data boundary=b", "its content-type is another"),
]


@pytest.mark.parametrize(("content_type", "fault"), CONTENT_TYPE_FAULTS)
def test_a_content_type_whose_boundary_parsers_read_differently_is_refused(content_type, fault):
    with pytest.raises(InvalidForm) as error:
        form_type(content_type)
    assert str(error.value) == fault


# -- any body, any split ------------------------------------------------------------------------------------

FIELD_NAMES = st.sampled_from(["file", "language", "prompt", "Model", "timestamp_granularities[]"])
PIECES = st.sampled_from([b"\r", b"\n", b"-", b"--", b"b", b"\r\n--", b"\r\n--c\r\n", b"x", b"\x00", b"\xff"])
CONTENT = st.lists(PIECES, max_size=8).map(b"".join)
MODELS = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), max_size=9).filter(
    lambda name: not name.startswith("--b")
)


@st.composite
def forms(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, bytes]]]:
    """A body with one model, and its fields; none of the data has the boundary at the start of a line."""
    parts, fields = [], []
    data = CONTENT.filter(lambda made: b"\n--b" not in b"\n" + made)
    for _ in range(draw(st.integers(0, 3))):
        name, value = draw(FIELD_NAMES), draw(data)
        filename = draw(st.sampled_from([b"", b'; filename="x"', b'; filename="--b"']))
        parts.append((b'Content-Disposition: form-data; name="' + name.encode() + b'"' + filename, value))
        fields.append((name, value))
    headers = draw(st.sampled_from(list(CLIENTS.values())))
    model = b"qwq" if b"ISO" in headers else draw(MODELS).encode()
    at = draw(st.integers(0, len(parts)))
    parts.insert(at, (headers, model))
    fields.insert(at, ("model", model))
    return form(*parts), fields


def split(body: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)))))
    return [body[start:end] for start, end in pairwise([0, *cuts, len(body)])]


def options_as_they_were_read(header: bytes | str) -> tuple[bytes, dict[bytes, bytes]]:
    """As python-multipart up to 0.0.20 does: with Python's mail parser, which obeys RFC 2231."""
    message = email.message.Message()
    message["content-type"] = header.decode("latin-1") if isinstance(header, bytes) else header
    (kind, _), *options = message.get_params(failobj=[("", "")])
    return kind.encode("latin-1"), {
        name.encode("latin-1"): (value[-1] if isinstance(value, tuple) else value).encode("latin-1")
        for name, value in options
    }


OPTIONS_READERS = [parse_options_header, options_as_they_were_read]
"""Of a header: today's, and that of model servers which are a year old."""


def read_by_starlettes_parser(body: bytes, options=parse_options_header) -> list[tuple[str, bytes]]:
    """(name, data) of each part as vLLM and SGLang read it, headers by *options*."""
    fields: list[tuple[str, bytes]] = []
    header: list[bytes] = [b"", b""]
    name, value = "", bytearray()

    def header_end() -> None:
        nonlocal name
        if header[0].lower() == b"content-disposition":
            name = options(header[1])[1][b"name"].decode("latin-1")
        header[:] = [b"", b""]

    def part_end() -> None:
        fields.append((name, bytes(value)))
        value.clear()

    def keep(index: int):
        def callback(data: bytes, start: int, end: int) -> None:
            header[index] += data[start:end]

        return callback

    parser = MultipartParser(
        b"b",
        {
            "on_header_field": keep(0),
            "on_header_value": keep(1),
            "on_header_end": header_end,
            "on_part_data": lambda data, start, end: value.extend(data[start:end]),
            "on_part_end": part_end,
        },
    )
    parser.write(body)
    parser.finalize()
    return fields


def read_by_the_mail_parser(body: bytes) -> list[tuple[str, bytes]]:
    head = b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    message = email.message_from_bytes(head + body, policy=email.policy.compat32)
    parts = message.get_payload()
    assert isinstance(parts, list)
    return [
        (part.get_param("name", header="content-disposition"), part.get_payload(decode=True))
        for part in parts
    ]


@given(forms(), st.data())
def test_other_parsers_read_the_same_form_and_only_its_model_changes(made, data):
    body, fields = made
    assert [read_by_starlettes_parser(body, options) for options in OPTIONS_READERS] == [fields, fields]
    found = scan(*split(body, data))
    assert values(body, found) == [value for name, value in fields if name == "model"]
    assert [name.encode() for name in found.names if name is not None] == values(body, found)

    if found.spans[0][0] == found.spans[0][1]:
        return  # no name, which is refused
    spliced = b"".join(splice(split(body, data), found.spans, b"another"))
    renamed = [(name, b"another" if name == "model" else value) for name, value in fields]
    assert read_by_starlettes_parser(spliced) == renamed


@given(MODELS.filter(bool))
def test_the_mail_parser_agrees(model):
    fields = [("file", b"RIFF"), ("model", model.encode()), ("prompt", b"x")]
    body = form(
        *((b'Content-Disposition: form-data; name="' + name.encode() + b'"', value) for name, value in fields)
    )
    assert read_by_the_mail_parser(body) == fields
    assert scan(body).model == model


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body, _ = draw(forms())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        piece = draw(
            PIECES
            | st.sampled_from([b'"', b";", b":", b"\\", b" ", b"name=model", b"*", b"\r\n\r\n"])
            | st.sampled_from([b"; name=<model>", b"; name*=utf-8''model", b"; name*0=model", b"<", b">"])
        )
        body = body[:at] + piece + body[at + draw(st.integers(0, 3)) :]
    return body


@given(mutated() | st.lists(PIECES, max_size=20).map(b"".join) | st.binary(max_size=50), st.data())
def test_any_split_gives_the_same_result(body, data):
    assert outcome(*split(body, data)) == outcome(body)


@pytest.mark.parametrize("options", OPTIONS_READERS)
@given(body=mutated())
def test_no_model_server_reads_another_model_than_we_do(options, body):
    found = outcome(body)
    if isinstance(found, str):
        return
    try:
        theirs = [value for name, value in read_by_starlettes_parser(body, options) if name == "model"]
    except (MultipartParseError, KeyError):
        return  # refused there
    assert theirs == values(body, found)


def header_values(first: str, names: list[str], of_values: list[str]) -> st.SearchStrategy[str]:
    """*first* and more parameters, few of them malformed or given twice."""
    separators = st.sampled_from(["; "] * 9 + [";", " ; ", ";;", " ", ""])
    values = st.sampled_from(of_values * 2 + ["x", '""', '"; ', '"\\"', '"', "'x'"])
    parameter = st.tuples(separators, st.sampled_from(names), st.just("="), values)
    several = st.lists(parameter, max_size=3, unique_by=lambda made: made[1]) | st.lists(
        parameter, max_size=4
    )
    return several.map(lambda made: first + "".join(map("".join, made)))


CONTENT_TYPES = header_values(
    "multipart/form-data; boundary=b",
    ["boundary", "charset", "CHARSET", "x", "boundary*", "charset*", "charset*0", "x*1*"],
    ["b", "<c>", "c", "utf8", '"utf-8"', "utf-7", '"utf-7"', "utf-8''utf-7", "us-ascii", "latin1", "<utf-7>"],
)
DISPOSITIONS = header_values(
    "form-data",
    ["name", "NAME", "filename", "x", "name*", "name*0", "name*1*"],
    ["model", '"model"', "<model>", '"<model>"', "file", "utf-8''model", "mod", "el"],
)


@pytest.mark.parametrize("options", OPTIONS_READERS)
@given(disposition=DISPOSITIONS)
def test_no_model_server_takes_another_field_for_the_model_than_we_do(options, disposition):
    try:
        ours = part_headers(f"content-disposition: {disposition}".encode())
    except InvalidForm:
        return
    _, theirs = options(disposition)
    assert (theirs[b"name"] == b"model") == (ours.name == "model")


@pytest.mark.parametrize("options", OPTIONS_READERS)
@given(content_type=CONTENT_TYPES)
def test_no_model_server_reads_another_boundary_or_charset_than_we_do(options, content_type):
    try:
        ours = form_type(content_type)
    except InvalidForm:
        return
    _, theirs = options(content_type)
    assert theirs[b"boundary"] == ours.boundary
    codec = codecs.lookup(theirs.get(b"charset", b"utf-8").decode())
    for sample in [b"qwq", ACCENTED] if ours.codec == "UTF-8" else [b"qwq"]:
        assert codec.decode(sample)[0] == sample.decode()


# -- the reader ---------------------------------------------------------------------------------------------


def read(chunks: list[bytes]) -> tuple[ModelFound, int]:
    """What is found, and how often the reader gave way."""
    reader = FormReader(B_FORM)
    turns = sum(1 for chunk in chunks for _ in reader.feed(chunk))
    assert all(kept is given for kept, given in zip(reader.chunks, chunks, strict=True))
    assert reader.size == sum(map(len, chunks))
    finishing = reader.finish()
    with pytest.raises(StopIteration) as end:
        next(finishing)
    return end.value.value, turns


@pytest.mark.parametrize("chunk", [1000, 65536, 10**8])
def test_a_big_form_gives_way_by_its_size_and_a_small_one_never(chunk):
    body = form((AUDIO, b"\r\n--" * 1_000_000), (MODEL, b"qwq"))
    found, turns = read([body[at : at + chunk] for at in range(0, len(body), chunk)])
    assert values(body, found) == [b"qwq"]
    steps = len(body) // min(chunk, SLICE_BYTES) + 9
    work = len(body) + STEP_COST_BYTES * steps
    assert len(body) // (WORK_BYTES + SLICE_BYTES) <= turns <= work // WORK_BYTES
    assert read([A_MODEL])[1] == 0


def test_many_parts_give_way_more_often():
    body = form(*[(b"Content-Disposition: form-data; name=x", b"")] * MAX_PARTS)
    assert read([body])[1] > 0
    assert len(body) < WORK_BYTES // 8


@pytest.mark.parametrize(
    "body",
    [
        form((AUDIO, bytes(4_000_000))),
        form((AUDIO, b"\n--" * 1_000_000)),
        form((MODEL, b"x" * 4_000_000)),
        form((AUDIO, b"\r\n--" + b"b" * 60 + b"c" * 4_000_000), boundary=b"b" * 61),
    ],
    ids=["zeros", "near boundaries", "a long model", "a nearer boundary"],
)
def test_little_is_held_of_what_has_been_read(body):
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    scanner = FormScanner(FormType(b"b" * 61 if body.startswith(b"--bb") else b"b"))
    tracemalloc.start()
    try:
        steps = sum(map(scanner.feed, pieces))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    scanner.finish()
    assert held < 8192
    assert peak < 4 * 65536
    assert steps < 4 * len(pieces)
