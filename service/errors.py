"""Every error of the service, with its status and its kind.

    ServiceError                 500  internal-error
    +-- BadRequest               400  bad-request
    +-- Unauthorized             401  unauthorized
    +-- Forbidden                403  forbidden
    +-- NotFound                 404  not-found
    +-- NotAcceptable            406  not-acceptable
    +-- InProgress               409  in-progress
    +-- Conflict                 409  conflict
    +-- PreconditionFailed       412  precondition-failed
    +-- BodyTooLarge             413  body-too-large
    +-- UnsupportedMediaType     415  unsupported-media-type
    +-- InvalidInput             422  invalid-input
    +-- KeyReused                422  idempotency-key-reused
    +-- PreconditionRequired     428  precondition-required
    +-- Unavailable              503  unavailable
        +-- QueueFull            503  unavailable
        +-- TimedOut             503  timed-out

The first line of an error's docstring is the detail that its client reads. Their form
on the wire is in `service/http/problem.py`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from starlette.exceptions import HTTPException

MAX_ERRORS = 100  # that a response lists
RETRY_AFTER = 1  # seconds that a client should wait when the service cannot serve it


class ServiceError(HTTPException):
    """The service failed; the log has the reason under this request id."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        default = (type(self).__doc__ or "").split("\n", 1)[0]
        super().__init__(self.status, detail or default, headers)


class BadRequest(ServiceError):
    """The request is malformed."""

    status, kind, title = 400, "bad-request", "Bad request"


class Unauthorized(ServiceError):
    """An API key is required, as `Authorization: Bearer KEY`."""

    status, kind, title = 401, "unauthorized", "Unauthorized"


class Forbidden(ServiceError):
    """The API key lacks the scope that this operation requires."""

    status, kind, title = 403, "forbidden", "Forbidden"


class NotFound(ServiceError):
    """There is no such resource."""

    status, kind, title = 404, "not-found", "Not found"


class NotAcceptable(ServiceError):
    """None of the media types in `Accept` is available."""

    status, kind, title = 406, "not-acceptable", "Not acceptable"


class InProgress(ServiceError):
    """A request with this Idempotency-Key is in progress; try again shortly."""

    status, kind, title = 409, "in-progress", "In progress"

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": str(RETRY_AFTER)})


class Conflict(ServiceError):
    """The request conflicts with stored data, such as a value that must be unique."""

    status, kind, title = 409, "conflict", "Conflict"


class PreconditionFailed(ServiceError):
    """The resource has changed: its ETag is not in If-Match."""

    status, kind, title = 412, "precondition-failed", "Precondition failed"


class BodyTooLarge(ServiceError):
    """The request body is too large for this operation."""

    status, kind, title = 413, "body-too-large", "Body too large"


class UnsupportedMediaType(ServiceError):
    """This operation does not accept the media type of the body."""

    status, kind, title = 415, "unsupported-media-type", "Unsupported media type"


class InvalidInput(ServiceError):
    """The request is invalid; `errors` lists each place and reason.

    Args:
        errors: each with a `detail`, and a `pointer` into the body or the name of a `parameter`;
            the first 100 are listed.
    """

    status, kind, title = 422, "invalid-input", "Invalid input"

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        super().__init__()
        self.errors = errors[:MAX_ERRORS]


class KeyReused(ServiceError):
    """This Idempotency-Key was used with a different request."""

    status, kind, title = 422, "idempotency-key-reused", "Idempotency-Key reused"


class PreconditionRequired(ServiceError):
    """If-Match is required, with the ETag of the version that was read."""

    status, kind, title = 428, "precondition-required", "Precondition required"


class Unavailable(ServiceError):
    """The database is unavailable; try again shortly."""

    status, kind, title = 503, "unavailable", "Unavailable"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, {"Retry-After": str(RETRY_AFTER)})


class QueueFull(Unavailable):
    """The service is overloaded; try again shortly."""


class TimedOut(Unavailable):
    """The request timed out; whether its change was made is not known."""

    kind, title = "timed-out", "Timed out"
