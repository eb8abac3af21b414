"""The PostgreSQL that the tests run on: a given one, else a container, else the embedded one."""

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from testcontainers.community.postgres import PostgresContainer

from service.embedded import embedded_postgres
from service.settings import Settings

ROOT = Path(__file__).parents[1]
IMAGE = "postgres:17"


@cache
def docker_answers() -> bool:
    """Whether there is a Docker engine to talk to."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@contextmanager
def server() -> Iterator[tuple[str, str]]:
    """Run, or find, a server. Yields what it is, and the address of a database on it."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield "the server of TEST_DATABASE_URL", url
    elif docker_answers():
        with PostgresContainer(IMAGE, driver=None) as container:
            yield f"{IMAGE} in a container", container.get_connection_url()
    else:
        with tempfile.TemporaryDirectory() as folder, embedded_postgres(Path(folder, "pg")) as url:
            yield "the embedded PostgreSQL, as Docker does not answer", url


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """An empty database on the server, dropped afterwards. Yields its address."""
    name = f"items_test_{secrets.token_hex(6)}"
    asyncio.run(_administer(server_url, f"CREATE DATABASE {name}"))
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        asyncio.run(_administer(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _administer(server_url: str, statement: str) -> None:
    url = make_url(server_url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as conn:
        await conn.execute(text(statement))
    await engine.dispose()


def run(*command: str, env: dict[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a documented command, as `uv run` would, from the project's root."""
    program = Path(sys.executable).parent / command[0]
    return subprocess.run(
        [str(program), *command[1:]],
        cwd=ROOT,
        env=clean_environment() | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=check,
    )


# What has coverage trace a process that is started: it then takes longer, and grows.
TRACING = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


def clean_environment() -> dict[str, str]:
    """This process's environment without any setting of the service."""
    settings = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in settings}
