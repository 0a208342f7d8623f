"""What a request's headers and body say before anything is decided: what to read, what to refuse at once."""

from __future__ import annotations

import enum
from urllib.parse import unquote

import msgspec

from .config.schema import Config, Limits
from .errors import Reason, Rejected
from .jsonscan import ModelFound
from .model_name import is_usable
from .protocol.messages import BodyMode, Headers
from .request import Api, api_of, bare_path
from .router import Router, unknown_model, unusable_model


class Reading(enum.Enum):
    """What the body is to us."""

    MODEL = enum.auto()
    """JSON that may name a model."""
    MODEL_REQUIRED = enum.auto()
    """JSON that must name a model."""
    OPAQUE = enum.auto()
    """Not ours to read."""


def reading(headers: Headers, mode: BodyMode, limits: Limits) -> Reading:
    """How to read the body that follows *headers*; raises Rejected for what needs no body to be refused."""
    if mode is BodyMode.STREAMED or mode is BodyMode.GRPC:
        raise Rejected(
            Reason.UNSUPPORTED_BODY_MODE,
            f"Envoy sends {mode.name} request bodies, with which the endpoint is picked before the body is read; "
            "configure BUFFERED or FULL_DUPLEX_STREAMED.",
        )
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 19 or int(length) > limits.max_body_bytes):
        raise too_large(limits)
    kind = _kind(headers)
    encoding = headers.get("content-encoding", "").strip().lower()
    if kind is not Reading.OPAQUE and encoding not in ("", "identity"):
        raise Rejected(
            Reason.UNSUPPORTED_ENCODING, "The body's content-encoding cannot be read; send it plain."
        )
    return kind


def _kind(headers: Headers) -> Reading:
    api = api_of(headers.get(":method", ""), headers.get(":path", ""))
    if api is Api.MODEL_REQUIRED:
        return Reading.MODEL_REQUIRED
    if api is Api.MODEL_OPTIONAL:
        return Reading.MODEL
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = content_type == "application/json" or content_type.endswith("+json")
    return Reading.MODEL if is_json else Reading.OPAQUE


def check_bodiless(headers: Headers) -> None:
    """Refuse a request without a body on an API that needs one."""
    if headers.get(":method") != "POST" or "upgrade" in headers:
        return
    if api_of("POST", headers.get(":path", "")) is Api.MODEL_REQUIRED:
        raise empty()


def empty() -> Rejected:
    return Rejected(Reason.INVALID_JSON, "The body is empty; a JSON object is expected.")


def too_large(limits: Limits) -> Rejected:
    return Rejected(Reason.BODY_TOO_LARGE, f"The body is larger than {limits.max_body_bytes} bytes.")


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
    return unquote(bare_path(path).rpartition("/v1/models")[2].strip("/"))


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
