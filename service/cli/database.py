"""The database of a command."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import click
from asyncpg.exceptions import PostgresError
from sqlalchemy.exc import DBAPIError

from service.cli.embedded import embedded_postgres
from service.database.faults import Unreachable, message
from service.settings import get_settings


@contextmanager
def database() -> Iterator[None]:
    """Provide a database: that of DATABASE_URL, or the embedded one."""
    with ExitStack() as stack:
        if get_settings().database_url is None:
            os.environ["DATABASE_URL"] = stack.enter_context(embedded_postgres())
            get_settings.cache_clear()
        try:
            yield
        except (OSError, Unreachable, DBAPIError, PostgresError) as exc:
            raise click.ClickException(f"The database: {message(exc)}") from exc
