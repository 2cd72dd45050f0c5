"""Errors of pocketkube.

PocketError
├── ApiError            answered as a Kubernetes Status; `code` and `reason` as in apimachinery
│   ├── NotFound            404
│   ├── AlreadyExists       409
│   ├── Conflict            409
│   ├── Expired             410
│   ├── Invalid             422 (names the field)
│   ├── BadRequest          400
│   ├── TooManyRequests     429 (a disruption budget says no)
│   └── Unsupported         501 (names the verb)
├── ImageUnknown        no program for this image
└── StartError          the cluster cannot be started; has a hint
"""

from __future__ import annotations

from typing import Any


class PocketError(Exception):
    """Base of all errors of this package."""


class ImageUnknown(PocketError):
    """No program is known for this image."""


class StartError(PocketError):
    """The cluster cannot be started or reached."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ApiError(PocketError):
    """An error that a client of the API is told."""

    code = 500
    reason = "InternalError"

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}

    def status(self) -> dict[str, Any]:
        """The Status object for the body."""
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": str(self),
                "reason": self.reason, "details": self.details, "code": self.code}  # fmt: skip


class NotFound(ApiError):
    """There is no such object."""

    code, reason = 404, "NotFound"


class AlreadyExists(ApiError):
    """The name is taken."""

    code, reason = 409, "AlreadyExists"


class Conflict(ApiError):
    """The object changed in the meantime."""

    code, reason = 409, "Conflict"


class Expired(ApiError):
    """The watch asked for events that are no longer kept."""

    code, reason = 410, "Expired"


class BadRequest(ApiError):
    """The request cannot be understood."""

    code, reason = 400, "BadRequest"


class Unauthorized(ApiError):
    """No or a wrong bearer token."""

    code, reason = 401, "Unauthorized"


class TooManyRequests(ApiError):
    """Not now: a disruption budget would be broken."""

    code, reason = 429, "TooManyRequests"


class Unsupported(ApiError):
    """pocketkube does not do this; it says so."""

    code, reason = 501, "NotImplemented"


class Invalid(ApiError):
    """A field has a value that is not allowed; `field` is its path."""

    code, reason = 422, "Invalid"

    def __init__(self, kind: str, name: str, field: str, message: str, cause: str = "FieldValueInvalid") -> None:
        super().__init__(
            f'{kind} "{name}" is invalid: {field}: {message}',
            {"name": name, "kind": kind, "causes": [{"reason": cause, "message": message, "field": field}]},
        )
