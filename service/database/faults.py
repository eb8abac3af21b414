"""What PostgreSQL's and the driver's errors mean: bad data, a lost connection, nothing done."""

from collections.abc import Iterator

import structlog
from asyncpg.exceptions import (
    AdminShutdownError,
    InterfaceError,
    InternalClientError,
    PostgresError,
)
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

logger = structlog.get_logger(__name__)

READ_ONLY = "25006"  # read_only_sql_transaction


class Unreachable(Exception):
    """No connection to the database could be made, or it did not answer in time.

    It stands for the `OSError` or `TimeoutError` of the driver, which other code may raise as well.
    """


# What is raised when the database, or the connection to it, fails.
FAULTS = (
    *(DBAPIError, PoolTimeoutError, InvalidRequestError),
    *(PostgresError, InterfaceError, InternalClientError, Unreachable),
)


def log_fault(fault: Exception) -> None:
    """Log that a request met one of `FAULTS`.

    Raises:
        InvalidRequestError: `fault` is a defect in this code, not a fault of the database.
    """
    if isinstance(fault, InvalidRequestError) and not is_refused(fault):
        raise fault
    cause = fault.__cause__ if isinstance(fault, Unreachable) and fault.__cause__ else fault
    fields = {"error": type(cause).__name__, "sqlstate": sqlstate(fault)}
    if constraint := _constraint(fault):
        fields["constraint"] = constraint
    logger.warning("database_fault", **fields)


def _constraint(fault: BaseException) -> str | None:
    """Return the name of the constraint that a statement violated."""
    cause = fault.orig.__cause__ if isinstance(fault, DBAPIError) and fault.orig else fault
    return getattr(cause, "constraint_name", None)


def message(fault: BaseException) -> str:
    """Return the first line of what PostgreSQL or the driver said, for the user of a command."""
    if isinstance(fault, DBAPIError) and fault.orig:
        fault = fault.orig
    return str(fault).partition("\n")[0]


def sqlstate(fault: BaseException | None) -> str | None:
    """Return PostgreSQL's five-character code for `fault`; None if the server sent none."""
    if isinstance(fault, DBAPIError):
        fault = fault.orig
    return getattr(fault, "sqlstate", None)


def is_data_fault(fault: Exception) -> bool:
    """Return whether a row does not fit its column (class 22) or breaks a constraint (23)."""
    return (sqlstate(fault) or "")[:2] in ("22", "23")


def is_lost(fault: Exception) -> bool:
    """Return whether the connection was lost during a statement: its effect is then unknown."""
    if sqlstate(fault) == READ_ONLY:  # its connection is dropped, too
        return False
    if isinstance(fault, DBAPIError) and fault.connection_invalidated:
        return True
    return (
        isinstance(fault, InterfaceError)
        or is_refused(fault)
        or ((sqlstate(fault) or "").startswith(("08", "57P")))
    )


def is_refused(fault: Exception) -> bool:
    """Return whether the pool gave up because the server ended each new connection at once."""
    return isinstance(fault, InvalidRequestError) and str(fault) == "This connection is closed"


def is_undone(fault: Exception) -> bool:
    """Return whether a request that met `fault` certainly changed nothing, and may be repeated.

    Four cases: no usable connection was available; a migration changed a type under a prepared
    statement, which happens once per process; the server refused to write, as after a failover; or
    an administrator ended the connection. PostgreSQL does that between statements, or rolls the
    statement back, but never between a commit and its acknowledgement.
    """
    if not isinstance(fault, DBAPIError):
        return is_refused(fault)
    if sqlstate(fault) == READ_ONLY:
        return True
    return any(map(_undoes, _causes(fault.orig)))


def _causes(fault: BaseException | None) -> Iterator[BaseException]:
    while fault:
        yield fault
        fault = fault.__cause__


def _undoes(cause: BaseException) -> bool:
    return (
        isinstance(cause, AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError | AdminShutdownError)
        # The connection ended before the statement was sent.
        or (isinstance(cause, InternalClientError) and "cannot switch to state" in str(cause))
    )
