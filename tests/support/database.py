"""The PostgreSQL that the tests run on: a given one, else a container, else the embedded one."""

import asyncio
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import make_url
from testcontainers.community.postgres import PostgresContainer

from service.cli.embedded import embedded_postgres
from service.database.revision import ALEMBIC_INI
from service.models import Base
from service.settings import get_settings

IMAGE = "postgres:17"
# The tests of crashes use another server.
UNSAFE = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200")
TABLES = ", ".join(Base.metadata.tables)


@cache
def docker_answers() -> bool:
    """Return whether a Docker engine is available."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@contextmanager
def server() -> Iterator[tuple[str, str]]:
    """Run or find a server; yield its description and the URL of a database on it."""
    with ExitStack() as stack:
        if url := os.environ.get("TEST_DATABASE_URL"):
            yield "the server of TEST_DATABASE_URL", url
            return
        # These servers have no TLS. Where asyncpg asks for it, and its caller gives up meanwhile, a
        # future is left whose exception nobody reads, which is an error in a test.
        os.environ["PGSSLMODE"] = "disable"
        why = "Docker does not answer"
        if docker_answers():
            try:
                url = stack.enter_context(_container()).get_connection_url()
                yield f"{IMAGE} in a container", url
                return
            except ContainerFailed as exc:
                why = str(exc)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()), "pg")
        yield f"the embedded PostgreSQL, as {why}", stack.enter_context(embedded_postgres(folder))


class ContainerFailed(Exception):
    """Docker answers and cannot run the image, such as without access to a registry."""


@contextmanager
def _container() -> Iterator[PostgresContainer]:
    container = PostgresContainer(IMAGE, driver=None).with_command(["postgres", *UNSAFE])
    try:
        container.start()
    except Exception as exc:
        with suppress(Exception):
            container.stop()
        reason = str(exc).partition("\n")[0]
        raise ContainerFailed(f"Docker cannot run {IMAGE}: {reason}") from exc
    try:
        yield container
    finally:
        container.stop()


@contextmanager
def new_database(server_url: str, template: str = "template1", options: str = "") -> Iterator[str]:
    """Create a database from the one named `template`; yield its URL and drop it afterwards.

    Args:
        options: further ones of CREATE DATABASE, such as a locale; the template is then template0.
    """
    name = f"items_test_{secrets.token_hex(6)}"
    administer(server_url, f"CREATE DATABASE {name} TEMPLATE {template} {options}")
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        administer(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def administer(server_url: str, statement: str) -> None:
    """Run one statement outside a transaction."""

    async def execute() -> None:
        conn = await asyncpg.connect(server_url)
        try:
            await conn.execute(statement)
        finally:
            await conn.close()

    asyncio.run(execute())


def migrate(url: str, revision: str = "head") -> None:
    """Run the migrations up to `revision`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        get_settings.cache_clear()
        try:
            command.upgrade(Config(ALEMBIC_INI), revision)
        finally:
            get_settings.cache_clear()
