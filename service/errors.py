"""Every error of the service, with its status and its kind.

    ServiceError                 500  internal-error
    +-- BadRequest               400  bad-request
    +-- Unauthorized             401  unauthorized
    +-- Forbidden                403  forbidden
    +-- NotFound                 404  not-found
    +-- NotAcceptable            406  not-acceptable
    +-- InProgress               409  in-progress
    +-- PreconditionFailed       412  precondition-failed
    +-- BodyTooLarge             413  body-too-large
    +-- UnsupportedMediaType     415  unsupported-media-type
    +-- InvalidInput             422  invalid-input
    +-- KeyReused                422  idempotency-key-reused
    +-- PreconditionRequired     428  precondition-required
    +-- Unavailable              503  unavailable
        +-- TimedOut             503  timed-out

The first line of an error's docstring is what its client reads. `service/problem.py` has their one
form on the wire.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from starlette.exceptions import HTTPException

RETRY_AFTER = 1  # seconds; what a client should wait when the service cannot serve it now


class ServiceError(HTTPException):
    """Something went wrong in the service; the request id leads to the log line that says what."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        default = (type(self).__doc__ or "").split("\n", 1)[0]
        super().__init__(self.status, detail or default, headers)


class BadRequest(ServiceError):
    """The request is not well formed."""

    status, kind, title = 400, "bad-request", "Bad request"


class Unauthorized(ServiceError):
    """This takes an API key, as `Authorization: Bearer`."""

    status, kind, title = 401, "unauthorized", "Unauthorized"


class Forbidden(ServiceError):
    """The API key may not do this."""

    status, kind, title = 403, "forbidden", "Forbidden"


class NotFound(ServiceError):
    """There is nothing here."""

    status, kind, title = 404, "not-found", "Not found"


class NotAcceptable(ServiceError):
    """The service does not have this in a form that the request accepts."""

    status, kind, title = 406, "not-acceptable", "Not acceptable"


class InProgress(ServiceError):
    """A request with this Idempotency-Key is still being served; try again shortly."""

    status, kind, title = 409, "in-progress", "In progress"

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": str(RETRY_AFTER)})


class PreconditionFailed(ServiceError):
    """It has changed since: its ETag is none of those in If-Match."""

    status, kind, title = 412, "precondition-failed", "Precondition failed"


class BodyTooLarge(ServiceError):
    """The request's body is larger than this service takes."""

    status, kind, title = 413, "body-too-large", "Body too large"


class UnsupportedMediaType(ServiceError):
    """The body is of a type that this operation does not take."""

    status, kind, title = 415, "unsupported-media-type", "Unsupported media type"


class InvalidInput(ServiceError):
    """The request does not have the form that this operation takes; `errors` says where and why.

    Each of `errors` has a `detail`, and a `pointer` into the body or the name of a `parameter`.
    """

    status, kind, title = 422, "invalid-input", "Invalid input"

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        super().__init__()
        self.errors = errors


class KeyReused(ServiceError):
    """This Idempotency-Key came with another request before."""

    status, kind, title = 422, "idempotency-key-reused", "Idempotency-Key reused"


class PreconditionRequired(ServiceError):
    """This takes If-Match, with the ETag that was read."""

    status, kind, title = 428, "precondition-required", "Precondition required"


class Unavailable(ServiceError):
    """The database does not answer at the moment; try again shortly."""

    status, kind, title = 503, "unavailable", "Unavailable"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, {"Retry-After": str(RETRY_AFTER)})


class TimedOut(Unavailable):
    """It took longer than a request may; whether what it asked for was done is not known."""

    kind, title = "timed-out", "Timed out"
