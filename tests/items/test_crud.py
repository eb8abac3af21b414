"""Every function of crud/item.py, with sets of none, one and many."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.crud import item as crud
from service.domain.item import Item, ItemFilter, ItemQuery
from tests.support.statements import recording_statements

LAMP: dict[str, Any] = {
    "name": "Lamp",
    "description": "Warm",
    "price": Decimal("29.99"),
    "is_active": False,
}
BARE = {"name": "Bare"}
NONE = 999_999  # an id that no item has


async def create(conn: AsyncConnection, *names: str) -> list[Item]:
    return await crud.create_many(conn, [{"name": name} for name in names])


async def all_items(conn: AsyncConnection) -> list[Item]:
    (page,) = await crud.list_pages(conn, [ItemQuery()])
    return page.items


async def test_create_stores_the_values_given_and_the_defaults(conn: AsyncConnection) -> None:
    lamp, bare = await crud.create_many(conn, [LAMP, BARE])

    assert await crud.get_many(conn, [lamp.id, bare.id]) == [lamp, bare]
    assert {name: getattr(lamp, name) for name in LAMP} == LAMP
    assert (bare.description, bare.price, bare.is_active) == (None, None, True)
    assert lamp.version == 1
    assert lamp.created_at == lamp.updated_at
    assert lamp.created_at.utcoffset() == timedelta(0)


async def test_create_returns_items_in_the_order_given_with_ascending_ids(
    conn: AsyncConnection,
) -> None:
    names = [f"Thing {number * 7919 % 50}" for number in range(100)]  # each name twice

    created = await create(conn, *names)

    assert [item.name for item in created] == names
    ids = [item.id for item in created]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    "wrong",
    [{"name": ""}, {"is_active": None}, {"name": "a\x00b"}, {"price": Decimal("10000000000")}],
)
async def test_create_with_a_bad_row_stores_none_of_its_set(
    conn: AsyncConnection, wrong: dict[str, Any]
) -> None:
    with pytest.raises(DBAPIError):
        async with conn.begin_nested():
            await crud.create_many(conn, [LAMP, LAMP | wrong, LAMP])

    assert await all_items(conn) == []


async def test_get_returns_each_item_at_the_place_of_its_id(conn: AsyncConnection) -> None:
    one, two = await create(conn, "One", "Two")

    found = await crud.get_many(conn, [two.id, NONE, one.id, two.id, -1])

    assert found == [two, None, one, two, None]


async def test_get_takes_every_int64_and_no_more(conn: AsyncConnection) -> None:
    assert await crud.get_many(conn, [2**63 - 1, -(2**63)]) == [None, None]
    with pytest.raises(DBAPIError):
        await crud.get_many(conn, [2**63])


async def test_update_changes_each_item_once_and_no_other(conn: AsyncConnection) -> None:
    one, two, three = await create(conn, "One", "Two", "Three")
    values = {"price": Decimal("5.00"), "description": "Both"}

    changed = await crud.update_many(conn, [three.id, NONE, one.id, three.id], values)

    assert [item and item.name for item in changed] == ["Three", None, "One", "Three"]
    for item in (changed[0], changed[2]):
        assert item is not None
        assert (item.price, item.description, item.version) == (Decimal("5.00"), "Both", 2)
    assert await all_items(conn) == [changed[2], two, changed[0]]


async def test_deactivate_keeps_the_item_and_increments_its_version_once(
    conn: AsyncConnection,
) -> None:
    one, two = await create(conn, "One", "Two")

    assert await crud.deactivate_many(conn, [one.id]) == {one.id}
    assert await crud.deactivate_many(conn, [two.id, NONE, one.id, two.id]) == {one.id, two.id}

    for item in await all_items(conn):
        assert (item.is_active, item.version) == (False, 2)


async def test_delete_returns_the_ids_that_existed(conn: AsyncConnection) -> None:
    one, two, three = await create(conn, "One", "Two", "Three")

    assert await crud.delete_many(conn, [one.id, NONE, three.id, one.id]) == {one.id, three.id}
    assert await crud.delete_many(conn, [one.id]) == set()
    assert await all_items(conn) == [two]


async def test_copy_stores_what_create_would(conn: AsyncConnection) -> None:
    created = await crud.create_many(conn, [LAMP, BARE])

    await crud.copy_many(conn, iter([LAMP, BARE]))

    copied = (await all_items(conn))[2:]
    for copy, original in zip(copied, created, strict=True):
        copy.id = original.id
    assert copied == created


async def test_each_function_takes_an_empty_set(conn: AsyncConnection) -> None:
    await crud.copy_many(conn, [])
    assert await crud.create_many(conn, []) == []
    assert await crud.get_many(conn, []) == []
    assert await crud.update_many(conn, [], {"name": "Never"}) == []
    assert await crud.deactivate_many(conn, []) == set()
    assert await crud.delete_many(conn, []) == set()
    assert await crud.list_pages(conn, []) == []


async def test_a_set_costs_one_statement(conn: AsyncConnection) -> None:
    ids = [item.id for item in await create(conn, "One", "Two", "Three")]

    with recording_statements(conn.engine.sync_engine) as sent:
        await crud.create_many(conn, [LAMP, LAMP, LAMP])
        await crud.get_many(conn, ids)
        await crud.update_many(conn, ids, {"name": "Uno"})
        await crud.deactivate_many(conn, ids)
        await crud.delete_many(conn, ids)

    assert len(sent) == 5


async def test_a_session_works_like_a_connection(conn: AsyncConnection) -> None:
    async with AsyncSession(conn) as session:
        (item,) = await crud.create_many(session, [LAMP])
        assert await crud.update_many(session, [item.id], {"name": "Uno"}) != [item]
        assert len((await crud.list_pages(session, [ItemQuery()]))[0].items) == 1
        assert await crud.deactivate_many(session, [item.id]) == {item.id}
        assert await crud.delete_many(session, [item.id]) == {item.id}
        assert await crud.get_many(session, [item.id]) == [None]


async def test_list_returns_each_page_at_the_place_of_its_query(conn: AsyncConnection) -> None:
    await create(conn, *"abcdefg")
    await crud.create_many(conn, [{"name": "Off", "is_active": False}])

    expected = [
        (ItemQuery(page=2, per_page=3), "def", 8),
        (ItemQuery(sort="-name", per_page=2), "gf", 8),
        (ItemQuery(page=9), "", 8),
        (ItemQuery(ItemFilter(is_active=False)), "Off", 1),
        (ItemQuery(per_page=3), "abc", 8),
        (ItemQuery(ItemFilter(is_active=True, q="off")), "", 0),
        (ItemQuery(page=2, per_page=3), "def", 8),
    ]
    with recording_statements(conn.engine.sync_engine) as sent:
        pages = await crud.list_pages(conn, [query for query, _, _ in expected])

    for page, (_, names, total) in zip(pages, expected, strict=True):
        assert "".join(item.name for item in page.items) == names
        assert (page.total, page.total_capped) == (total, False)
    assert len(sent) == 4  # one for each combination of filter and sort
