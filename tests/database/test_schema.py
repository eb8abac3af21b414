"""The table of items: what its constraints accept, and its defaults."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import item as crud


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
