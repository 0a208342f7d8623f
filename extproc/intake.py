"""What a request's headers and body say before anything is decided: what to read, what to refuse at once."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

import msgspec

from .body import BodyReader, Reader, splice
from .config.schema import Config, Limits
from .content_coding import CODINGS, DecodingReader, coding_of
from .errors import InvalidBody, Reason, Rejected
from .form import FormReader
from .formgrammar import form_type
from .jsonscan import ModelFound
from .model_name import is_usable
from .protocol.messages import BodyMode, Headers, Piece
from .request import Api, api_of, plain_path
from .router import Router, unknown_model, unusable_model


class Reading(enum.Enum):
    """What the body is to us."""

    MODEL = enum.auto()
    """JSON that may name a model."""
    MODEL_REQUIRED = enum.auto()
    """JSON that must name a model."""
    FORM = enum.auto()
    """A form (multipart/form-data) that may name a model."""
    OPAQUE = enum.auto()
    """Not ours to read."""


def reading(headers: Headers, mode: BodyMode, limits: Limits) -> Reading:
    """How to read the body that follows *headers*; raises Rejected for what needs no body to be refused."""
    if mode is BodyMode.STREAMED or mode is BodyMode.GRPC:
        raise _unsupported(f"Envoy sends {mode.name} request bodies and can't be told otherwise")
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 19 or int(length) > limits.max_body_bytes):
        raise too_large(limits)
    kind = _kind(headers)
    if kind is not Reading.OPAQUE and coding_of(headers.get("content-encoding", "")) is None:
        raise Rejected(
            Reason.UNSUPPORTED_ENCODING,
            f"The body's content-encoding cannot be read; send it plain, or in one of {', '.join(CODINGS)}.",
        )
    return kind


def reader(kind: Reading, headers: Headers, hold: Callable[[int, int], None]) -> Reader | None:
    """What reads the body that follows *headers*; raises InvalidBody.

    *hold* is told what is held of it decoded, as `DecodingReader` says.
    """
    if kind is Reading.OPAQUE:
        return None
    plain: Reader = BodyReader()
    if kind is Reading.FORM:
        plain = FormReader(form_type(headers.get("content-type", "")))
    coding = coding_of(headers.get("content-encoding", ""))
    return DecodingReader(coding, plain, hold) if coding else plain


def is_encoded(headers: Headers) -> bool:
    """Whether the body that is read has a coding to be undone."""
    return "content-encoding" in headers and bool(coding_of(headers["content-encoding"]))


def _kind(headers: Headers) -> Reading:
    api = api_of(headers.get(":method", ""), headers.get(":path", ""))
    if api is Api.MODEL_REQUIRED:
        return Reading.MODEL_REQUIRED
    if api is Api.MODEL_OPTIONAL:
        return Reading.MODEL
    if api is Api.FORM:
        return Reading.FORM
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = content_type == "application/json" or content_type.endswith("+json")
    return Reading.MODEL if is_json else Reading.OPAQUE


def rewritten(
    reader: Reader,
    body: Sequence[Piece],
    found: ModelFound,
    target_model: str | None,
    headers: Headers,
    encoded_bodies: str,
) -> list[Piece] | None:
    """*body* decoded, and every `model` that was *found* replaced; None: it goes on as it came.

    What is changed stays plain: model servers do not decode what they are sent.
    """
    decoded = is_encoded(headers)
    if target_model is None or all(name == target_model for name in found.names):
        return reader.chunks if decoded and encoded_bodies == "decode" else None
    return splice(reader.chunks if decoded else body, found.spans, reader.encode(target_model))


def check_bodiless(headers: Headers) -> None:
    """Refuse a request without a body on an API that needs one."""
    if headers.get(":method") != "POST" or "upgrade" in headers:
        return
    api = api_of("POST", headers.get(":path", ""))
    if api is Api.MODEL_REQUIRED:
        raise empty()
    if api is Api.FORM:
        raise empty("multipart/form-data")


def empty(expected: str = "a JSON object") -> Rejected:
    return Rejected(Reason.INVALID_JSON, f"The body is empty; {expected} is expected.")


def _unsupported(why: str) -> Rejected:
    return Rejected(
        Reason.UNSUPPORTED_BODY_MODE,
        f"{why}, so that the endpoint is picked before the body is read; "
        "configure BUFFERED or FULL_DUPLEX_STREAMED.",
    )


def unsupported_override() -> Rejected:
    """The request goes on although we asked for its body first."""
    return _unsupported(
        "Envoy sends STREAMED request bodies and honours no mode override (allow_mode_override)"
    )


def went_on(status: int) -> bool:
    """Whether an answer before the body says so: while Envoy holds a request it answers 408, 413 or 5xx itself."""
    return status not in (408, 413) and status < 500


def cut_off() -> Rejected:
    return Rejected(
        Reason.BODY_TOO_LARGE, "The body is larger than what the gateway buffers, or trailers follow it."
    )


def announced_bytes(headers: Headers) -> int:
    """Of a body that we do not see; 0 where it does not tell."""
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) <= 19 else 0


def named_model(header: str, headers: Headers, config: Config) -> str | None:
    """The model that *header* names, where it is trusted; raises Rejected."""
    value = headers.get(header)
    if not value or header not in map(str.lower, config.trusted_headers):
        return None
    try:
        name = value.encode("latin-1").decode()
    except UnicodeError:
        raise unusable_model() from None
    if not is_usable(name):
        raise unusable_model()
    return name


def too_large(limits: Limits) -> Rejected:
    return Rejected(Reason.BODY_TOO_LARGE, f"The body is larger than {limits.max_body_bytes} bytes.")


class _BodyFaults:
    """Turns what readers raise into a refusal."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InvalidBody):
            raise Rejected(Reason.INVALID_JSON, f"The body is not {error.expected}: {error}.") from None


body_faults = _BodyFaults()


def model(kind: Reading, found: ModelFound) -> str | None:
    """The model that a body names; None where it need not name one.  Raises Rejected."""
    if found.unusable:
        raise unusable_model()
    if found.model is not None or kind is not Reading.MODEL_REQUIRED:
        return found.model
    what = "`model` is not a string" if found.has_model else "the top-level `model` is missing"
    raise Rejected(Reason.MISSING_MODEL, f"The request names no model: {what}.", param="model")


def model_list(headers: Headers, config: Config) -> str | None:
    """The name asked about by GET /v1/models/NAME, "" for the whole list; None: not ours to answer."""
    if config.list_models != "answer" or headers.get(":method") != "GET":
        return None
    path = headers.get(":path", "")
    if api_of("GET", path) is not Api.MODEL_LIST:
        return None
    return plain_path(path).rpartition("/v1/models")[2].strip("/")


def list_models(router: Router, name: str) -> bytes:
    """The answer to GET /v1/models (*name* "") or to /v1/models/NAME, as OpenAI shapes it; raises Rejected."""
    created = int(router.loaded_at)
    models = {
        model: {"id": model, "object": "model", "created": created, "owned_by": "extproc"}
        for model in router.model_names()
    }
    if not name:
        return msgspec.json.encode({"object": "list", "data": list(models.values())})
    if not is_usable(name):
        raise unusable_model()
    if name not in models:
        raise unknown_model(name)
    return msgspec.json.encode(models[name])
