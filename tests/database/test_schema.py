"""The table of items: what its constraints accept, its defaults, and the indexes of lists."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import item as crud
from service.database.engine import create_engine
from service.domain.item import ItemFilter, ItemQuery
from service.settings import Settings
from tests.support.database import new_database
from tests.support.processes import query

TRIGRAMS_AVAILABLE = text("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'")


@pytest.fixture(scope="module")
def filled_url(server_url: str, template: str) -> Iterator[str]:
    """A database with as many items as an index needs to be worth its while."""
    with new_database(server_url, template) as url:
        query(
            url,
            """
            INSERT INTO items (name, price, is_active, created_at)
            SELECT 'Lamp ' || n, n % 1000, n % 10 > 0, now() - n * interval '1 minute'
            FROM generate_series(1, 20000) AS n
            """,
        )
        query(url, "VACUUM ANALYZE items")
        yield url


@pytest.fixture
async def filled(settings: Settings, filled_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to it, as the service's own are."""
    settings.database_url = SecretStr(filled_url)
    engine = create_engine(settings)
    async with engine.connect() as conn:
        yield conn
    await engine.dispose()


async def test_the_table_refuses_what_the_api_refuses(conn: AsyncConnection) -> None:
    await conn.execute(text("INSERT INTO items (name) VALUES ('Lamp')"))
    for assignment in [
        "name = ''",
        "name = '   '",
        "name = repeat('x', 256)",
        "name = NULL",
        "description = repeat('x', 10001)",
        "price = -0.01",
        "price = 'NaN'",
        "price = 'Infinity'",
        "price = 10000000000",
        "is_active = NULL",
        "version = 0",
        "version = NULL",
        "created_at = NULL",
        "updated_at = NULL",
    ]:
        with pytest.raises(DBAPIError) as refused:
            async with conn.begin_nested():
                await conn.execute(text(f"UPDATE items SET {assignment}"))
        assert getattr(refused.value.orig, "sqlstate", "")[:2] in ("22", "23"), assignment


async def test_the_table_accepts_what_the_api_accepts(conn: AsyncConnection) -> None:
    await conn.execute(text("INSERT INTO items (name) VALUES ('Lamp')"))
    for assignment in [
        "name = repeat('é', 255)",
        "description = repeat('é', 10000)",
        "description = ''",
        "price = 0",
        "price = 9999999999.99",
    ]:
        await conn.execute(text(f"UPDATE items SET {assignment}"))


async def test_the_server_has_the_same_defaults_as_the_service(conn: AsyncConnection) -> None:
    inserted = await conn.execute(text("INSERT INTO items (name) VALUES ('Bare') RETURNING *"))
    row = inserted.mappings().one()
    (item,) = await crud.create_many(conn, [{"name": "Bare"}])

    for column in ("description", "price", "is_active", "version", "created_at", "updated_at"):
        assert row[column] == getattr(item, column)


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        (ItemQuery(), "pk_items"),
        (ItemQuery(sort="name"), "ix_items_name_id"),
        (ItemQuery(sort="price"), "ix_items_price_key_id"),
        (ItemQuery(sort="created_at"), "ix_items_created_at_id"),
        (ItemQuery(ItemFilter(is_active=False)), "ix_items_is_active_id"),
    ],
)
@pytest.mark.parametrize("is_descending", [False, True])
async def test_an_index_serves_each_sort_of_a_list(
    filled: AsyncConnection, asked: ItemQuery, index: str, is_descending: bool
) -> None:
    asked = replace(asked, sort=f"-{asked.sort}") if is_descending else asked
    scan = "Index Scan Backward" if is_descending else "Index Scan"

    assert f"{scan} using {index} " in await plan_of(filled, asked)


async def test_the_trigram_index_serves_a_search(filled: AsyncConnection) -> None:
    if not await filled.scalar(TRIGRAMS_AVAILABLE):
        pytest.skip("this server has no pg_trgm")

    plan = await plan_of(filled, ItemQuery(ItemFilter(q="LAMP 1234")))
    assert "Bitmap Index Scan on ix_items_name_trgm" in plan


async def plan_of(conn: AsyncConnection, asked: ItemQuery) -> str:
    """Return PostgreSQL's plan for the statement of a list."""
    sent: list[tuple[str, Any]] = []

    @event.listens_for(conn.engine.sync_engine, "before_cursor_execute")
    def note(conn: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        sent.append((statement, parameters))

    await crud.list_pages(conn, [asked])
    ((statement, parameters),) = sent
    explained = await conn.exec_driver_sql(f"EXPLAIN {statement}", parameters)
    return "\n".join(explained.scalars())
