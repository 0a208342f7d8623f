"""The Status objects in which Kubernetes tells that a request failed, in its own words.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/ and the messages of
apimachinery's `errors` package.
"""

from __future__ import annotations

from typing import Any

from .resources import Kind


class ApiError(Exception):
    """A request that fails with a Status object."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        continue_token: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details
        self.continue_token = continue_token

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.continue_token} if self.continue_token else {},
            "status": "Failure",
            "message": str(self),
        } | ({"reason": self.reason} if self.reason else {})
        if self.details is not None:
            status["details"] = self.details
        return status | {"code": self.code}


def _of(kind: Kind, name: str) -> dict[str, Any]:
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return {field: value for field, value in details.items() if value}


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{kind.qualified} "{name}" not found', _of(kind, name))


def no_such_resource() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(kind: Kind, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{kind.qualified} "{name}" already exists', _of(kind, name))


def conflict(
    kind: Kind,
    name: str,
    why: str = "the object has been modified; please apply your changes to the latest version and try again",
) -> ApiError:
    message = f'Operation cannot be fulfilled on {kind.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, _of(kind, name))


def invalid(kind: Kind, name: str, field: str, why: str, of: str = "") -> ApiError:
    """*of*: where the storage finds the fault, and not the validation, it says the plural."""
    of = of or kind.name
    details: dict[str, Any] = {"name": name, "group": kind.group, "kind": of}
    reasons = {"Required value": "FieldValueRequired", "Unsupported value": "FieldValueNotSupported"}
    reason = reasons.get(why.partition(":")[0], "FieldValueInvalid")
    details["causes"] = [{"reason": reason, "message": why, "field": field}]
    which = f"{of}.{kind.group}" if kind.group else of
    return ApiError(422, "Invalid", f'{which} "{name}" is invalid: {field}: {why}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def unsupported(accepted: str) -> ApiError:
    """Kubernetes takes more than we play: protobuf for built-in kinds, JSON patches, strategic merge patches."""
    message = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    return ApiError(415, "UnsupportedMediaType", message)


def expired_watch(version: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {version} ({oldest})")


def expired_list() -> ApiError:
    return ApiError(410, "Expired", "The resourceVersion for the provided list is too old.")


def expired_continue(inconsistent_token: str) -> ApiError:
    return ApiError(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can start a new "
        "list without the continue parameter, or use the continue token in this response to retrieve the "
        "remainder of the results. Continuing with the provided token results in an inconsistent list - "
        "objects that were created, modified, or deleted between the time the first chunk was returned and now "
        "may show up in the list.",
        continue_token=inconsistent_token,
    )


def too_large(version: int, current: int) -> ApiError:
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return ApiError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {version}, current: {current}",
        {"causes": causes, "retryAfterSeconds": 1},
    )


def forbidden(
    user: str, verb: str, kind: str, group: str, namespace: str, name: str, subresource: str
) -> ApiError:
    """As the RBAC authorizer says it: by URL alone, so for kinds too that are not installed."""
    qualified = f"{kind}.{group}" if group else kind
    resource = f"{kind}/{subresource}" if subresource else kind
    which = f'{qualified} "{name}"' if name else qualified
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    message = f'{which} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{group}" {where}'
    details = {"name": name, "group": group, "kind": kind}
    return ApiError(403, "Forbidden", message, {field: value for field, value in details.items() if value})


def overloaded(code: int, retry_after_s: int | None) -> ApiError:
    """What a server in trouble says: 429, 500, 503 (others are told as a plain internal error)."""
    reasons = {429: "TooManyRequests", 503: "ServiceUnavailable"}
    messages = {
        429: "Too many requests, please try again later.",
        503: "apiserver is shutting down",
    }
    details = {"retryAfterSeconds": retry_after_s} if retry_after_s is not None else None
    message = messages.get(code, "Internal error occurred: etcdserver: request timed out")
    return ApiError(code, reasons.get(code, "InternalError"), message, details)
