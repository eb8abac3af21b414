"""The migrator: what it waits for, what it repeats, and what it refuses."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError

from service.database import migrator
from service.database.engine import create_migrator_engine
from service.settings import Settings
from tests.support.commands import items, run
from tests.support.database import migrate, new_database
from tests.support.processes import holding, query, script

NO_DATABASE = "postgresql://127.0.0.1:1/nothing"
TRIGRAM_INDEX = "SELECT 1 FROM pg_indexes WHERE indexname = 'ix_items_name_trgm'"
TRIGRAMS_AVAILABLE = "SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'"


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between attempts, few attempts, and frequent looks at locks."""
    monkeypatch.setattr(migrator, "ATTEMPTS", 2)
    monkeypatch.setattr(migrator, "PAUSE", 0)
    monkeypatch.setattr(migrator, "POLL", 0.01)


@pytest.fixture
def restricted_url(empty_database_url: str) -> Iterator[str]:
    """The database, as a role that owns its schema and may not create extensions."""
    role = f"items_test_{secrets.token_hex(6)}"
    name = make_url(empty_database_url).database
    script(empty_database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'test'")
    script(empty_database_url, f"ALTER SCHEMA public OWNER TO {role}")
    script(empty_database_url, f"REVOKE CREATE ON DATABASE {name} FROM PUBLIC")
    url = make_url(empty_database_url).set(username=role, password="test")
    yield url.render_as_string(hide_password=False)
    script(empty_database_url, f"DROP OWNED BY {role} CASCADE")
    script(empty_database_url, f"DROP ROLE {role}")


def events(result: Result, event: str) -> list[dict[str, Any]]:
    """Return the lines of one event in the log of a command."""
    lines = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_an_owner_who_may_not_create_extensions_migrates_without_the_trigram_index(
    restricted_url: str, empty_database_url: str
) -> None:
    if not query(restricted_url, TRIGRAMS_AVAILABLE):
        pytest.skip("the server has no pg_trgm")
    result = items("migrate", env={"DATABASE_URL": restricted_url})

    assert result.exit_code == 0
    (line,) = events(result, "database_warning")
    assert "ix_items_name_trgm" in line["detail"]
    assert "permission denied" in line["detail"]
    assert query(restricted_url, TRIGRAM_INDEX) == []
    assert items("migrate", env={"DATABASE_URL": restricted_url}).exit_code == 0

    # As docs/operations.md says.
    script(empty_database_url, "CREATE EXTENSION pg_trgm")
    script(
        restricted_url,
        "CREATE INDEX CONCURRENTLY ix_items_name_trgm ON items"
        " USING gin (lower(name COLLATE folding) gin_trgm_ops)",
    )
    assert query(restricted_url, TRIGRAM_INDEX) == [(1,)]


def test_an_extension_in_another_schema_does_not_stop_the_migration(
    empty_database_url: str,
) -> None:
    if not query(empty_database_url, TRIGRAMS_AVAILABLE):
        pytest.skip("the server has no pg_trgm")
    script(empty_database_url, "CREATE SCHEMA others")
    script(empty_database_url, "CREATE EXTENSION pg_trgm SCHEMA others")
    result = items("migrate", env={"DATABASE_URL": empty_database_url})

    assert result.exit_code == 0
    assert len(events(result, "database_warning")) == 1


def test_a_database_without_a_collation_that_folds_is_migrated_with_a_warning(
    server_url: str,
) -> None:
    with new_database(server_url, "template0", "ENCODING 'SQL_ASCII' LOCALE 'C'") as url:
        result = items("migrate", env={"DATABASE_URL": url})
        assert query(url, "SELECT lower('LAMP' COLLATE folding)") == [("lamp",)]

    assert result.exit_code == 0
    (line,) = events(result, "database_warning")
    assert "the letters A to Z only" in line["detail"]


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize(("state", "attempts"), [("40P01", 2), ("55P03", 2), ("22000", 1)])
async def test_a_deadlock_and_a_lock_timeout_are_repeated(
    settings: Settings, state: str, attempts: int
) -> None:
    """A deadlock ends the migrator that meets the index of one that was killed."""
    made: list[int] = []

    def fail_once(conn: Connection) -> None:
        made.append(1)
        if len(made) == 1:
            conn.exec_driver_sql(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")

    engine = create_migrator_engine(settings)
    with nullcontext() if attempts == 2 else pytest.raises(DBAPIError):
        await migrator.run_alone(engine, fail_once, lambda conn: set())
    await engine.dispose()

    assert len(made) == attempts


@pytest.mark.usefixtures("hurry")
def test_the_log_names_who_holds_a_lock(own_database_url: str) -> None:
    url = own_database_url
    migrate(url, "head")
    script(url, "DROP TABLE idempotency_keys")
    script(url, "UPDATE alembic_version SET version_num = '8b2e5d90c413'")
    # The migration waits for the uncommitted table of the same name.
    with holding(url, "SET application_name = 'a report'; BEGIN; CREATE TABLE idempotency_keys ()"):
        result = items("migrate", env={"DATABASE_URL": url})

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: Gave up after 2 attempts")
    assert len(events(result, "migration_repeated")) == 2
    assert {line["application_name"] for line in events(result, "migration_waits")} == {"a report"}


def test_a_migrator_that_waits_for_another_gives_up(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrator, "MAX_WAIT", 0)
    monkeypatch.setattr(migrator, "POLL", 0)
    lock = f"SET application_name = 'another'; SELECT pg_advisory_lock({migrator.LOCK_KEY})"
    with holding(empty_database_url, lock):
        result = items("migrate", env={"DATABASE_URL": empty_database_url})

    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        1,
        "Error: Another migrator still runs after 0 s",
    )
    (line,) = events(result, "another_migrator_runs")
    assert line["application_name"] == "another"


async def test_a_migrator_has_a_name(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[Any] = []
    find = migrator._log_new

    async def note(event: str, guard: Any, *rest: Any) -> list[int]:
        names.append(await guard.scalar(text("SHOW application_name")))
        return await find(event, guard, *rest)

    monkeypatch.setattr(migrator, "_log_new", note)
    await asyncio.to_thread(items, "migrate", env={"DATABASE_URL": empty_database_url})

    assert set(names) == {"items-migrate"}


@pytest.mark.parametrize("command", [("alembic", "current"), ("items", "migrate")])
def test_an_unavailable_database_is_one_line(command: tuple[str, ...]) -> None:
    ran = run(*command, env={"DATABASE_URL": NO_DATABASE}, check=False)

    assert ran.returncode != 0
    (line,) = (ran.stdout + ran.stderr).splitlines()
    assert "The database: " in line
