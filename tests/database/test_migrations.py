"""Migrations, as an administrator runs them: online, offline, up, down, and side by side."""

import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import item as crud
from service.database import create_engine
from service.domain.item import ItemFilter, ItemQuery
from service.embedded import embedded_postgres
from service.revision import ALEMBIC_INI, Revisions, load_revisions
from service.settings import Settings
from tests.support.commands import ROOT, clean_environment, run
from tests.support.database import TABLES, new_database
from tests.support.processes import holding, query, script
from tests.support.waiting import TIMEOUT, wait_until

SCRIPTS = ScriptDirectory.from_config(Config(ALEMBIC_INI))
REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()][::-1]
TRIGRAM_INDEX = "SELECT 1 FROM pg_indexes WHERE indexname = 'ix_items_name_trgm'"
TRIGRAMS_AVAILABLE = "SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'"


def alembic(url: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run("alembic", *arguments, env={"DATABASE_URL": url}, check=check)


def schema(url: str) -> list[tuple[Any, ...]]:
    """All that migrations have made, in PostgreSQL's words, but for what extensions brought."""
    return query(
        url,
        """
        SELECT 'column', format('%s.%s', table_name, column_name), concat_ws(
            ' ', data_type, numeric_precision, numeric_scale, collation_name, is_nullable,
            column_default, identity_generation)
        FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL
        SELECT 'constraint', conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL
        SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL
        SELECT 'function', proname, '' FROM pg_proc AS p
        WHERE pronamespace = 'public'::regnamespace AND NOT EXISTS (
            SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
        ORDER BY 1, 2, 3
        """,
    )


def revision_of(url: str) -> str | None:
    rows = query(url, "SELECT version_num FROM alembic_version")
    return rows[0][0] if rows else None


@pytest.fixture(scope="module")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The PostgreSQL of `items dev`, which has no extensions."""
    with embedded_postgres(tmp_path_factory.mktemp("embedded") / "data") as url:
        yield url


@pytest.fixture(scope="module")
def spare_url(server_url: str) -> Iterator[str]:
    """A database with the schema and demo items, for these tests alone."""
    with new_database(server_url) as url:
        run("items", "migrate", env={"DATABASE_URL": url})
        run("items", "seed", "--rows", "20000", env={"DATABASE_URL": url})
        query(url, "VACUUM ANALYZE items")  # what autovacuum does after a while
        yield url


@pytest.fixture
async def spare(spare_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to it, as the service's own are."""
    engine = create_engine(Settings(_env_file=None, database_url=spare_url))
    async with engine.connect() as conn:
        yield conn
    await engine.dispose()


def test_each_revision_goes_up_and_down_and_up(empty_database_url: str) -> None:
    url = empty_database_url
    before = schema(url)
    for revision in REVISIONS:
        alembic(url, "upgrade", revision)
        after = schema(url)
        alembic(url, "downgrade", "-1")
        assert [row for row in schema(url) if "alembic_version" not in row[1]] == before
        alembic(url, "upgrade", revision)

        assert revision_of(url) == revision
        assert schema(url) == after != before
        before = [row for row in after if "alembic_version" not in row[1]]

    alembic(url, "downgrade", "base")
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert query(url, tables) == [("alembic_version",)]
    assert revision_of(url) is None


def test_the_service_reads_the_revisions_that_alembic_does() -> None:
    assert load_revisions() == Revisions(REVISIONS[-1], frozenset(REVISIONS))


def test_check_finds_the_models_and_the_schema_equal(database_url: str) -> None:
    assert "No new upgrade operations detected" in alembic(database_url, "check").stdout


@pytest.mark.parametrize(
    ("change", "back"),
    [
        ("ALTER TABLE items ADD colour text", "ALTER TABLE items DROP colour"),
        (
            "ALTER TABLE items ALTER is_active SET DEFAULT false",
            "ALTER TABLE items ALTER is_active SET DEFAULT true",
        ),
        (
            "DROP INDEX ix_items_name_id",
            "CREATE INDEX ix_items_name_id ON items (name, id)",
        ),
    ],
)
def test_check_finds_a_difference(spare_url: str, change: str, back: str) -> None:
    script(spare_url, change)
    checked = alembic(spare_url, "check", check=False)
    script(spare_url, back)

    assert checked.returncode != 0
    assert "New upgrade operations detected" in checked.stdout + checked.stderr


def test_items_migrate_does_the_same(database_url: str, empty_database_url: str) -> None:
    run("items", "migrate", env={"DATABASE_URL": empty_database_url})

    assert schema(empty_database_url) == schema(database_url)
    assert revision_of(empty_database_url) == REVISIONS[-1]


@pytest.mark.parametrize("command", [("alembic", "upgrade", "head"), ("items", "migrate")])
def test_the_sql_printed_offline_makes_the_same_schema(
    database_url: str, empty_database_url: str, command: tuple[str, ...]
) -> None:
    sql = run(*command, "--sql", env={"DATABASE_URL": empty_database_url}).stdout
    assert query(empty_database_url, "SELECT FROM pg_tables WHERE schemaname = 'public'") == []

    script(empty_database_url, sql)

    assert schema(empty_database_url) == schema(database_url)
    assert revision_of(empty_database_url) == REVISIONS[-1]


def test_the_trigram_index_is_there_where_trigrams_are(database_url: str) -> None:
    assert query(database_url, TRIGRAM_INDEX) == query(database_url, TRIGRAMS_AVAILABLE)


def test_the_embedded_server_migrates_without_trigrams(embedded_url: str) -> None:
    assert query(embedded_url, TRIGRAMS_AVAILABLE) == []

    alembic(embedded_url, "upgrade", "head")

    assert query(embedded_url, TRIGRAM_INDEX) == []
    assert alembic(embedded_url, "check").returncode == 0
    offline = alembic(embedded_url, "upgrade", "head", "--sql").stdout
    with new_database(embedded_url) as url:
        script(url, offline)
        assert schema(url) == schema(embedded_url)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "''"),
        ("name", "'   '"),
        ("name", "repeat('x', 256)"),
        ("name", "NULL"),
        ("description", "repeat('x', 10001)"),
        ("price", "-0.01"),
        ("price", "'NaN'"),
        ("price", "'Infinity'"),
        ("price", "10000000000"),
        ("is_active", "NULL"),
        ("version", "0"),
        ("version", "NULL"),
        ("created_at", "NULL"),
        ("updated_at", "NULL"),
    ],
)
async def test_the_table_refuses_what_the_schema_does(
    conn: AsyncConnection, column: str, value: str
) -> None:
    await conn.execute(text("INSERT INTO items (name) VALUES ('Lamp')"))
    with pytest.raises(DBAPIError) as refused:
        await conn.execute(text(f"UPDATE items SET {column} = {value}"))

    assert getattr(refused.value.orig, "sqlstate", "")[:2] in ("22", "23")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "repeat('é', 255)"),
        ("description", "repeat('é', 10000)"),
        ("description", "''"),
        ("price", "0"),
        ("price", "9999999999.99"),
    ],
)
async def test_the_table_takes_what_the_schema_does(
    conn: AsyncConnection, column: str, value: str
) -> None:
    await conn.execute(text("INSERT INTO items (name) VALUES ('Lamp')"))
    await conn.execute(text(f"UPDATE items SET {column} = {value}"))


