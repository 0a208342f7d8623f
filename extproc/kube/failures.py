"""What a request to the API server can come to other than what was asked for: a small closed set."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import DecodeError, Struct
from msgspec.json import decode

from .resource import Resource

Reason = Literal[
    "gone",
    "not_found",
    "forbidden",
    "unauthorized",
    "conflict",
    "invalid",
    "unavailable",
    "malformed",
]
MAX_DETAIL = 400
"""Characters of the server's words: they end up in log lines and in /readyz."""
ANONYMOUS = 'User "system:anonymous"'
"""How the API server calls whoever shows no credentials: it lets them in, and they may do nothing."""
NOBODY = "it was shown no credentials: has the user in the kubeconfig any?"
MAX_RETRY_AFTER_S = 60.0
"""A server that asks for longer is asked again all the same: pods come and go meanwhile."""


class KubeError(Exception):
    """The API server did not do what was asked; the message says what, where and why, and holds no secret."""

    reason: ClassVar[Reason]

    def __init__(self, detail: str, retry_after_s: float = 0.0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        """How long the server wants to be left alone."""


class Gone(KubeError):
    """410: that resourceVersion is no longer known; list again."""

    reason = "gone"


class NotFound(KubeError):
    """404: no such object, or no such resource (its CRD is not installed)."""

    reason = "not_found"


class Forbidden(KubeError):
    """403: the Role lacks something, which the message names."""

    reason = "forbidden"


class Unauthorized(KubeError):
    """401: the credentials are not taken, not even when read again."""

    reason = "unauthorized"


class Conflict(KubeError):
    """409: somebody else wrote first."""

    reason = "conflict"


class Invalid(KubeError):
    """Any other 4xx: the server understands but refuses what was sent."""

    reason = "invalid"


class Unavailable(KubeError):
    """No connection, no TLS, no answer in time, 5xx or 429; or no credentials could be got."""

    reason = "unavailable"


class Malformed(KubeError):
    """What answers does not speak the Kubernetes API."""

    reason = "malformed"


class Action(Struct, frozen=True):
    """What was asked for, in the words of RBAC."""

    verb: str
    resource: Resource
    name: str = ""
    subresource: str = ""

    @property
    def plural(self) -> str:
        return f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural

    def __str__(self) -> str:
        title = f"{self.plural}.{self.resource.group}" if self.resource.group else self.plural
        return f"{self.verb} {title}{f' {self.name}' if self.name else ''} {self.resource.scope}"

    @property
    def rule(self) -> str:
        """The RBAC rule that allows it."""
        role = "ClusterRole" if self.resource.namespace is None else "Role"
        return (
            f'the {role} needs apiGroups: ["{self.resource.group}"], resources: ["{self.plural}"], '
            f'verbs: ["{self.verb}"]'
        )


class Status(Struct):
    """metav1.Status: how the API server says what went wrong."""

    kind: str = ""
    message: str | None = ""
    code: int | None = 0


def failure(action: Action, status: int, body: bytes, retry_after: str | None = None) -> KubeError:
    """The error that an answer with this HTTP status means."""
    words = _words(body)
    said = f"cannot {action}: {status}{f': {words}' if words else ''}"
    match status:
        case 401:
            return Unauthorized(said)
        case 403:
            return Forbidden(f"{said} ({NOBODY if ANONYMOUS in words else action.rule})")
        case 404:
            return NotFound(said)
        case 409:
            return Conflict(said)
        case 410:
            return Gone(said)
        case 429:
            return Unavailable(said, _seconds(retry_after))
        case _ if 400 <= status < 500:
            return Invalid(said)
        case _ if status >= 500:
            return Unavailable(said, _seconds(retry_after))
        case _:
            return Malformed(f"{said} (is this a Kubernetes API server?)")


def _words(body: bytes) -> str:
    """The message of a Status, else the body as it is; one line, printable, bounded."""
    try:
        status = decode(body, type=Status)
        text = (status.message or "") if status.kind == "Status" else body.decode(errors="replace")
    except (DecodeError, RecursionError, UnicodeDecodeError):
        text = body.decode(errors="replace")
    line = " ".join(text[: 4 * MAX_DETAIL].split())
    return "".join(char if char.isprintable() else "?" for char in line)[:MAX_DETAIL]


def _seconds(retry_after: str | None) -> float:
    """The header's seconds; Kubernetes never sends the form with a date."""
    text = (retry_after or "").strip()
    return min(float(text[:9]), MAX_RETRY_AFTER_S) if text.isascii() and text.isdecimal() else 0.0
