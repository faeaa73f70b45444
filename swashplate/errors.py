"""One tree of errors; each carries a code, a sentence, a hint and whether trying again can help.

Over HTTP an error is ``{"error": sentence, "code": code, "hint": hint}`` with the class's status; on the command line it
is the sentence and the hint on stderr and a non-zero exit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:  # what raises our errors need not have pydantic: provision/provision_smq.py runs with any python3
    from pydantic import ValidationError


class SwashplateError(Exception):
    """The root. ``code`` is for programs, the sentence for people, ``hint`` says what to do next."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self, sentence: str, *, code: str | None = None, hint: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code or self.default_code
        self.hint = hint
        self.retryable = self.default_retryable if retryable is None else retryable

    def as_json(self) -> dict[str, Any]:
        """The one HTTP shape."""
        body: dict[str, Any] = {"error": self.sentence, "code": self.code}
        if self.hint:
            body["hint"] = self.hint
        return body


class InvalidRequestError(SwashplateError):
    """The request itself is wrong; sending it again changes nothing."""

    status = 400
    default_code = "invalid_request"


class UnauthorizedError(SwashplateError):
    status = 401
    default_code = "unauthorized"


class ForbiddenError(SwashplateError):
    status = 403
    default_code = "forbidden"


class NotFoundError(SwashplateError):
    status = 404
    default_code = "not_found"


class ConflictError(SwashplateError):
    status = 409
    default_code = "conflict"


class TooLargeError(SwashplateError):
    status = 413
    default_code = "too_large"


class UnavailableError(SwashplateError):
    """Something we need does not answer now."""

    status = 503
    default_code = "unavailable"
    default_retryable = True


class ConfigurationError(SwashplateError):
    """A setting is missing or wrong; the process cannot start."""

    default_code = "configuration"


class IntegrityError(SwashplateError):
    """Bytes that do not have the digest they were announced with."""

    status = 502
    default_code = "digest_mismatch"
    default_retryable = True


BY_STATUS: dict[int, type[SwashplateError]] = {
    c.status: c
    for c in (
        InvalidRequestError,
        UnauthorizedError,
        ForbiddenError,
        NotFoundError,
        ConflictError,
        TooLargeError,
        UnavailableError,
    )
}


def from_validation(error: ValidationError, what: str = "body") -> InvalidRequestError:
    """Name the first wrong field and the reason, in one sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "json_invalid":
        return InvalidRequestError(f"{what} is not valid JSON: {message}", code="malformed_json")
    sentence = f"{what}: field {where}: {message}{more}" if where else f"{what}: {message}{more}"
    return InvalidRequestError(sentence)