async def test_every_default_is_also_the_servers(conn: AsyncConnection) -> None:
    by_server = "INSERT INTO items (name) VALUES ('Bare') RETURNING *"
    row = (await conn.execute(text(by_server))).mappings().one()
    (item,) = await crud.create_many(conn, [{"name": "Bare"}])

    for column in ("description", "price", "is_active", "version", "created_at", "updated_at"):
        assert row[column] == getattr(item, column)


def test_migrators_wait_for_one_another(empty_database_url: str, database_url: str) -> None:
    url = empty_database_url
    (key,) = re.findall(
        r"^LOCK_KEY = (\S+)", (ROOT / "migrations/env.py").read_text(), re.MULTILINE
    )
    polling = """
        SELECT FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid() AND query LIKE '%pg_try_advisory_lock%'
    """

    with holding(url, f"SELECT pg_advisory_lock({key})"):
        migrators = [
            subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]],
                cwd=ROOT,
                env=clean_environment() | {"DATABASE_URL": url},
                stderr=subprocess.DEVNULL,
            )
            for command in (("alembic", "upgrade", "head"), ("items", "migrate"))
        ]
        wait_until(lambda: len(query(url, polling)) == 2)
        assert schema(url) == []
        # Nor do those that wait stand in the way of an index that is being built.
        script(url, "CREATE TABLE other (id int)")
        query(url, "CREATE INDEX CONCURRENTLY ON other (id)")
        script(url, "DROP TABLE other")
        assert [migrator.poll() for migrator in migrators] == [None, None]

    assert [migrator.wait(TIMEOUT) for migrator in migrators] == [0, 0]
    assert schema(url) == schema(database_url)


