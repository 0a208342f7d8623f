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
# joins the values of a header that came twice; nor are angle brackets: Python's mail parser takes them for quotes.
_PARAMETER: Final = re.compile(rf'[ \t]*;[ \t]*({_TOKEN})=(?:"((?:[^"\\]|\\.)*)"|([^\s";,\\<>]+))')
_NO_PARAMETER: Final = re.compile(r"[ \t]*(?:;[ \t]*)?")
_HEADER: Final = re.compile(rf"({_TOKEN}):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_SUPERSETS_OF_ASCII: Final = (
    *("us-ascii", "ascii"),
    *("iso-8859-1", "iso8859-1", "latin-1", "latin1"),
    *("windows-1252", "cp1252"),
)
"""Java's clients name one of them by default."""
_CODECS: Final = dict.fromkeys(("utf-8", "utf8"), "UTF-8") | dict.fromkeys(_SUPERSETS_OF_ASCII, "ASCII")
"""What of a charset all parsers read the same: those that do not look at it take UTF-8."""


class InvalidForm(InvalidBody):
    """The body is not multipart/form-data, or parsers would differ over it."""

    expected = "multipart/form-data"


class FormType(Struct, frozen=True):
    """What the content-type of a form says."""

    boundary: bytes
    codec: str = "UTF-8"
    """In which a model is read the same by all parsers: UTF-8 or ASCII."""


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


def form_type(content_type: str) -> FormType:
    """What a Content-Type says of the form that follows; raises InvalidForm."""
    if not is_form(content_type):
        raise InvalidForm("its content-type is another")
    _, parameters = _content_type(content_type)
    codec = _codec(parameters)
    if codec is None:  # Starlette decodes the fields, and their names, by it
        raise InvalidForm("a charset other than UTF-8, ASCII, ISO-8859-1 and windows-1252")
    boundary = parameters.get("boundary")
    if not boundary:
        raise InvalidForm("its content-type has no boundary")
    if len(boundary) > BOUNDARY_MAX_BYTES:
        raise InvalidForm(f"a boundary of more than {BOUNDARY_MAX_BYTES} characters")
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidForm("a boundary with characters that none may have")
    return FormType(boundary.encode(), codec)


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


def codec_of_model(headers: PartHeaders, of_form: str) -> str:
    """In which a field `model` is read the same by all parsers: UTF-8 or ASCII; *of_form* is that of its form.

    Raises InvalidForm where it is not plain text to every parser.
    """
    if headers.has_filename:
        raise InvalidForm("a file as `model`")
    if headers.transfer_encoding not in ("7bit", "8bit", "binary"):  # some undo it, others do not
        raise InvalidForm("a `model` with a content-transfer-encoding")
    content_type, parameters = _content_type(headers.content_type)
    codec = _codec(parameters)
    if content_type != "text/plain" or codec is None:
        raise InvalidForm("a `model` that is not plain text")
    return codec if of_form == "UTF-8" else of_form


def model_name(value: bytes, codec: str) -> str:
    """The text of a field `model`; raises InvalidForm where it depends on who reads it."""
    try:
        return value.decode(codec)
    except UnicodeDecodeError:
        raise InvalidForm(f"a `model` that is not {codec}") from None


def _codec(parameters: dict[str, str]) -> str | None:
    """In which text is read the same by all parsers, whether they obey the charset or not; None: in none."""
    return _CODECS.get(parameters.get("charset", "utf-8").lower())


def _content_type(text: str) -> tuple[str, dict[str, str]]:
    """As `_value_of`; raises InvalidForm also for `charset*=` and the like (RFC 2231), which some obey."""
    content_type, parameters = _value_of(text, "content-type")
    if any("*" in name for name in parameters):
        raise InvalidForm("a content-type with an extended parameter (`name*=`)")
    return content_type, parameters


def _value_of(text: str, header: str) -> tuple[str, dict[str, str]]:
    """A header's value in lower case, and its parameters by their names in lower case; raises InvalidForm."""
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
