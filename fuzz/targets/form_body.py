"""Forms: nobody reads another `model` than we do, however they are cut; a splice leaves every other byte."""

from __future__ import annotations

from collections.abc import Iterable

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from extproc.body import splice
from extproc.form import FormReader
from extproc.formgrammar import FormType, InvalidForm, form_type
from extproc.jsonscan import ModelFound

from ..choices import pieces
from ..steps import result_of
from ..target import Target, words

NAME = b"another"


def run(data: bytes) -> None:
    rule, content_type, body = [*data.split(b"\n", 2), b"", b""][:3]
    try:
        form = form_type(content_type.decode("latin-1"))
    except InvalidForm:
        return
    chunks = pieces(body, sum(rule) % 256)
    found = _read(chunks, form)
    assert _read([body], form) == found, "the chunking matters"
    if isinstance(found, str):
        return
    _compare(body, form.boundary, found)
    if found.spans and all(start < end for start, end in found.spans):
        changed = b"".join(splice(chunks, found.spans, NAME))
        assert len(changed) == len(body) + sum(len(NAME) - (end - start) for start, end in found.spans)
        after = _read([changed], form)
        assert isinstance(after, ModelFound)
        assert set(after.names) == {NAME.decode()}


def _read(chunks: Iterable[bytes], form: FormType) -> ModelFound | str:
    reader = FormReader(form)
    try:
        for chunk in chunks:
            for _ in reader.feed(chunk):
                pass
        return result_of(reader.finish())
    except InvalidForm as fault:
        return str(fault)


def _compare(body: bytes, boundary: bytes, found: ModelFound) -> None:
    ours = [body[start:end] for start, end in found.spans]
    assert [None if name is None else name.encode() for name in found.names] == [
        value if len(value) <= 256 else None for value in ours
    ]
    try:
        fields = fields_of(body, boundary)
    except (MultipartParseError, KeyError):
        return  # a model server refuses it
    assert [value for name, value in fields if name == "model"] == ours, "a model server reads another model"


def fields_of(body: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    """(name, data) of each part as vLLM and SGLang read it, which is with Starlette's parser."""
    fields: list[tuple[str, bytes]] = []
    header = [b"", b""]
    state = {"name": ""}
    value = bytearray()

    def header_end() -> None:
        if header[0].lower() == b"content-disposition":
            state["name"] = parse_options_header(header[1])[1][b"name"].decode("latin-1")
        header[:] = [b"", b""]

    def part_end() -> None:
        fields.append((state["name"], bytes(value)))
        value.clear()

    def header_field(data: bytes, start: int, end: int) -> None:
        header[0] += data[start:end]

    def header_value(data: bytes, start: int, end: int) -> None:
        header[1] += data[start:end]

    parser = MultipartParser(
        boundary,
        {
            "on_header_field": header_field,
            "on_header_value": header_value,
            "on_header_end": header_end,
            "on_part_data": lambda data, start, end: value.extend(data[start:end]),
            "on_part_end": part_end,
        },
    )
    parser.write(body)
    parser.finalize()
    return fields


_AUDIO = b'Content-Disposition: form-data; name="file"; filename="a;b.mp3"\r\nContent-Type: audio/mpeg'
_MODEL = b'Content-Disposition: form-data; name="model"'


def _form(*parts: tuple[bytes, bytes], boundary: bytes = b"b") -> bytes:
    made = [b"--" + boundary + b"\r\n" + headers + b"\r\n\r\n" + data + b"\r\n" for headers, data in parts]
    return b"".join(made) + b"--" + boundary + b"--\r\n"


def _seeds() -> list[bytes]:
    plain = b"multipart/form-data; boundary=b"
    bodies = [
        _form((_AUDIO, b"RIFF\r\n--c\r\n\x00\xff"), (_MODEL, b"qwq")),
        _form((_MODEL + b"\r\nContent-Type: text/plain; charset=utf-8", b"qwq"), (_AUDIO, b"")),
        _form((b"CONTENT-DISPOSITION:Form-Data;NAME=model \r\ncontent-type:\ttext/plain;", b"qwq")),
        _form((_MODEL, b"a"), (_MODEL, b"a")),
        b"\r\n" + _form((_MODEL, b"x" * 300)),
        _form((_MODEL + b'; x="a\\"; name="y"', b"a")),
        _form((b'Content-Disposition: form-data; name="_charset_"', b"utf-7"), (_MODEL, b"a")),
        b"--b--\r\n",
    ]
    seeds = [b"%c\n%b\n%b" % (rule, plain, body) for rule in (0, 1, 77) for body in bodies]
    quoted = b'Multipart/Form-Data;Boundary="a, b=?";charset=utf-8'
    return [*seeds, b"\x03\n" + quoted + b"\n" + _form((_MODEL, b"m"), boundary=b"a, b=?")]


TARGET = Target(
    run,
    _seeds,
    words(
        b'--b --b-- Content-Disposition: form-data; name="model" ;name=model name*= filename="a" charset=utf-8',
        b"\r\n",
        b"\r\n\r\n",
        b"\r\n--b",
        b"\n--b",
        b"\r\n--b--\r\n",
        b'\\"',
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Type: text/plain; charset=utf-16\r\n",
        b"\x00",
        b"\xff",
        b"\t",
    ),
)
