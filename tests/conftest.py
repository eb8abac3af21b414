"""What the tests share: a real PostgreSQL with the migrated schema, and the real application."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service import database
from service.database import transactional
from service.main import create_app
from service.models import Base
from service.settings import Settings
from tests.database import docker_answers, new_database, run, server

TABLES = ", ".join(Base.metadata.tables)
SERVER = pytest.StashKey[tuple[str, str]]()
RUNNING = pytest.StashKey[ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUNNING] = ExitStack()
    if not config.option.collectonly and not config.option.help:
        config.stash[SERVER] = config.stash[RUNNING].enter_context(server())


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[RUNNING].close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    if SERVER not in config.stash:
        return []
    lines = [f"database: {config.stash[SERVER][0]}"]
    if not docker_answers():
        lines.append("LEFT OUT: the tests marked `docker`, as Docker does not answer")
    return lines


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    if not docker_answers():
        for item in items:
            if item.get_closest_marker("docker"):
                # Told in the run's header, too: these are the tests of containers.
                item.add_marker(pytest.mark.skip(reason="Docker does not answer"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop that production runs on."""
    return "asyncio"


@pytest.fixture(scope="session")
def server_url(pytestconfig: pytest.Config) -> str:
    """A database on the server that the tests run on."""
    return pytestconfig.stash[SERVER][1]


@pytest.fixture(scope="session")
def database_url(server_url: str) -> Iterator[str]:
    """A database with the schema, made by the migrations."""
    with new_database(server_url) as url:
        run("alembic", "upgrade", "head", env={"DATABASE_URL": url})
        yield url


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database of the test's own, with nothing in it."""
    with new_database(server_url) as url:
        yield url


@pytest.fixture
def settings(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The default settings on the tests' database; a test may change them before it needs `app`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return Settings(_env_file=None, database_url=database_url)


def bear_locks(settings: Settings, monkeypatch: pytest.MonkeyPatch, seconds: float) -> Settings:
    """Let a service bear the locks and the crowds of a test for as long as a busy machine takes.

    Args:
        seconds: that a request may wait for a connection.
    """
    monkeypatch.setattr(database, "LOCK_TIMEOUT_MS", 60_000)
    settings.statement_timeout_ms = 60_000
    settings.pool_timeout = seconds
    return settings


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application as production runs it, started, on an empty table."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        async with transactional(app.state.engine).begin() as conn:
            await conn.execute(text(f"TRUNCATE {TABLES} RESTART IDENTITY"))
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the application."""
    async with client_of(app) as client:
        yield client


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """An HTTP client of `app`, which is started already."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Start `app` for as long as it is needed. Yields an HTTP client of it."""
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield client


@pytest.fixture
async def conn(app: FastAPI) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction, rolled back after the test."""
    async with transactional(app.state.engine).connect() as conn:
        yield conn
