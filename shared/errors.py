"""One hierarchy of errors, each with a stable code and a status; `shared.web` renders them as RFC 9457 problems.

Input is never echoed: messages name the field and the rule, not the value (patient data, tokens).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One refused field: dotted path, stable code, sentence for a person."""

    field: str
    code: str
    message: str


def told(errors: Iterable[FieldError]) -> list[dict[str, str]]:
    """Refused fields as they are answered, and kept with what waits for a person."""
    return [{"field": one.field, "code": one.code, "message": one.message} for one in errors]


class Problem(Exception):
    """An answer that is not a success. `code` is what programs read, `detail` what people read."""

    status = 500
    code = "internal_error"
    title = "Internal error"

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.code = code or self.code
        self.detail = detail or self.title
        self.errors = tuple(errors)
        self.headers = headers or {}


class BadRequest(Problem):
    status, code, title = 400, "malformed", "The request cannot be read"


class Unauthenticated(Problem):
    status, code, title = 401, "unauthenticated", "A valid access token is required"


class Forbidden(Problem):
    status, code, title = 403, "forbidden", "Your role does not allow this"


class LocationForbidden(Forbidden):
    """R2, D10: the same answer for a location that exists and one that does not."""

    code, title = "location_forbidden", "You do not have access to a requested location"


class NotFound(Problem):
    """D11: one answer, byte for byte, for what is absent and what is another company's."""

    status, code, title = 404, "not_found", "There is no such object"


class NotAcceptable(Problem):
    status, code, title = 406, "not_acceptable", "None of the accepted media types can be given"


class Conflict(Problem):
    status, code, title = 409, "conflict", "The request conflicts with the current state"


class PayloadTooLarge(Problem):
    status, code, title = 413, "too_large", "The body is larger than allowed"


class UnsupportedMediaType(Problem):
    status, code, title = 415, "unsupported_media_type", "The content type is not supported here"


class ExpectationFailed(Problem):
    status, code, title = 417, "expectation_failed", "Nothing but 100-continue can be expected"


class Invalid(Problem):
    """The request is readable but one or more fields are refused; nothing was stored."""

    status, code, title = 422, "invalid", "One or more fields are not acceptable"

    @classmethod
    def field(cls, field: str, code: str, message: str) -> Invalid:
        """The common case: one field, and its code is the problem's code too."""
        return cls(message, code=code, errors=(FieldError(field, code, message),))


class Unavailable(Problem):
    status, code, title = 503, "unavailable", "Temporarily unavailable, try again"

    def __init__(self, detail: str = "", *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)})


class TooManyRequests(Problem):
    status, code, title = 429, "too_many_requests", "Too many requests, slow down"

    def __init__(self, detail: str = "", *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)})
