"""What can go wrong on purpose: refusals that a client sees and faults that an operator wrote.

`Rejected` is expected (a status and a reason for the client), `ConfigError` is the operator's (a path, what
is wrong, what is allowed).  A third kind, `protocol.messages.ProtocolError`, is Envoy's.  Anything else that
is raised is a bug of ours.
"""

from __future__ import annotations

import enum

import msgspec


class Reason(enum.Enum):
    """Why a request was refused: the closed set of CONTRACT section 5.

    The value is (code, HTTP status, OpenAI error type).
    """

    INVALID_JSON = ("invalid_json", 400, "invalid_request_error")
    MISSING_MODEL = ("missing_model", 400, "invalid_request_error")
    MODEL_NOT_FOUND = ("model_not_found", 404, "invalid_request_error")
    BODY_TOO_LARGE = ("body_too_large", 413, "invalid_request_error")
    UNSUPPORTED_ENCODING = ("unsupported_encoding", 415, "invalid_request_error")
    SATURATED = ("saturated", 429, "rate_limit_error")
    UNSUPPORTED_BODY_MODE = ("unsupported_body_mode", 500, "server_error")
    INTERNAL_ERROR = ("internal_error", 500, "server_error")
    OVERLOADED = ("overloaded", 503, "service_unavailable_error")
    SHUTTING_DOWN = ("shutting_down", 503, "service_unavailable_error")
    QUEUE_TIMEOUT = ("queue_timeout", 503, "service_unavailable_error")
    NO_ENDPOINTS = ("no_endpoints", 503, "service_unavailable_error")

    @property
    def code(self) -> str:
        return self.value[0]

    @property
    def status(self) -> int:
        return self.value[1]

    @property
    def error_type(self) -> str:
        return self.value[2]


class Rejected(Exception):
    """The request is refused with an ImmediateResponse.

    `message` is read by the client: it never quotes the body, at most the model's name.
    `param` is the request field at fault, as OpenAI names it.  `retry_after_s` becomes the `retry-after` header.
    """

    def __init__(
        self, reason: Reason, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The JSON error as OpenAI clients expect it."""
        return msgspec.json.encode(
            {
                "error": {
                    "message": self.message,
                    "type": self.reason.error_type,
                    "param": self.param,
                    "code": self.reason.code,
                }
            }
        )

    def headers(self) -> tuple[tuple[str, str], ...]:
        headers: tuple[tuple[str, str], ...] = (
            ("content-type", "application/json"),
            ("x-extproc-reason", self.reason.code),
        )
        if self.retry_after_s is not None:
            headers += (("retry-after", str(self.retry_after_s)),)
        return headers


class InvalidBody(ValueError):
    """A body is not what its path or its headers say.  The message says what is wrong, and quotes nothing of it."""

    expected: str
    """What it should be."""


class Fault(msgspec.Struct, frozen=True):
    """One mistake in a config file."""

    path: str
    """Where, e.g. `$.models[0].targets[1].weight`."""
    text: str
    """What is wrong, and what is allowed."""

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


class ConfigError(Exception):
    """The configuration is faulty; nothing of it may be used."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults
