"""The SQL statements that an engine sends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import AdaptedConnection


@contextmanager
def recording_statements(engine: Engine) -> Iterator[list[str]]:
    """Yield a list of the statements that are sent, with the driver's BEGIN and COMMIT."""
    sent: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement)

    def watch(connection: AdaptedConnection, record: Any, proxy: Any) -> None:
        driver: Any = connection.driver_connection
        driver.add_query_logger(lambda query: sent.append(query.query))

    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "checkout", watch)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)
        event.remove(engine, "checkout", watch)
