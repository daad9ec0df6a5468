"""The errors: a docstring is the default message, a class sets the HTTP status and the code."""

from __future__ import annotations

from typing import ClassVar


class VptError(Exception):
    """The server could not handle the request; its log has the details."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        """Store one sentence for people; `retry_after` (seconds) becomes `Retry-After`."""
        self.message = message or (self.__doc__ or "").strip()
        self.retry_after = retry_after
        super().__init__(self.message)


class BadRequestError(VptError):
    """The request is malformed."""

    status, code = 400, "bad_request"


class InvalidError(VptError):
    """Some fields are not valid."""

    status, code = 400, "invalid"

    def __init__(self, errors: dict[str, object]) -> None:
        """Store messages as marshmallow makes them: by field name a list of sentences."""
        super().__init__()
        self.errors = errors


class NoTokenError(VptError):
    """No token provided"""

    status, code = 401, "no_token"


class InvalidTokenError(VptError):
    """Invalid token"""

    status, code = 401, "invalid_token"


class ForbiddenError(VptError):
    """Your role does not allow this."""

    status, code = 403, "forbidden"


class NotFoundError(VptError):
    """The requested object does not exist."""

    status, code = 404, "not_found"


class NotRegisteredError(VptError):
    """The host is not registered: register it first."""

    status, code = 404, "not_registered"


class ConflictError(VptError):
    """The current state does not allow this."""

    status, code = 409, "conflict"


class ReplacedError(ConflictError):
    """Another host has this name now: give this one a name of its own, or stop the other."""

    code = "replaced"


class KeyReusedError(VptError):
    """This Idempotency-Key was already used with a different body; use a new key."""

    status, code = 409, "idempotency_conflict"


class NotQueuedError(VptError):
    """The execution is not queued any more."""

    status, code = 409, "not_queued"


class PreconditionError(VptError):
    """The object was changed since you read it: read it again."""

    status, code = 412, "precondition_failed"


class TooLargeError(VptError):
    """The body is too large."""

    status, code = 413, "too_large"


class UnprocessableError(VptError):
    """The request names something that does not exist."""

    status, code = 422, "unprocessable"


class NothingFitsError(UnprocessableError):
    """No registered host has a device that could run this."""

    code = "nothing_fits"


class LockedError(VptError):
    """The device is leased by somebody else."""

    status, code = 423, "locked"


class UnavailableError(VptError):
    """The service cannot do this now: try again in a moment."""

    status, code = 503, "unavailable"

    def __init__(self, message: str | None = None, *, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class DatabaseAwayError(UnavailableError):
    """The database does not answer: try again in a moment."""

    code = "database_away"


class DatabaseBusyError(DatabaseAwayError):
    """The database answers, but it cannot do this now: try again in a moment."""


class SlowStatementError(DatabaseAwayError):
    """The database answers, but not this statement in time: try again in a moment."""


class HostUnreachableError(UnavailableError):
    """The host is not reachable."""

    code = "host_unreachable"


class BadGatewayError(VptError):
    """The response of the host was not understood."""

    status, code = 502, "host_error"


class ActionTimeoutError(VptError):
    """The action did not finish in time."""

    status, code = 504, "action_timeout"