def test_a_schema_that_is_newer_than_the_code_is_left_alone(spare_url: str) -> None:
    """As after a rollback of the code: what starts after the migrator has to start."""
    script(spare_url, "UPDATE alembic_version SET version_num = 'f00d00000000'")
    before = schema(spare_url)
    migrated = run("items", "migrate", env={"DATABASE_URL": spare_url})

    assert "newer" in migrated.stderr
    assert schema(spare_url) == before
    assert revision_of(spare_url) == "f00d00000000"
    script(spare_url, f"UPDATE alembic_version SET version_num = '{REVISIONS[-1]}'")


def test_a_migration_that_does_not_get_its_lock_gives_up(spare_url: str) -> None:
    with holding(spare_url, f"BEGIN; LOCK TABLE {TABLES} IN ACCESS SHARE MODE"):
        downgraded = alembic(spare_url, "downgrade", "base", check=False)

    assert downgraded.returncode != 0
    assert "lock timeout" in downgraded.stderr
    assert revision_of(spare_url) == REVISIONS[-1]


def test_a_new_migration_is_named_by_its_date_and_sets_a_lock_timeout(
    tmp_path: Path, empty_database_url: str
) -> None:
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    ini = str(shutil.copy(ROOT / "alembic.ini", tmp_path))

    alembic(empty_database_url, "-c", ini, "revision", "-m", "Add a colour")

    (new,) = tmp_path.glob("migrations/versions/*_add_a_colour.py")
    assert re.match(r"20\d{6}_\d{4}_", new.name)
    assert new.read_text().count("SET LOCAL lock_timeout = '3s'") == 2
    alembic(empty_database_url, "-c", ini, "upgrade", "head")


@pytest.mark.parametrize(
    ("asked", "plan"),
    [
        (ItemQuery(), "Index Scan using pk_items"),
        (ItemQuery(sort="-id"), "Index Scan Backward using pk_items"),
        (ItemQuery(sort="name"), "Index Scan using ix_items_name_id"),
        (ItemQuery(sort="-name"), "Index Scan Backward using ix_items_name_id"),
        (ItemQuery(sort="price"), "Index Scan using ix_items_price_key_id"),
        (ItemQuery(sort="-price"), "Index Scan Backward using ix_items_price_key_id"),
        (ItemQuery(sort="created_at"), "Index Scan using ix_items_created_at_id"),
        (ItemQuery(sort="-created_at"), "Index Scan Backward using ix_items_created_at_id"),
        (ItemQuery(ItemFilter(is_active=False)), "Index Scan using ix_items_is_active_id"),
        (
            ItemQuery(ItemFilter(is_active=False), sort="-id"),
            "Index Scan Backward using ix_items_is_active_id",
        ),
        (ItemQuery(ItemFilter(q="LAMP 1234")), "Bitmap Index Scan on ix_items_name_trgm"),
    ],
)
async def test_an_index_serves_each_list(
    spare: AsyncConnection, asked: ItemQuery, plan: str
) -> None:
    if asked.filter.q and not await spare.scalar(text(TRIGRAMS_AVAILABLE)):
        pytest.skip("this server has no pg_trgm")
    sent: list[tuple[str, Any]] = []

    @event.listens_for(spare.engine.sync_engine, "before_cursor_execute")
    def note(conn: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        sent.append((statement, parameters))

    await crud.list_pages(spare, [asked])
    ((statement, parameters),) = sent
    explained = await spare.exec_driver_sql(f"EXPLAIN {statement}", parameters)

    assert plan in "\n".join(explained.scalars())
