"""Shared fixtures: a real PostgreSQL with the migrated schema, and the real application."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.database.engine import transactional
from service.main import create_app
from service.observability import metrics
from service.observability.logs import configure_logging
from service.settings import Settings
from service.state import state_of
from tests.support.apps import client_of
from tests.support.database import TABLES, docker_answers, migrate, new_database, server

# Its asserts show values, as those of test files do.
pytest.register_assert_rewrite("tests.support.resource_tests")

TIERS = ("soak", "faults", "clients")
SERVER = pytest.StashKey[tuple[str, str]]()
RUNNING = pytest.StashKey[ExitStack]()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the default tests in two processes; other tiers and chosen tests in this one."""
    is_whole = config.args_source == config.ArgsSource.TESTPATHS and not config.option.markexpr
    return 2 if is_whole and not config.option.collectonly else 0


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUNNING] = ExitStack()
    if worker_input := getattr(config, "workerinput", None):
        config.stash[SERVER] = worker_input["server"]
    elif not config.option.collectonly and not config.option.help:
        config.stash[SERVER] = config.stash[RUNNING].enter_context(server())


def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist which server runs; it creates its own databases there."""
    node.workerinput["server"] = node.config.stash[SERVER]


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
    """Leave out the tiers that `-m` does not name."""
    asked = config.option.markexpr
    for item in list(items):
        tier = next((name for name in TIERS if item.get_closest_marker(name)), None)
        if tier and tier not in asked:
            items.remove(item)
            config.hook.pytest_deselected(items=[item])
        if item.get_closest_marker("docker") and not docker_answers():
            item.add_marker(pytest.mark.skip(reason="Docker does not answer"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop that production runs on."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _default_log() -> None:
    """The log has its default form, whatever the test before has set."""
    configure_logging(Settings.model_construct())


@pytest.fixture(autouse=True)
def _fresh_scrapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scrape of an application in this process shows the present values."""
    monkeypatch.setattr(metrics, "SCRAPE_INTERVAL", 0.0)


@pytest.fixture(scope="session")
def server_url(pytestconfig: pytest.Config) -> str:
    """A database on the server that the tests run on."""
    return pytestconfig.stash[SERVER][1]


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    """The name of a migrated database, to create others from."""
    with new_database(server_url) as url:
        migrate(url)
        name = make_url(url).database
        assert name is not None
        yield name


@pytest.fixture(scope="session")
def database_url(server_url: str, template: str) -> Iterator[str]:
    """A migrated database that most tests share, one after the other."""
    with new_database(server_url, template) as url:
        yield url


@pytest.fixture
def own_database_url(server_url: str, template: str) -> Iterator[str]:
    """A migrated database for one test, which may change its schema."""
    with new_database(server_url, template) as url:
        yield url


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database for one test, without the schema."""
    with new_database(server_url) as url:
        yield url


@pytest.fixture
def settings(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The default settings on the tests' database; a test may change them before it needs `app`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return Settings(_env_file=None, database_url=database_url)


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application as production runs it, started, on an empty table."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        async with transactional(state_of(app).engine).begin() as conn:
            await conn.execute(text(f"TRUNCATE {TABLES} RESTART IDENTITY"))
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the application."""
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def conn(app: FastAPI) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction, rolled back after the test."""
    async with transactional(state_of(app).engine).connect() as conn:
        yield conn
