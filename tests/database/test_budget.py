"""The connection budget: the connections that the workers may open, against those available."""

import json
import os
import secrets
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url
from structlog.testing import capture_logs
from structlog.typing import EventDict

from service.cli.budget import tell_connection_budget
from service.settings import Settings
from tests.support.commands import items
from tests.support.processes import connection, script

UNREACHABLE = "postgresql://me:hunter2@127.0.0.1:1/nothing"


@pytest.fixture
def settings(settings: Settings, own_database_url: str) -> Settings:
    """Three workers of 2 + 1 connections, on a database of the test's own."""
    settings.database_url = SecretStr(own_database_url)
    settings.web_concurrency, settings.pool_size, settings.max_overflow = 3, 2, 1
    return settings


@pytest.fixture
def limited_role(own_database_url: str) -> Iterator[str]:
    """The URL for a role that may have 4 connections."""
    role = f"items_test_{secrets.token_hex(6)}"
    script(own_database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'secret' CONNECTION LIMIT 4")
    url = make_url(own_database_url).set(username=role, password="secret")
    yield url.render_as_string(hide_password=False)
    script(own_database_url, f"DROP ROLE {role}")


async def logged(settings: Settings) -> EventDict:
    """Compare, and return the one line logged about it."""
    with capture_logs() as lines:
        await tell_connection_budget(settings)
    (line,) = lines
    return line


async def test_the_limit_of_the_server_is_logged_with_the_number_of_replicas(
    settings: Settings, own_database_url: str
) -> None:
    async with connection(own_database_url) as admin:
        rows = await admin.fetch(
            "SELECT name, setting::int FROM pg_settings"
            r" WHERE name ~ '^(max|superuser_reserved|reserved)_connections$'"
        )
    limits: dict[str, int] = dict(rows)
    available = limits.pop("max_connections") - sum(limits.values())

    assert await logged(settings) == {
        "event": "connection_budget",
        "log_level": "info",
        "needed": 9,
        "available": available,
        "replicas": available // 9,
    }


async def test_too_low_a_limit_of_the_role_is_a_warning_that_names_the_settings(
    settings: Settings, limited_role: str
) -> None:
    settings.database_url = SecretStr(limited_role)
    line = await logged(settings)

    assert (line["event"], line["log_level"]) == ("too_few_connections", "warning")
    assert (line["needed"], line["available"]) == (9, 4)
    for setting in ("WEB_CONCURRENCY", "POOL_SIZE", "MAX_OVERFLOW", "max_connections"):
        assert setting in line["hint"]


@pytest.mark.parametrize(("limit", "event"), [(9, "connection_budget"), (8, "too_few_connections")])
async def test_the_limit_of_the_database_counts(
    settings: Settings, own_database_url: str, limit: int, event: str
) -> None:
    async with connection(own_database_url) as admin:
        name = make_url(own_database_url).database
        await admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT {limit}")
    line = await logged(settings)

    assert (line["event"], line["available"]) == (event, limit)


async def test_without_a_database_the_limit_is_unknown(settings: Settings) -> None:
    settings.database_url = SecretStr(UNREACHABLE)

    assert await logged(settings) == {
        "event": "connection_budget_unknown",
        "log_level": "warning",
        "needed": 9,
        "error": "ConnectionRefusedError",
    }


@pytest.mark.parametrize("has_database", [True, False])
def test_serve_logs_the_budget_once_and_starts_in_any_case(
    database_url: str, monkeypatch: pytest.MonkeyPatch, has_database: bool
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments))
    url = database_url if has_database else UNREACHABLE
    ran = items("serve", env={"DATABASE_URL": url, "POOL_SIZE": "100000"})

    events = [json.loads(line)["event"] for line in ran.stderr.splitlines()]
    assert events == ["too_few_connections" if has_database else "connection_budget_unknown"]
    assert len(started) == 1
    assert "gunicorn" in started[0]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ("ALTER COLLATION folding RENAME TO other", "items migrate"),
        (
            'ALTER COLLATION folding RENAME TO other; CREATE COLLATION folding FROM "C"',
            "A to Z only",
        ),
    ],
)
def test_serve_warns_of_a_collation_that_is_missing_or_does_not_fold(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch, change: str, hint: str
) -> None:
    monkeypatch.setattr(os, "execv", lambda program, arguments: None)
    script(own_database_url, change)
    ran = items("serve", env={"DATABASE_URL": own_database_url})

    warning, budget = map(json.loads, ran.stderr.splitlines())
    assert (warning["event"], warning["level"]) == ("no_folding_collation", "warning")
    assert hint in warning["hint"]
    assert budget["event"] == "connection_budget"
