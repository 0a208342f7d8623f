"""The headers of multipart/form-data (RFC 7578, RFC 2046 §5.1, RFC 9110 §5.6.6), for `formscan`.

Parsers differ in what they make of odd headers, and one that reads another field as `model` than we do would let a
client choose a model that we did not.  So nothing is guessed: what two of them could read differently is refused.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from .errors import InvalidBody

BOUNDARY_MAX_BYTES: Final = 70
"""RFC 2046 §5.1.1."""

_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]*[0-9A-Za-z'()+_,\-./:=?]")
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TYPE: Final = re.compile(rf"{_TOKEN}(?:/{_TOKEN})?")
# Unquoted, clients write more than a token: boundaries with `=` or `/`, names with `[]`.  A comma is not among it: it
# joins the values of a header that came twice.
_PARAMETER: Final = re.compile(rf'[ \t]*;[ \t]*({_TOKEN})=(?:"((?:[^"\\]|\\.)*)"|([^\s";,\\]+))')
_NO_PARAMETER: Final = re.compile(r"[ \t]*(?:;[ \t]*)?")
_HEADER: Final = re.compile(rf"({_TOKEN}):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_UTF_8: Final = ("", "utf-8", "us-ascii", "ascii")
_ASCII_SUPERSETS: Final = ("iso-8859-1", "windows-1252")
"""Java's clients name one of them by default; names of models are ASCII, which reads the same in them."""


class InvalidForm(InvalidBody):
    """The body is not multipart/form-data, or parsers would differ over it."""

    expected = "multipart/form-data"


class PartHeaders(Struct, frozen=True):
    """What the headers of a part say."""

    name: str
    """Of the field; bytes that are not ASCII as Latin-1."""
    has_filename: bool
    content_type: str
    """As it stands there; text/plain where absent (RFC 7578 §4.4)."""
    transfer_encoding: str
    """In lower case; binary where absent."""


def is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type says; raises InvalidForm."""
    if not is_form(content_type):
        raise InvalidForm("its content-type is another")
    _, parameters = _value_of(content_type, "content-type")
    if parameters.get("charset", "").lower() not in _UTF_8:
        raise InvalidForm("a charset other than UTF-8")  # Starlette decodes the fields' names by it
    boundary = parameters.get("boundary")
    if not boundary:
        raise InvalidForm("its content-type has no boundary")
    if len(boundary) > BOUNDARY_MAX_BYTES:
        raise InvalidForm(f"a boundary of more than {BOUNDARY_MAX_BYTES} characters")
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidForm("a boundary with characters that none may have")
    return boundary.encode()


def part_headers(block: bytes) -> PartHeaders:
    """Of the lines between a delimiter and the empty line; raises InvalidForm."""
    headers: dict[str, str] = {}
    for line in block.decode("latin-1").split("\r\n"):
        match = _HEADER.fullmatch(line)
        if match is None:
            raise InvalidForm("a part with a malformed header")
        name = match[1].lower()
        if name in headers and name.startswith("content-"):
            raise InvalidForm(f"a part with two {name} headers")
        headers[name] = match[2].rstrip(" \t")
    return _described(headers)


def _described(headers: dict[str, str]) -> PartHeaders:
    disposition, parameters = _value_of(headers.get("content-disposition", ""), "content-disposition")
    if disposition != "form-data":
        raise InvalidForm("a part whose content-disposition is not form-data")
    if "name" not in parameters or "\\" in parameters["name"]:
        raise InvalidForm("a part without a plain name")
    if any(name.startswith("name*") for name in parameters):
        raise InvalidForm("a part with an extended name")
    return PartHeaders(
        name=parameters["name"],
        has_filename=any(name.startswith("filename") for name in parameters),
        content_type=headers.get("content-type", "text/plain"),
        transfer_encoding=headers.get("content-transfer-encoding", "binary").lower(),
    )


def charset_of_model(headers: PartHeaders) -> str:
    """That of a field `model`, in lower case; raises InvalidForm where it is not plain text to every parser."""
    if headers.has_filename:
        raise InvalidForm("a file as `model`")
    if headers.transfer_encoding not in ("7bit", "8bit", "binary"):  # some undo it, others do not
        raise InvalidForm("a `model` with a content-transfer-encoding")
    content_type, parameters = _value_of(headers.content_type, "content-type")
    charset = parameters.get("charset", "").lower()
    if content_type != "text/plain" or charset not in (*_UTF_8, *_ASCII_SUPERSETS):
        raise InvalidForm("a `model` that is not plain text")
    return charset


def model_name(value: bytes, charset: str) -> str:
    """The text of a field `model`; raises InvalidForm where it depends on who reads it."""
    if charset in _UTF_8 or value.isascii():
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    raise InvalidForm("a `model` that is not UTF-8")


def _value_of(text: str, header: str) -> tuple[str, dict[str, str]]:
    """A header's value in lower case, and its parameters by their names in lower case; raises InvalidForm."""
    text = text.strip(" \t")
    match = _TYPE.match(text)
    at = match.end() if match else 0
    parameters: dict[str, str] = {}
    while parameter := _PARAMETER.match(text, at):
        name, value = parameter[1].lower(), parameter[3] or parameter[2] or ""
        if name in parameters:
            raise InvalidForm(f"a {header} with two parameters of one name")
        if _is_ambiguous(value):
            raise InvalidForm(f"a malformed {header}")
        parameters[name] = value
        at = parameter.end()
    if match is None or not _NO_PARAMETER.fullmatch(text, at):
        raise InvalidForm(f"a malformed {header}")
    return match[0].lower(), parameters


def _is_ambiguous(quoted: str) -> bool:
    r"""Whether some parsers see a quoted value end elsewhere, and another parameter begin.

    A backslash before a quote escapes it for most, for others it is the end; after two backslashes it is the other way
    round.  Clients write `\"` in names of files: that is let through where nothing could follow.
    """
    return ('\\"' in quoted and ";" in quoted) or quoted.endswith("\\")
