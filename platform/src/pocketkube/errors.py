"""Errors of pocketkube.

PocketError
├── ApiError            answered as a Kubernetes Status; `code` and `reason` as in apimachinery
│   ├── NotFound            404
│   ├── AlreadyExists       409
│   ├── Conflict            409
│   ├── Expired             410
│   ├── Invalid             422 (names the field)
│   ├── BadRequest          400
│   ├── Unauthorized        401
│   ├── Forbidden           403
│   ├── UnsupportedMediaType 415
│   ├── ServiceUnavailable  503
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


class Forbidden(ApiError):
    """Understood, and not allowed in this state."""

    code, reason = 403, "Forbidden"


class UnsupportedMediaType(ApiError):
    """A body in a format that is not read here."""

    code, reason = 415, "UnsupportedMediaType"


class ServiceUnavailable(ApiError):
    """What should answer behind the API does not."""

    code, reason = 503, "ServiceUnavailable"


class TooManyRequests(ApiError):
    """Not now: a disruption budget would be broken."""

    code, reason = 429, "TooManyRequests"


class Unsupported(ApiError):
    """pocketkube does not do this; it says so."""

    code, reason = 501, "NotImplemented"


class Invalid(ApiError):
    """Fields have values that are not allowed; each cause is (field path, message, reason)."""

    code, reason = 422, "Invalid"

    def __init__(self, kind: str, name: str, field: str, message: str, cause: str = "FieldValueInvalid") -> None:
        self._tell(kind, name, [(field, message, cause)])

    @classmethod
    def of(cls, kind: str, name: str, causes: list[tuple[str, str, str]]) -> Invalid:
        """One error of all that is wrong with an object."""
        error = cls.__new__(cls)
        error._tell(kind, name, causes)
        return error

    def _tell(self, kind: str, name: str, causes: list[tuple[str, str, str]]) -> None:
        told = [f"{field}: {message}" for field, message, _ in causes]
        what = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
        details = [{"reason": cause, "message": message, "field": field} for field, message, cause in causes]
        super().__init__(f'{kind} "{name}" is invalid: {what}', {"name": name, "kind": kind.split(".")[0],
                         "group": kind.partition(".")[2], "causes": details})  # fmt: skip
