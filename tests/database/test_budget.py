"""The connection budget: what the workers may open, against what the database has."""

import secrets
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url
from structlog.testing import capture_logs
from structlog.typing import EventDict

from service.budget import tell_connection_budget
from service.settings import Settings
from tests.support.processes import query, running, script


@pytest.fixture
def settings(settings: Settings, empty_database_url: str) -> Settings:
    """Three workers of 2 + 1 connections, on a database of the test's own."""
    settings.database_url = SecretStr(empty_database_url)
    settings.web_concurrency, settings.pool_size, settings.max_overflow = 3, 2, 1
    return settings


@pytest.fixture
def server_has(empty_database_url: str) -> int:
    """The connections that the server has for everyone."""
    ((most, *reserved),) = query(
        empty_database_url,
        """
        SELECT current_setting('max_connections')::int,
            current_setting('superuser_reserved_connections')::int,
            current_setting('reserved_connections', true)::int
        """,
    )
    return int(most - sum(filter(None, reserved)))


@pytest.fixture
def limited_role(empty_database_url: str) -> Iterator[str]:
    """The address for a role that may have 4 connections."""
    role = f"items_test_{secrets.token_hex(6)}"
    script(empty_database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'secret' CONNECTION LIMIT 4")
    url = make_url(empty_database_url).set(username=role, password="secret")
    yield url.render_as_string(hide_password=False)
    script(empty_database_url, f"DROP ROLE {role}")


@pytest.fixture
def limited_database(settings: Settings, empty_database_url: str, limit: int) -> Settings:
    """The settings on a database that may have `limit` connections."""
    name = make_url(empty_database_url).database
    script(empty_database_url, f"ALTER DATABASE {name} CONNECTION LIMIT {limit}")
    return settings


async def told(settings: Settings) -> EventDict:
    """The line that the start logs about it."""
    with capture_logs() as lines:
        await tell_connection_budget(settings)
    (line,) = lines
    return line


async def test_where_there_is_room_it_says_for_how_many_replicas(
    settings: Settings, server_has: int
) -> None:
    assert await told(settings) == {
        "event": "connection_budget",
        "log_level": "info",
        "needed": 9,
        "available": server_has,
        "replicas": server_has // 9,
    }


async def test_exactly_enough_is_enough(settings: Settings, server_has: int) -> None:
    settings.web_concurrency, settings.pool_size, settings.max_overflow = 1, server_has, 0

    assert (await told(settings))["event"] == "connection_budget"


async def test_where_there_are_too_few_it_says_what_to_change(
    settings: Settings, server_has: int
) -> None:
    settings.web_concurrency, settings.pool_size, settings.max_overflow = 1, server_has, 1
    line = await told(settings)

    assert (line["event"], line["log_level"]) == ("too_few_connections", "warning")
    assert (line["needed"], line["available"]) == (server_has + 1, server_has)
    for setting in ("WEB_CONCURRENCY", "POOL_SIZE", "MAX_OVERFLOW", "max_connections"):
        assert setting in line["hint"]


async def test_a_limit_of_the_role_counts(settings: Settings, limited_role: str) -> None:
    settings.database_url = SecretStr(limited_role)
    line = await told(settings)

    assert (line["event"], line["needed"], line["available"]) == ("too_few_connections", 9, 4)


@pytest.mark.parametrize(("limit", "event"), [(9, "connection_budget"), (8, "too_few_connections")])
async def test_a_limit_of_the_database_counts(
    limited_database: Settings, limit: int, event: str
) -> None:
    line = await told(limited_database)

    assert (line["event"], line["available"]) == (event, limit)


async def test_without_a_database_it_is_unknown(settings: Settings) -> None:
    settings.database_url = SecretStr("postgresql://me:hunter2@127.0.0.1:1/nothing")

    assert await told(settings) == {
        "event": "connection_budget_unknown",
        "log_level": "warning",
        "needed": 9,
        "error": "ConnectionRefusedError",
    }


def test_the_service_says_it_once_when_it_starts(database_url: str) -> None:
    environment = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2", "POOL_SIZE": "100000"}
    with running("serve", env=environment) as server:
        assert len(server.events("too_few_connections")) == 1


def test_the_service_starts_without_a_database() -> None:
    environment = {"DATABASE_URL": "postgresql://127.0.0.1:1/nothing", "WEB_CONCURRENCY": "1"}
    with running("serve", env=environment) as server:
        assert len(server.events("connection_budget_unknown")) == 1
