"""Items in the database: every crud function, with sets of none, one and many."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.crud import item as crud
from service.domain.item import Item, ItemFilter, ItemQuery

LAMP: dict[str, Any] = {
    "name": "Lamp",
    "description": "Warm",
    "price": Decimal("29.99"),
    "is_active": False,
}
NONE = 999_999  # an id that no item has


async def create(conn: AsyncConnection, *names: str) -> list[Item]:
    return await crud.create_many(conn, [{"name": name} for name in names])


async def names_of(conn: AsyncConnection, **values: Any) -> list[str]:
    """The names on the page that a query with these values asks for."""
    (page,) = await crud.list_pages(conn, [ItemQuery(ItemFilter(**values))])
    return [item.name for item in page.items]


@contextmanager
def statements(conn: AsyncConnection) -> Iterator[list[str]]:
    """The statements that are sent meanwhile."""
    sent: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement)

    event.listen(conn.engine.sync_engine, "before_cursor_execute", note)
    yield sent
    event.remove(conn.engine.sync_engine, "before_cursor_execute", note)


async def test_create_stores_what_was_given(conn: AsyncConnection) -> None:
    (item,) = await crud.create_many(conn, [LAMP])

    assert [item] == await crud.get_many(conn, [item.id])
    assert {name: getattr(item, name) for name in LAMP} == LAMP
    assert item.version == 1
    assert item.created_at == item.updated_at
    assert item.created_at.utcoffset() == timedelta(0)


async def test_create_fills_in_the_defaults(conn: AsyncConnection) -> None:
    (item,) = await create(conn, "Bare")

    assert (item.description, item.price, item.is_active) == (None, None, True)


async def test_create_answers_in_the_order_given_with_growing_ids(conn: AsyncConnection) -> None:
    names = [f"Thing {number * 7919 % 500}" for number in range(500)]

    created = await create(conn, *names)

    assert [item.name for item in created] == names
    ids = [item.id for item in created]
    assert ids == sorted(set(ids))


async def test_create_takes_mixed_and_equal_rows(conn: AsyncConnection) -> None:
    rows = [LAMP, {"name": "Bare"}, LAMP, {"name": "Free", "price": Decimal(0)}]

    created = await crud.create_many(conn, rows)

    assert [item.name for item in created] == ["Lamp", "Bare", "Lamp", "Free"]
    assert [item.price for item in created] == [Decimal("29.99"), None, Decimal("29.99"), 0]
    assert len({item.id for item in created}) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"name": None},
        {"description": "x" * 10_001},
        {"price": Decimal("-0.01")},
        {"price": Decimal("NaN")},
        {"is_active": None},
    ],
)
async def test_a_row_that_breaks_a_constraint_stores_none_of_its_set(
    conn: AsyncConnection, wrong: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError):
        async with conn.begin_nested():
            await crud.create_many(conn, [LAMP, LAMP | wrong, LAMP])

    assert await names_of(conn) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a\x00b"},
        {"name": "\ud800"},
        {"name": 5},
        {"price": Decimal("10000000000")},
        {"price": Decimal("Infinity")},
    ],
)
async def test_a_row_that_does_not_fit_its_column_stores_none_of_its_set(
    conn: AsyncConnection, wrong: dict[str, Any]
) -> None:
    with pytest.raises(DBAPIError):
        async with conn.begin_nested():
            await crud.create_many(conn, [LAMP, LAMP | wrong, LAMP])

    assert await names_of(conn) == []


async def test_get_answers_at_each_ids_place(conn: AsyncConnection) -> None:
    one, two = await create(conn, "One", "Two")

    found = await crud.get_many(conn, [two.id, NONE, one.id, two.id, -1])

    assert found == [two, None, one, two, None]


async def test_get_knows_the_bounds_of_int64(conn: AsyncConnection) -> None:
    assert await crud.get_many(conn, [2**63 - 1, -(2**63)]) == [None, None]
    with pytest.raises(DBAPIError):
        await crud.get_many(conn, [2**63])


async def test_update_sets_the_values_and_steps_the_version(conn: AsyncConnection) -> None:
    one, two, three = await create(conn, "One", "Two", "Three")
    values = {"price": Decimal("5.00"), "description": "Both"}

    changed = await crud.update_many(conn, [three.id, NONE, one.id], values)

    assert [item and item.name for item in changed] == ["Three", None, "One"]
    for item in (changed[0], changed[2]):
        assert item is not None
        assert (item.price, item.description, item.version) == (Decimal("5.00"), "Both", 2)
    assert await crud.get_many(conn, [three.id, two.id]) == [changed[0], two]


async def test_update_changes_an_item_that_is_named_twice_once(conn: AsyncConnection) -> None:
    (item,) = await create(conn, "One")

    first, second = await crud.update_many(conn, [item.id, item.id], {"name": "Uno"})

    assert first == second
    assert first is not None
    assert first.version == 2


async def test_update_moves_the_time_of_the_last_change_only(conn: AsyncConnection) -> None:
    (item,) = await create(conn, "One")
    await conn.commit()

    (changed,) = await crud.update_many(conn, [item.id], {"name": "Uno"})

    assert changed is not None
    assert changed.created_at == item.created_at
    assert changed.updated_at > item.updated_at


@pytest.mark.parametrize("wrong", [{"name": ""}, {"price": Decimal(-1)}, {"is_active": None}])
async def test_an_update_that_breaks_a_constraint_changes_none(
    conn: AsyncConnection, wrong: dict[str, Any]
) -> None:
    created = await create(conn, "One", "Two")

    with pytest.raises(IntegrityError):
        async with conn.begin_nested():
            await crud.update_many(conn, [item.id for item in created], wrong)

    assert await crud.get_many(conn, [item.id for item in created]) == created


async def test_deactivate_keeps_the_item_and_steps_its_version_once(conn: AsyncConnection) -> None:
    one, two = await create(conn, "One", "Two")

    assert await crud.deactivate_many(conn, [one.id]) == {one.id}
    assert await crud.deactivate_many(conn, [two.id, NONE, one.id, two.id]) == {one.id, two.id}

    for item in await crud.get_many(conn, [one.id, two.id]):
        assert item is not None
        assert (item.is_active, item.version) == (False, 2)


async def test_delete_answers_with_what_was_there(conn: AsyncConnection) -> None:
    one, two, three = await create(conn, "One", "Two", "Three")

    assert await crud.delete_many(conn, [one.id, NONE, three.id, one.id]) == {one.id, three.id}
    assert await crud.delete_many(conn, [one.id]) == set()
    assert await crud.get_many(conn, [one.id, two.id, three.id]) == [None, two, None]


async def test_copy_stores_what_create_would(conn: AsyncConnection) -> None:
    rows = [LAMP, {"name": "Bare"}]
    created = await crud.create_many(conn, rows)

    await crud.copy_many(conn, (row for row in rows))

    (page,) = await crud.list_pages(conn, [ItemQuery()])
    copied = page.items[2:]
    for copy, original in zip(copied, created, strict=True):
        copy.id = original.id
    assert copied == created


async def test_a_copy_is_part_of_the_transaction(conn: AsyncConnection) -> None:
    await crud.copy_many(conn, [LAMP])
    await conn.rollback()

    assert await names_of(conn) == []


async def test_empty_sets_are_fine(conn: AsyncConnection) -> None:
    await crud.copy_many(conn, [])
    assert await crud.create_many(conn, []) == []
    assert await crud.get_many(conn, []) == []
    assert await crud.update_many(conn, [], {"name": "Never"}) == []
    assert await crud.deactivate_many(conn, []) == set()
    assert await crud.delete_many(conn, []) == set()
    assert await crud.list_pages(conn, []) == []


async def test_a_set_costs_one_statement(conn: AsyncConnection) -> None:
    ids = [item.id for item in await create(conn, "One", "Two", "Three")]

    with statements(conn) as sent:
        await crud.create_many(conn, [LAMP, LAMP, LAMP])
        await crud.get_many(conn, ids)
        await crud.update_many(conn, ids, {"name": "Uno"})
        await crud.list_pages(conn, [ItemQuery(page=1), ItemQuery(page=2, per_page=5), ItemQuery()])
        await crud.deactivate_many(conn, ids)
        await crud.delete_many(conn, ids)

    assert len(sent) == 6


async def test_a_session_serves_as_well_as_a_connection(conn: AsyncConnection) -> None:
    async with AsyncSession(conn) as session:
        (item,) = await crud.create_many(session, [LAMP])
        assert await crud.update_many(session, [item.id], {"name": "Uno"}) != [item]
        assert len((await crud.list_pages(session, [ItemQuery()]))[0].items) == 1
        assert await crud.deactivate_many(session, [item.id]) == {item.id}
        assert await crud.delete_many(session, [item.id]) == {item.id}
        assert await crud.get_many(session, [item.id]) == [None]


async def test_list_answers_each_query_at_its_place(conn: AsyncConnection) -> None:
    await create(conn, *"abcdefg")
    await crud.create_many(conn, [{"name": "Off", "is_active": False}])

    queries = [
        ItemQuery(page=2, per_page=3),
        ItemQuery(sort="-name", per_page=2),
        ItemQuery(page=9),
        ItemQuery(ItemFilter(is_active=False)),
        ItemQuery(per_page=3),
        ItemQuery(ItemFilter(q="B")),
        ItemQuery(ItemFilter(is_active=True, q="off")),
        ItemQuery(page=2, per_page=3),
    ]
    pages = await crud.list_pages(conn, queries)

    assert ["".join(item.name for item in page.items) for page in pages] == [
        "def",
        "gf",
        "",
        "Off",
        "abc",
        "b",
        "",
        "def",
    ]
    assert [page.total for page in pages] == [8, 8, 8, 1, 8, 1, 0, 8]
    assert not any(page.total_capped for page in pages)


async def test_list_runs_one_statement_for_each_shape(conn: AsyncConnection) -> None:
    with statements(conn) as sent:
        await crud.list_pages(
            conn,
            [
                ItemQuery(),
                ItemQuery(sort="-price"),
                ItemQuery(page=3),
                ItemQuery(sort="-price", per_page=1),
            ],
        )

    assert len(sent) == 2


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("id", "b2 a1 a2 c- b1 a-"),
        ("name", "a1 a2 a- b2 b1 c-"),
        ("price", "a1 b1 b2 a2 c- a-"),
        ("created_at", "b2 a1 a2 c- b1 a-"),  # one statement made them: all tie
    ],
)
async def test_a_sort_breaks_ties_by_id_and_a_minus_is_its_exact_reverse(
    conn: AsyncConnection, sort: str, order: str
) -> None:
    given = [("b", "2"), ("a", "1"), ("a", "2"), ("c", "-"), ("b", "1"), ("a", "-")]
    rows = [
        {"name": name, "price": None if price == "-" else Decimal(price)} for name, price in given
    ]
    created = await crud.create_many(conn, rows)
    shown = {item.id: name + price for item, (name, price) in zip(created, given, strict=True)}

    pages = await crud.list_pages(conn, [ItemQuery(sort=sort), ItemQuery(sort=f"-{sort}")])
    forward, backward = ([shown[item.id] for item in page.items] for page in pages)

    assert forward == order.split()
    assert backward == forward[::-1]


async def test_pages_cover_a_list_with_ties_without_gap_or_overlap(conn: AsyncConnection) -> None:
    await crud.create_many(conn, [{"name": "Same"} for _ in range(25)])

    queries = [ItemQuery(page=page, per_page=10, sort="-name") for page in (1, 2, 3)]
    pages = await crud.list_pages(conn, queries)

    assert [len(page.items) for page in pages] == [10, 10, 5]
    assert len({item.id for page in pages for item in page.items}) == 25


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("LAMP", ["Desk lamp"]),
        ("sk la", ["Desk lamp"]),
        ("%", ["50% off"]),
        ("_", ["snake_case"]),
        ("\\", ["back\\slash"]),
        ("50_", []),
        ("ß", ["Große ÄPFEL"]),
        ("äpfel", ["Große ÄPFEL"]),
        (" ", ["Desk lamp", "50% off", "Große ÄPFEL"]),
        ("", ["Desk lamp", "50% off", "snake_case", "back\\slash", "Große ÄPFEL"]),
        ("nothing has this", []),
    ],
)
async def test_q_is_a_literal_part_of_the_name_in_either_case(
    conn: AsyncConnection, q: str, found: list[str]
) -> None:
    await create(conn, "Desk lamp", "50% off", "snake_case", "back\\slash", "Große ÄPFEL")

    assert await names_of(conn, q=q) == found


@pytest.mark.parametrize(
    ("is_active", "found"), [(None, ["On", "Off"]), (True, ["On"]), (False, ["Off"])]
)
async def test_list_shows_deactivated_items_unless_told(
    conn: AsyncConnection, is_active: bool | None, found: list[str]
) -> None:
    await crud.create_many(conn, [{"name": "On"}, {"name": "Off", "is_active": False}])

    assert await names_of(conn, is_active=is_active) == found


@pytest.mark.parametrize(
    ("rows", "total", "is_capped"), [(10_000, 10_000, False), (10_001, 10_000, True)]
)
async def test_the_total_is_exact_up_to_10000_and_stops_there(
    conn: AsyncConnection, rows: int, total: int, is_capped: bool
) -> None:
    await crud.copy_many(conn, ({"name": "Many"} for _ in range(rows)))

    last, past = await crud.list_pages(
        conn, [ItemQuery(page=rows, per_page=1), ItemQuery(page=rows + 1, per_page=1)]
    )

    assert len(last.items) == 1
    assert past.items == []
    for page in (last, past):
        assert (page.total, page.total_capped) == (total, is_capped)
